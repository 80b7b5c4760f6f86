#include "server/http.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace kvant::server {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// How often a wait looks whether the server stops.
constexpr milliseconds kGlance{250};
/// Of a connection that is closed while its client may still be sending.
constexpr std::chrono::seconds kFarewell{1};

/// Compares all bytes whatever the first ones are, so that the time tells nothing but the length.
bool same_secret(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

/// The name or address of a Host header or of an option: without port, brackets, and a dot at the end, in lower case.
std::string host_name(std::string_view host) {
  const bool bracketed = host.starts_with('[');  // an IPv6 address
  const std::size_t end = host.find(bracketed ? ']' : ':'), colon = host.rfind(':');
  if (bracketed && end != std::string_view::npos && (end + 1 == host.size() || colon == end + 1)) {
    host = host.substr(1, end - 1);
  } else if (!bracketed && end == colon) {
    host = host.substr(0, end);
  }
  if (host.ends_with('.')) host.remove_suffix(1);
  std::string name(host);
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return name;
}

/// The events that a socket is ready for within a time; 0 when there are none.
short poll_socket(int socket, short events, milliseconds wait) {
  pollfd entry{socket, events, 0};
  const int ready = ::poll(&entry, 1, static_cast<int>(std::max<milliseconds::rep>(wait.count(), 0)));
  return ready > 0 ? entry.revents : short{0};
}

/// The bytes of one connection, with limits on how many a request may have and how long it may take.
class Connection : public httplib::Stream {
 public:
  Connection(socket_t socket, const HttpServer::Options& options) : socket_(socket), options_(options) {}

  /// A new request begins: its time and bytes count from here.
  void begin_request() {
    deadline_ = Clock::now() + options_.read_timeout;
    left_ = options_.header_bytes + options_.path_bytes;
    unread_ = true;
  }
  /// The headers have been read: what follows is a body of at most so many bytes.
  void begin_body() { left_ = options_.body_bytes + options_.header_bytes; }
  /// Nothing of the request is left to read.
  void end_body() { unread_ = false; }
  bool unread() const { return unread_; }

  /// Whether the client has not closed its side.
  bool alive() const {
    const short events = poll_socket(socket_, POLLIN | POLLRDHUP, milliseconds(0));
    return (events & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) == 0;
  }

  /// Waits for the first byte of a request.
  bool wait(milliseconds most, const std::function<bool()>& go_on) const {
    const auto end = Clock::now() + most;
    while (at_ == size_) {
      const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
      if (left.count() <= 0 || !go_on()) return false;
      if (const short events = poll_socket(socket_, POLLIN, std::min(left, kGlance))) return (events & POLLIN) != 0;
    }
    return true;
  }

  /// Takes what the client still sends, for a time at most: a socket that is closed with bytes unread would take the
  /// response off the client again.
  void discard(milliseconds most) {
    const auto end = Clock::now() + most;
    for (;;) {
      const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
      if (left.count() <= 0 || poll_socket(socket_, POLLIN, left) == 0) return;
      if (::recv(socket_, buffer_, sizeof buffer_, 0) <= 0) return;
    }
  }

  bool is_readable() const override { return at_ < size_ || poll_socket(socket_, POLLIN, milliseconds(0)) != 0; }
  bool is_writable() const override { return alive(); }

  ssize_t read(char* to, std::size_t count) override {
    if (at_ == size_ && !fill()) return -1;
    const std::size_t n = std::min(count, size_ - at_);
    std::memcpy(to, buffer_ + at_, n);
    at_ += n;
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* from, std::size_t count) override {
    const auto deadline = Clock::now() + options_.write_timeout;
    for (std::size_t sent = 0; sent < count;) {
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
      if (left.count() <= 0 || (poll_socket(socket_, POLLOUT, left) & POLLOUT) == 0) return -1;
      const ssize_t n = ::send(socket_, from + sent, count - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EINTR && errno != EAGAIN) return -1;
      if (n > 0) sent += static_cast<std::size_t>(n);
    }
    return static_cast<ssize_t>(count);
  }

  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool fill() {
    if (left_ == 0) return false;
    const auto wait = std::chrono::duration_cast<milliseconds>(deadline_ - Clock::now());
    if (wait.count() <= 0 || poll_socket(socket_, POLLIN, wait) == 0) return false;
    const ssize_t n = ::recv(socket_, buffer_, std::min(sizeof buffer_, left_), 0);
    if (n <= 0) return false;
    at_ = 0;
    size_ = static_cast<std::size_t>(n);
    left_ -= size_;
    return true;
  }

  socket_t socket_;
  const HttpServer::Options& options_;
  Clock::time_point deadline_ = {};
  std::size_t left_ = 0;  // bytes that the request may still have
  bool unread_ = false;
  std::size_t at_ = 0, size_ = 0;  // of what has been received and not been read
  char buffer_[4096];
};

/// How a handler that httplib calls gets from the request to its connection.
struct Link {
  Connection* connection;
  bool operator()(std::uint64_t, std::uint64_t) const { return connection->alive(); }
};

Connection& connection_of(const httplib::Request& request) { return *request.progress.target<Link>()->connection; }

/// Threads for connections, one each, up to a limit. A connection more is given to the calling thread, which refuses
/// it.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  ConnectionThreads(std::size_t most, std::atomic<std::size_t>& active)
      : most_(most), active_(active), threads_(most) {}

  void enqueue(std::function<void()> serve) override {
    if (active_ >= most_) return serve();
    ++active_;
    threads_.enqueue([this, serve = std::move(serve)] {
      serve();
      --active_;
    });
  }
  void shutdown() override { threads_.shutdown(); }

 private:
  std::size_t most_;
  std::atomic<std::size_t>& active_;
  httplib::ThreadPool threads_;
};

}  // namespace

