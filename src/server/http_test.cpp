#include "server/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "base/error.h"

namespace kvant::server {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

/// A connection on which any bytes can be sent.
class Raw {
 public:
  explicit Raw(int port) {
    addrinfo wanted{}, *address = nullptr;
    wanted.ai_family = AF_INET;
    wanted.ai_socktype = SOCK_STREAM;
    EXPECT_EQ(::getaddrinfo("127.0.0.1", std::to_string(port).c_str(), &wanted, &address), 0);
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(fd_, address->ai_addr, address->ai_addrlen), 0);
    ::freeaddrinfo(address);
  }
  ~Raw() { close(); }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;

  /// Whether all could be sent.
  bool send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  /// All that comes until the server closes, or until `until` has come.
  std::string read(std::string_view until = {}) {
    std::string text;
    char chunk[4096];
    while (until.empty() || text.find(until) == std::string::npos) {
      const ssize_t n = ::recv(fd_, chunk, sizeof chunk, 0);
      if (n <= 0) break;
      text.append(chunk, static_cast<std::size_t>(n));
    }
    return text;
  }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

/// A server on a free port that answers with what it was asked.
class HttpTest : public testing::Test {
 protected:
  ~HttpTest() override { stop(); }

  void start(HttpServer::Options options = {}) {
    options.port = 0;
    server_ = std::make_unique<HttpServer>(
        options, [this](const HttpRequest& request) { return handle(request); },
        [](int status, std::string_view message) { return fmt::format("{} {}", status, message); });
    thread_ = std::jthread([this] { server_->run(); });
  }
  void stop() {
    if (!server_) return;
    server_->stop();
    thread_.join();
    server_.reset();
  }

  HttpResponse handle(const HttpRequest& request) {
    ++handled_;
    if (request.path == "/wait") {  // until the client leaves
      while (request.connected()) std::this_thread::sleep_for(5ms);
      ++left_;
      return {};
    }
    if (request.path == "/stream") {
      return {.type = "text/event-stream",
              .next_part = [n = std::make_shared<int>(0), guard = std::shared_ptr<void>(nullptr, [this](void*) {
                                                            ++left_;
                                                          })]() -> std::optional<std::string> {
                std::this_thread::sleep_for(5ms);
                if (*n == 1000) return std::nullopt;
                return fmt::format("part {}\n", (*n)++);
              }};
    }
    return {.type = "text/plain", .body = fmt::format("{} {} [{}]", request.method, request.path, request.body)};
  }

  bool wait_until_left() {
    const Stopwatch watch;
    while (left_ == 0 && watch.seconds() < 30) std::this_thread::sleep_for(5ms);
    return left_ > 0;
  }
  static std::string post(std::string_view path, std::string_view body, std::string_view more = {}) {
    return fmt::format(
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{}", path,
        body.size(), more, body);
  }
  /// The first response to some bytes.
  std::string ask(std::string_view text) {
    Raw raw(server_->port());
    raw.send(text);
    return raw.read("\r\n\r\n");
  }

  std::unique_ptr<HttpServer> server_;
  std::jthread thread_;
  std::atomic<int> handled_{0}, left_{0};
};

TEST_F(HttpTest, ServesRequestsOnOneConnection) {
  start();
  httplib::Client client("127.0.0.1", server_->port());
  client.set_keep_alive(true);
  EXPECT_EQ(client.Get("/a?b=c")->body, "GET /a []");
  EXPECT_EQ(client.Post("/b", "{}", "application/json")->body, "POST /b [{}]");
  EXPECT_EQ(client.Post("/b", "{}", "application/json; charset=utf-8")->body, "POST /b [{}]");
  EXPECT_EQ(server_->connections(), 1u);
}

TEST_F(HttpTest, StreamsParts) {
  start();
  httplib::Client client("127.0.0.1", server_->port());
  const auto response = client.Get("/stream");
  ASSERT_TRUE(response);
  EXPECT_THAT(response->body, StartsWith("part 0\npart 1\n"));
  EXPECT_THAT(response->body, testing::EndsWith("part 999\n"));
  EXPECT_EQ(response->get_header_value("Transfer-Encoding"), "chunked");
}

TEST_F(HttpTest, NoticesThatAClientLeaves) {
  start();
  for (const char* path : {"/wait", "/stream"}) {
    left_ = 0;
    Raw raw(server_->port());
    raw.send(fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path));
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(left_, 0) << path;
    raw.close();
    EXPECT_TRUE(wait_until_left()) << path;
  }
}

