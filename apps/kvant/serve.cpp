#include <signal.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <thread>

#include "base/clock.h"
#include "chat.h"
#include "options.h"
#include "server/http.h"
#include "server/scheduler.h"
#include "server/service.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr std::size_t kContext = 4096;
constexpr std::size_t kBodyBytes = 64 * 1024, kBytesPerToken = 64;

struct Options {
  ModelOptions model;
  CacheOptions cache;
  server::HttpServer::Options http;
  std::string key_file, alias, slot_folder;
  std::vector<std::string> hosts;  ///< names beside its own
  std::size_t context = 0;         ///< 0: as trained, at most kContext
  int parallel = 4, keep = 32;
  std::string memory;  ///< empty: as much as `parallel` whole contexts take
  std::size_t queue = 64, max_tokens = 1024;
  int timeout_seconds = 600, drain_seconds = 30;
};

/// SIGTERM and SIGINT as something to wait for. They are blocked in this thread and all that it starts later.
class StopSignals {
 public:
  StopSignals() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGTERM);
    ::sigaddset(&set_, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    ::signal(SIGPIPE, SIG_IGN);  // a client that has gone is an error of its connection
  }
  /// Whether one came within a time.
  bool wait(std::chrono::milliseconds most) const {
    const timespec time{most.count() / 1000, most.count() % 1000 * 1'000'000};
    return ::sigtimedwait(&set_, nullptr, &time) > 0;
  }

 private:
  sigset_t set_;
};

/// The keys of a file, one a line.
std::vector<std::string> read_keys(const std::string& path) {
  std::vector<std::string> keys;
  std::string_view text;
  const std::string content = read_text(path, 1 << 20);
  for (text = content; !text.empty();) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto printing = [](char c) { return c > ' ' && c < 0x7f; };
    KVANT_CHECK(std::all_of(line.begin(), line.end(), printing), ErrorCode::format,
                "{}: key {} has a space or a character that is not ASCII", path, keys.size() + 1);
    keys.emplace_back(line);
  }
  KVANT_CHECK(!keys.empty(), ErrorCode::format, "{}: no key in it", path);
  return keys;
}

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

/// The names that requests may have for this server; none where it may be reached under names that it cannot know.
std::vector<std::string> known_hosts(const std::string& address, const std::vector<std::string>& more) {
  if (!is_loopback(address) && more.empty()) return {};
  std::vector<std::string> hosts{"localhost", "127.0.0.1", "::1", address};
  hosts.insert(hosts.end(), more.begin(), more.end());
  return hosts;
}