/// httplib parses and writes; the sockets, their limits and their timeouts are ours.
struct HttpServer::Impl : httplib::Server {
  HttpServer::Options options;
  HttpServer::Handler handler;
  HttpServer::ErrorBody error_body;
  int port = 0;
  std::atomic<std::size_t> active{0};
  std::atomic<bool> stopping{false}, started{false}, ended{false};
  std::atomic<std::thread::id> accepting{};

  Impl(HttpServer::Options o, HttpServer::Handler h, HttpServer::ErrorBody e);
  void bind();
  void fail(httplib::Response& response, int status, std::string_view message) const;
  bool refuse(const httplib::Request& request, httplib::Response& response) const;
  bool refuse_body(const httplib::Request& request, httplib::Response& response) const;
  bool meant_for_us(const httplib::Request& request) const;
  bool authorized(const httplib::Request& request) const;
  void answer(const httplib::Request& request, httplib::Response& response) const;
  bool process_and_close_socket(socket_t socket) override;
  void serve(Connection& connection);
  void turn_away(Connection& connection) const;
};

HttpServer::Impl::Impl(HttpServer::Options o, HttpServer::Handler h, HttpServer::ErrorBody e)
    : options(std::move(o)), handler(std::move(h)), error_body(std::move(e)) {
  for (std::string& host : options.hosts) host = host_name(host);
  new_task_queue = [this] { return new ConnectionThreads(options.connections, active); };
  set_payload_max_length(options.body_bytes);
  set_tcp_nodelay(true);
  set_keep_alive_timeout(options.idle_timeout.count());  // as clients are told
  set_keep_alive_max_count(1'000'000);
  // Not httplib's SO_REUSEPORT, with which two servers may share a port without noticing.
  set_socket_options([](socket_t socket) {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  });
  set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    return refuse(request, response) ? HandlerResponse::Handled : HandlerResponse::Unhandled;
  });
  const auto serve_request = [this](const httplib::Request& request, httplib::Response& response) {
    answer(request, response);
  };
  Get(".*", serve_request);
  Post(".*", serve_request);
  // What httplib itself finds wrong has no body yet.
  set_error_handler(HandlerWithResponse([this](const httplib::Request&, httplib::Response& response) {
    if (response.body.empty()) {
      fail(response, response.status,
           response.status == 413 ? "the body is too large" : "the request is malformed or its headers too large");
    }
    return HandlerResponse::Handled;
  }));
}

void HttpServer::Impl::bind() {
  errno = 0;
  port = options.port;
  if (port == 0) {
    port = bind_to_any_port(options.host);
  } else if (!bind_to_port(options.host, port)) {
    port = -1;
  }
  KVANT_CHECK(port > 0, ErrorCode::io, "cannot listen on {} port {}: {}", options.host, options.port,
              errno != 0 ? std::strerror(errno) : "no such address");
  ::listen(svr_sock_, SOMAXCONN);  // httplib lets five wait
}

void HttpServer::Impl::fail(httplib::Response& response, int status, std::string_view message) const {
  response.status = status;
  response.set_header("Connection", "close");
  response.set_content(error_body(status, message), "application/json");
}

bool HttpServer::Impl::meant_for_us(const httplib::Request& request) const {
  const auto& hosts = options.hosts;
  return hosts.empty() ||
         (request.get_header_value_count("Host") == 1 &&
          std::find(hosts.begin(), hosts.end(), host_name(request.get_header_value("Host"))) != hosts.end());
}

bool HttpServer::Impl::authorized(const httplib::Request& request) const {
  if (options.keys.empty()) return true;
  const auto& open = options.open_paths;
  if (std::find(open.begin(), open.end(), request.path) != open.end()) return true;
  constexpr std::string_view kScheme = "Bearer ";
  const std::string header = request.get_header_value("Authorization");
  if (!header.starts_with(kScheme)) return false;
  const std::string_view given = std::string_view(header).substr(kScheme.size());
  bool found = false;
  for (const std::string& key : options.keys) found |= same_secret(given, key);
  return found;
}