TEST_F(HttpTest, RefusesWhatIsTooLarge) {
  start({.path_bytes = 100, .header_bytes = 2000, .body_bytes = 1000});
  EXPECT_THAT(ask("GET /" + std::string(100, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 414"));
  EXPECT_THAT(ask("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(1700, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(ask("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(3000, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 500; ++i) many += "A: b\r\n";
  EXPECT_THAT(ask(many + "\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(ask(post("/", std::string(1000, 'a'))), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(ask(post("/", std::string(1001, 'a'))), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(ask("POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999999\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
  // Chunks that never end.
  handled_ = 0;
  Raw raw(server_->port());
  raw.send("POST / HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
  while (raw.send("400\r\n" + std::string(1024, 'a') + "\r\n")) {
  }
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpTest, RefusesOtherMethodsTypesAndEncodings) {
  start();
  EXPECT_THAT(ask("DELETE / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(ask("PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\na"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(ask("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na"), StartsWith("HTTP/1.1 415"));
  EXPECT_THAT(ask("POST / HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1\r\n\r\na"),
              StartsWith("HTTP/1.1 415"));
  EXPECT_THAT(ask(post("/", "a", "Content-Encoding: gzip\r\n")), StartsWith("HTTP/1.1 415"));
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpTest, AnswersNonsenseWithAnError) {
  start();
  EXPECT_THAT(ask("hello\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(ask("GET / HTTP/9.9\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  ask(std::string("\0\xff\x01\r\n\r\n", 7));
  EXPECT_EQ(handled_, 0);
  EXPECT_THAT(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpTest, ABodyOfAGetIsNoFurtherRequest) {
  start();
  Raw raw(server_->port());
  raw.send("GET / HTTP/1.1\r\nContent-Length: 28\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n");
  EXPECT_THAT(raw.read(), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(handled_, 1);
}

TEST_F(HttpTest, SlowRequestsEnd) {
  start({.read_timeout = 1s, .idle_timeout = 1s});
  const Stopwatch watch;
  Raw raw(server_->port());
  // A byte now and then does not keep the connection.
  for (const char c :
       std::string_view("GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")) {
    if (!raw.send({&c, 1}) || watch.seconds() > 10) break;
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_LT(watch.seconds(), 8);
  EXPECT_EQ(handled_, 0);
  EXPECT_EQ(Raw(server_->port()).read(), "") << "nor does one that says nothing";
}

TEST_F(HttpTest, KeysAreChecked) {
  start({.keys = {"first-key", "second"}, .open_paths = {"/health"}});
  const auto with = [&](std::string_view header) { return ask(fmt::format("GET / HTTP/1.1\r\n{}\r\n", header)); };
  for (const char* bad :
       {"", "Authorization: Bearer\r\n", "Authorization: Bearer secon\r\n", "Authorization: second\r\n",
        "Authorization: Bearer second2\r\n", "Authorization: Basic second\r\n"}) {
    EXPECT_THAT(with(bad), StartsWith("HTTP/1.1 401")) << bad;
  }
  EXPECT_THAT(with("Authorization: Bearer second\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(with("Authorization: Bearer first-key\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(ask("GET /health HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(handled_, 3);
}

TEST_F(HttpTest, HostsAreChecked) {
  start({.hosts = {"127.0.0.1", "localhost", "[::1]", "Proxy.example"}});
  const auto with = [&](std::string_view headers) { return ask(fmt::format("GET / HTTP/1.1\r\n{}\r\n", headers)); };
  for (const char* good : {"127.0.0.1", "127.0.0.1:9", "localhost:80", "LocalHost", "localhost.", "[::1]", "[::1]:8080",
                           "proxy.EXAMPLE:443"}) {
    EXPECT_THAT(with(fmt::format("Host: {}\r\n", good)), StartsWith("HTTP/1.1 200")) << good;
  }
  const int served = handled_;
  for (const char* bad :
       {"evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "127.0.0.2", "[::2]",
        "[", "[]", "]", ":", ".", "localhost..", "localhost:80:80", "[localhost", "[::1]x", "[::1]x:80"}) {
    EXPECT_THAT(with(fmt::format("Host: {}\r\n", bad)), StartsWith("HTTP/1.1 403")) << bad;
  }
  EXPECT_THAT(with(""), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(with("Host: localhost\r\nHost: evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(ask(post("/", "{}")), StartsWith("HTTP/1.1 403"));
  EXPECT_EQ(handled_, served);
}

TEST_F(HttpTest, ConnectionsBeyondTheLimitAreRefused) {
  start({.connections = 2});
  Raw first(server_->port()), second(server_->port());
  first.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  second.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  while (handled_ < 2) std::this_thread::sleep_for(5ms);
  EXPECT_THAT(Raw(server_->port()).read(), StartsWith("HTTP/1.1 503"));
  first.close();
  ASSERT_TRUE(wait_until_left());
  while (server_->connections() > 1) std::this_thread::sleep_for(5ms);
  EXPECT_THAT(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpTest, APortIsTakenOnce) {
  start();
  HttpServer::Options options;
  options.port = server_->port();
  try {
    HttpServer second(options, {}, {});
    FAIL() << "two servers on one port";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(fmt::format("cannot listen on 127.0.0.1 port {}", options.port)));
  }
}

TEST_F(HttpTest, StopsBeforeItRuns) {
  HttpServer::Options options;
  options.port = 0;
  for (int i = 0; i < 20; ++i) {
    HttpServer server(options, {}, {});
    std::jthread thread([&] { server.run(); });
    server.stop();
  }
}

}  // namespace
}  // namespace kvant::server