/// Waits for a signal, then lets what runs come to its end. A second signal ends it at once.
void wait_for_end(const StopSignals& signals, server::Scheduler& scheduler, int drain_seconds) {
  using std::chrono::milliseconds;
  while (!signals.wait(milliseconds(60'000))) {
  }
  scheduler.drain();
  write_stderr(fmt::format("kvant: stopping, {} answers are finished first\n", scheduler.load().running));
  const Stopwatch watch;
  while (!scheduler.idle() && watch.seconds() < drain_seconds) {
    if (signals.wait(milliseconds(50))) break;
  }
}

/// The cache: a pool of blocks for the running answers and for the conversations that are kept.
cache::KvCache make_cache(const Options& options, engine::Engine& engine, const eval::CachePair& pair,
                          std::size_t context) {
  const std::size_t bytes =
      options.memory.empty() ? 0 : static_cast<std::size_t>(parse_size("serve: --kv-memory", options.memory));
  cache::CacheConfig config = engine
                                  .make_cache({.k = pair.k,
                                               .v = pair.v,
                                               .context = context,
                                               .sequences = options.parallel,
                                               .pool_bytes = bytes,
                                               .plan = pair.plan.get()})
                                  .config();
  // Kept conversations share the pool of the running answers.
  config.pool_tokens = config.blocks() * cache::KvCache::kBlockTokens;
  config.sequences += options.keep;
  if (bytes > 0) {
    config.pool_tokens = cache::pool_tokens_within(config, bytes, active_isa());
    KVANT_CHECK(config.pool_tokens > 0, ErrorCode::invalid_argument, "--kv-memory {}: not even {} tokens fit",
                options.memory, cache::KvCache::kBlockTokens);
  }
  return {config, engine.pool(), active_isa()};
}

void run(const Options& options) {
  const StopSignals signals;  // before any thread starts
  if (!options.slot_folder.empty()) server::remove_leftovers(options.slot_folder);
  server::HttpServer::Options http = options.http;
  if (!options.key_file.empty()) http.keys = read_keys(options.key_file);
  http.hosts = known_hosts(http.host, options.hosts);
  const eval::CachePair pair = options.cache.pair();
  engine::Engine engine = options.model.open();
  const std::size_t context = options.context > 0 ? options.context : std::min(engine.config().context, kContext);
  warn_beyond_training(engine, context);
  // No longer than a prompt can be: some bytes a token, each of which may be written as an escape.
  http.body_bytes = kBodyBytes + kBytesPerToken * context;
  server::Scheduler scheduler(engine, make_cache(options, engine, pair, context),
                              {.running = static_cast<std::size_t>(options.parallel),
                               .queue = options.queue,
                               .timeout = std::chrono::seconds(options.timeout_seconds)});
  const std::string name =
      options.alias.empty() ? std::filesystem::path(options.model.model).stem().string() : options.alias;
  std::unique_ptr<server::HttpServer> server;
  server::Service service(engine, scheduler,
                          {.model = name,
                           .max_tokens = options.max_tokens,
                           .connections = [&server] { return server->connections(); },
                           .slot_folder = options.slot_folder});
  server = std::make_unique<server::HttpServer>(
      http, [&service](const server::HttpRequest& request) { return service.handle(request); },
      &server::Service::error_body);

  if (http.keys.empty() && !is_loopback(http.host)) {
    write_stderr("kvant: note: anyone who reaches this host may use the server (--api-key-file)\n");
  }
  write_stderr(fmt::format(
      "kvant: {} at http://{}:{}, {} answers at a time of up to {} tokens\nkvant: {} tokens of cache, {}\n", name,
      http.host, server->port(), options.parallel, scheduler.context(),
      scheduler.load().blocks * cache::KvCache::kBlockTokens, describe(pair.k, pair.v, scheduler.cache_usage())));
  std::jthread listener([&server] { server->run(); });
  wait_for_end(signals, scheduler, options.drain_seconds);
  scheduler.stop();
  server->stop();
}

}  // namespace

Command add_serve(CLI::App& app) {
  CLI::App& command =
      add_command(app, "serve", "Serve OpenAI's HTTP interface",
                  "Example: kvant serve -m model.gguf --cache-k lm4 --cache-v lm4 --parallel 8 -c 8192\n"
                  "         curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n"
                  "           -d '{\"prompt\": \"The capital of France is\", \"max_tokens\": 16}'");
  auto options = std::make_shared<Options>();
  const auto number = [&](const char* name, auto& value, auto least, auto most, const char* help) {
    command.add_option(name, value, help)->check(CLI::Range(least, most).description(""))->type_name("N");
  };
  add_model_options(command, options->model, "fast");
  command.add_option("--host", options->http.host, "Address to listen on (default: 127.0.0.1)")->type_name("ADDRESS");
  number("--port", options->http.port, 0, 65535, "Port to listen on, 0 for any free one (default: 8080)");
  command
      .add_option("--allow-host", options->hosts,
                  "A name under which clients may ask for this server, such as that of a proxy; may be repeated. On a "
                  "loopback address others than localhost, 127.0.0.1 and [::1] are refused, elsewhere if this is given")
      ->allow_extra_args(false)
      ->type_name("NAME");
  number("--parallel", options->parallel, 1, 1024, "Answers that are made at a time (default: 4)");
  number("-c,--context", options->context, std::size_t{64}, std::size_t{1} << 40,
         "Tokens of a prompt and its answer (default: as trained, at most 4096)");
  command
      .add_option("--kv-memory", options->memory,
                  "Memory of the cache, such as 2GiB (default: what --parallel answers of -c tokens take)")
      ->type_name("SIZE");
  number("--keep", options->keep, 1, 65536,
         "Most conversations that are kept in the cache when they rest (default: 32)");
  number("--queue", options->queue, std::size_t{1}, std::size_t{1} << 20,
         "Answers that may wait for their turn; more are refused with 429 (default: 64)");
  number("--max-tokens", options->max_tokens, std::size_t{1}, std::size_t{1} << 31,
         "Tokens of an answer whose request names no number (default: 1024)");
  number("--timeout", options->timeout_seconds, 1, 86400,
         "Seconds that a request may take, its wait included (default: 600)");
  number("--drain", options->drain_seconds, 0, 86400,
         "Seconds that running answers have to end after SIGTERM (default: 30)");
  command.add_option("--api-key-file", options->key_file, "File of keys, one a line, of which requests must bear one")
      ->type_name("FILE");
  command
      .add_option("--slot-folder", options->slot_folder,
                  "Folder in which clients may save conversations (default: none, they may not)")
      ->type_name("FOLDER");
  command.add_option("--alias", options->alias, "Name of the model for clients (default: that of its file)")
      ->type_name("NAME");
  add_cache_options(command, options->cache);
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