/// Answers a request that must not be served, before its body is read.
bool HttpServer::Impl::refuse(const httplib::Request& request, httplib::Response& response) const {
  if (request.target.size() > options.path_bytes) {  // comes first: httplib's patterns take stack for each byte
    fail(response, 414, fmt::format("the path is over {} bytes", options.path_bytes));
  } else if (!meant_for_us(request)) {
    fail(response, 403,
         fmt::format("the request is for the host \"{}\", which is not a name of this server",
                     printable(request.get_header_value("Host"))));
  } else if (request.method != "GET" && request.method != "POST") {
    fail(response, 405, "only GET and POST are served");
    response.set_header("Allow", "GET, POST");
  } else if (!authorized(request)) {
    fail(response, 401, "a valid API key is needed, as \"Authorization: Bearer KEY\"");
    response.set_header("WWW-Authenticate", "Bearer");
  } else {
    return request.method == "POST" && refuse_body(request, response);
  }
  return true;
}

bool HttpServer::Impl::refuse_body(const httplib::Request& request, httplib::Response& response) const {
  if (request.has_header("Content-Encoding")) {
    fail(response, 415, "compressed bodies are not accepted");
  } else if (!request.get_header_value("Content-Type").starts_with("application/json")) {
    fail(response, 415, "the body must be of type application/json");
  } else if (request.get_header_value<std::uint64_t>("Content-Length") > options.body_bytes) {
    fail(response, 413, fmt::format("the body is over {} bytes", options.body_bytes));
  } else {
    return false;
  }
  return true;
}

void HttpServer::Impl::answer(const httplib::Request& request, httplib::Response& response) const {
  Connection& connection = connection_of(request);
  const bool has_body = request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
  if (request.method == "POST" || !has_body) connection.end_body();

  HttpResponse result =
      handler({request.method, request.path, request.body, [&connection] { return connection.alive(); }});
  response.status = result.status;
  response.set_header("X-Content-Type-Options", "nosniff");
  response.set_header("Cache-Control", "no-store");
  for (const auto& [name, value] : result.headers) response.set_header(name, value);
  if (!result.next_part) {
    response.set_content(result.body, result.type);
    return;
  }
  response.set_chunked_content_provider(
      result.type, [next_part = std::move(result.next_part)](std::size_t, httplib::DataSink& sink) {
        const std::optional<std::string> part = next_part();
        if (!part) {
          sink.done();
          return true;
        }
        return part->empty() ? sink.is_writable() : sink.write(part->data(), part->size());
      });
}

/// The response to a connection that nobody has time for.
void HttpServer::Impl::turn_away(Connection& connection) const {
  const std::string body = error_body(503, "too many connections");
  const std::string text = fmt::format(
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n"
      "Connection: close\r\n\r\n{}",
      body.size(), body);
  connection.write(text.data(), text.size());
}

void HttpServer::Impl::serve(Connection& connection) {
  const auto go_on = [this] { return !stopping.load(); };
  while (connection.wait(options.idle_timeout, go_on)) {
    connection.begin_request();
    bool closed = false;
    const bool served = process_request(connection, stopping, closed, [&connection](httplib::Request& request) {
      request.progress = Link{&connection};
      connection.begin_body();
    });
    if (!served || closed || connection.unread()) break;
  }
}

bool HttpServer::Impl::process_and_close_socket(socket_t socket) {
  Connection connection(socket, options);
  if (std::this_thread::get_id() == accepting.load()) {  // no thread is left for it
    turn_away(connection);
    ::shutdown(socket, SHUT_RDWR);
  } else {
    serve(connection);
    ::shutdown(socket, SHUT_WR);
    connection.discard(kFarewell);
  }
  ::close(socket);
  return true;
}

HttpServer::HttpServer(Options options, Handler handler, ErrorBody error_body)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handler), std::move(error_body))) {
  impl_->bind();
}

HttpServer::~HttpServer() = default;

int HttpServer::port() const noexcept { return impl_->port; }

void HttpServer::run() {
  impl_->accepting = std::this_thread::get_id();
  impl_->started = true;
  if (!impl_->stopping) impl_->listen_after_bind();
  impl_->ended = true;
}

void HttpServer::stop() {
  impl_->stopping = true;
  // httplib takes no notice of a stop() before it has begun to run.
  while (impl_->started && !impl_->ended && !impl_->is_running()) std::this_thread::sleep_for(milliseconds(1));
  impl_->httplib::Server::stop();
}

std::size_t HttpServer::connections() const noexcept { return impl_->active; }

}  // namespace kvant::server
