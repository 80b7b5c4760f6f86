#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvant::server {

/// A request as a handler sees it; its body has been read and is within the limits.
struct HttpRequest {
  std::string method;  ///< GET or POST
  std::string path;    ///< without the query
  std::string body;
  std::function<bool()> connected;  ///< whether the client is still there
};

/// What a handler answers.
struct HttpResponse {
  int status = 200;
  std::string type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
  /// Of a streamed response, instead of a body: the next part to send, nothing at the end. It waits a second at most
  /// and returns an empty part when there is nothing to send by then. It is destroyed when the client has gone.
  std::function<std::optional<std::string>()> next_part = {};
};

/// HTTP/1.1 for clients that nobody vouches for. Requests beyond a limit are answered with an error and their
/// connection is closed; what is slow ends by a timeout; connections over the limit are answered with 503.
class HttpServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 8080;                     ///< 0: any free one
    std::vector<std::string> keys = {};  ///< one of which a request must bear, but for `open_paths`; none: no need
    /// Names and addresses of this server, of which a request's Host must be one, with any port; none: no matter. A
    /// page of another site whose name was made to lead to this machine (DNS rebinding) cannot read answers then.
    std::vector<std::string> hosts = {};
    std::vector<std::string> open_paths = {"/health", "/", "/style.css", "/app.js"};
    std::size_t connections = 128;  ///< at a time
    std::size_t path_bytes = 256;
    std::size_t header_bytes = 32 * 1024;  ///< of all headers
    std::size_t body_bytes = 4 * 1024 * 1024;
    std::chrono::seconds read_timeout{30};   ///< for a whole request, from its first byte on
    std::chrono::seconds write_timeout{30};  ///< for each part that is sent
    std::chrono::seconds idle_timeout{10};   ///< of a connection between requests
  };
  using Handler = std::function<HttpResponse(const HttpRequest&)>;
  /// The body of an error that this layer finds: its status and what it says.
  using ErrorBody = std::function<std::string(int status, std::string_view message)>;

  /// Binds the port. The handler is called from several threads and must not throw. Throws io naming host and port.
  HttpServer(Options options, Handler handler, ErrorBody error_body);
  ~HttpServer();

  int port() const noexcept;
  /// Serves until stop(), then waits for what is being answered.
  void run();
  /// May be called from any thread.
  void stop();
  std::size_t connections() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::server
