#include "server/service.h"

#include <array>
#include <charconv>
#include <ctime>
#include <exception>
#include <new>
#include <random>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "server/metrics.h"
#include "server/page.h"

namespace kvant::server {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kChat = "/v1/chat/completions";
constexpr auto kGlance = 200ms;  ///< how often a wait looks whether the client is still there
constexpr auto kPartWait = 1s;   ///< longest wait of a stream's part
/// What others call a request whose client has gone; nobody reads it.
constexpr int kClientGone = 499;

class NoSuchModel : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::string_view type_of(int status) {
  if (status == 429) return "rate_limit_error";
  if (status == 401) return "authentication_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

std::string_view code_of(int status) {
  switch (status) {
    case 401:
      return "invalid_api_key";
    case 404:
      return "not_found";
    case 429:
      return "queue_full";
    case 503:
      return "unavailable";
    case 504:
      return "timeout";
    default:
      return {};
  }
}

HttpResponse failure(int status, std::string_view message, std::string_view field = {}, std::string_view code = {}) {
  return {.status = status, .body = error_body(type_of(status), message, field, code.empty() ? code_of(status) : code)};
}

/// prompt: the field that holds it
HttpResponse refused(const Refused& refusal, std::string_view prompt) {
  switch (refusal.why()) {
    case Refused::Why::busy: {
      HttpResponse response = failure(429, refusal.what());
      response.headers.emplace_back("Retry-After", "1");
      return response;
    }
    case Refused::Why::stopping:
      return failure(503, refusal.what());
    case Refused::Why::too_long:
      break;
  }
  return failure(400, refusal.what(), prompt, "context_length_exceeded");
}

/// Status and message of an answer that came to no good end; nothing for the others.
std::optional<std::pair<int, std::string>> trouble(const Ending& ending) {
  switch (ending.finish) {
    case Finish::failed:
      return std::pair(500, ending.error);
    case Finish::timed_out:
      return std::pair(504, std::string("the request took longer than requests may"));
    case Finish::cancelled:
      return std::pair(503, std::string("the server is stopping"));
    case Finish::stop:
    case Finish::length:
      break;
  }
  return std::nullopt;
}

/// A file of the page. Its policy lets nothing in that is not the server's own.
HttpResponse page_file(std::string_view type, std::string_view content) {
  return {.type = fmt::format("{}; charset=utf-8", type),
          .body = std::string(content),
          .headers = {{"Content-Security-Policy",
                       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                      {"Referrer-Policy", "no-referrer"}}};
}

/// A reply that is cancelled when nobody reads it any more.
std::shared_ptr<Reply> guarded(std::shared_ptr<Reply> reply) {
  Reply* raw = reply.get();
  return {raw, [reply = std::move(reply)](Reply*) { reply->cancel(); }};
}

/// All answers, once they have ended.
HttpResponse collect(const HttpRequest& http, Reply& reply, const ResponseWriter& writer) {
  std::vector<Completed> choices(reply.choices());
  while (!reply.done()) {
    const auto event = reply.next(kGlance);
    if (!event) {
      if (!http.connected()) return failure(kClientGone, "the client has gone");
      continue;
    }
    Completed& choice = choices[event->choice];
    if (const auto* ending = std::get_if<Ending>(&event->what)) {
      choice.ending = *ending;
      if (const auto bad = trouble(*ending)) return failure(bad->first, bad->second);
    } else {
      const Piece& piece = std::get<Piece>(event->what);
      choice.piece.text += piece.text;
      choice.piece.tokens.insert(choice.piece.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    }
  }
  return {.body = writer.whole(choices)};
}

/// The parts of a stream.
class PartSource {
 public:
  PartSource(std::shared_ptr<Reply> reply, ResponseWriter writer, std::size_t n)
      : reply_(std::move(reply)), writer_(std::move(writer)), n_(n), endings_(reply_->choices()) {}

  std::optional<std::string> operator()() {
    if (closed_) return std::nullopt;
    if (!opened_) {
      opened_ = true;
      std::string text;
      for (std::size_t i = 0; i < reply_->choices(); ++i) text += writer_.opening(i);
      if (!text.empty()) return text;
    }
    if (reply_->done()) {
      closed_ = true;
      return writer_.closing(sum_usage(endings_, n_));
    }
    const auto event = reply_->next(kPartWait);
    if (!event) return "";
    if (const auto* piece = std::get_if<Piece>(&event->what)) return writer_.part(event->choice, *piece);
    const Ending& ending = endings_[event->choice] = std::get<Ending>(event->what);
    if (const auto bad = trouble(ending)) {
      closed_ = true;
      return error_event(Service::error_body(bad->first, bad->second));
    }
    return writer_.ending(event->choice, ending);
  }

 private:
  std::shared_ptr<Reply> reply_;
  ResponseWriter writer_;
  std::size_t n_;
  std::vector<Ending> endings_;
  bool opened_ = false, closed_ = false;
};

}  // namespace

Service::Service(const engine::Engine& engine, Scheduler& scheduler, Options options)
    : engine_(engine),
      scheduler_(scheduler),
      options_(std::move(options)),
      started_(std::time(nullptr)),
      run_(std::random_device{}()) {
  try {
    template_ = tokenizer::ChatTemplate::from(engine.file());
  } catch (const Error&) {  // completions need none
  }
}

std::string Service::error_body(int status, std::string_view message) {
  return server::error_body(type_of(status), message, {}, code_of(status));
}

HttpResponse Service::handle(const HttpRequest& request) {
  try {
    return route(request);
  } catch (const BadRequest& e) {
    return failure(400, e.what(), e.field());
  } catch (const NoSuchModel& e) {
    return failure(404, e.what(), "model", "model_not_found");
  } catch (const Refused& e) {
    return refused(e, request.path == kChat ? "messages" : "prompt");
  } catch (const Error& e) {
    return failure(e.code() == ErrorCode::invalid_argument ? 400 : 500, e.what());
  } catch (const std::bad_alloc&) {
    return failure(503, "out of memory");
  } catch (const std::exception& e) {
    return failure(500, e.what());
  }
}

HttpResponse Service::route(const HttpRequest& request) {
  struct Route {
    std::string_view method, path;
    HttpResponse (*serve)(Service&, const HttpRequest&);
  };
  static constexpr std::array kRoutes{
      Route{"POST", kChat, [](Service& s, const HttpRequest& r) { return s.chat(r); }},
      Route{"POST", "/v1/completions", [](Service& s, const HttpRequest& r) { return s.completion(r); }},
      Route{"GET", "/v1/models",
            [](Service& s, const HttpRequest&) {
              return HttpResponse{.body = models_body(s.options_.model, s.started_, s.scheduler_.context())};
            }},
      Route{"GET", "/health", [](Service& s, const HttpRequest&) { return s.health(); }},
      Route{"GET", "/metrics", [](Service& s, const HttpRequest&) { return s.metrics(); }},
      Route{"GET", "/slots",
            [](Service& s, const HttpRequest&) { return HttpResponse{.body = slots_body(s.scheduler_.slots())}; }},
      Route{"GET", "/", [](Service&, const HttpRequest&) { return page_file("text/html", page::index()); }},
      Route{"GET", "/style.css", [](Service&, const HttpRequest&) { return page_file("text/css", page::style()); }},
      Route{"GET", "/app.js",
            [](Service&, const HttpRequest&) { return page_file("text/javascript", page::script()); }},
      Route{"POST", "/tokenize", [](Service& s, const HttpRequest& r) { return s.tokenize(r); }},
      Route{"POST", "/detokenize", [](Service& s, const HttpRequest& r) { return s.detokenize(r); }},
  };
  constexpr std::string_view kSlots = "/slots/";
  if (request.path.starts_with(kSlots) && request.method == "POST") {
    return slot(std::string_view(request.path).substr(kSlots.size()), request);
  }
  std::string_view other_method;
  for (const Route& route : kRoutes) {
    if (route.path != request.path) continue;
    if (route.method == request.method) return route.serve(*this, request);
    other_method = route.method;
  }
  if (other_method.empty()) return failure(404, fmt::format("there is no {}", printable(request.path)));
  HttpResponse response = failure(405, fmt::format("{} takes {}", request.path, other_method));
  response.headers.emplace_back("Allow", other_method);
  return response;
}

HttpResponse Service::chat(const HttpRequest& http) {
  const ChatRequest request = parse_chat(http.body, options_.limits);
  check_model(request.model);
  if (!template_) return failure(400, "this model has no chat template that the server knows");
  std::string text;
  try {
    text = template_->render(request.messages, true);
  } catch (const Error& e) {
    throw BadRequest("messages", e.what());
  }
  return generate(http, request, {encode(text, true, true, "messages")}, ResponseWriter::Kind::chat);
}

HttpResponse Service::completion(const HttpRequest& http) {
  const CompletionRequest request = parse_completion(http.body, options_.limits);
  check_model(request.model);
  std::vector<std::vector<Token>> prompts;
  for (const auto& prompt : request.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      prompts.push_back(encode(*text, true, true, "prompt"));
    } else {
      prompts.push_back(std::get<std::vector<Token>>(prompt));
      for (const Token token : prompts.back()) {
        if (static_cast<std::size_t>(token) >= engine_.tokenizer().size()) {
          throw BadRequest(
              "prompt", fmt::format("prompt holds token {}, the vocabulary has {}", token, engine_.tokenizer().size()));
        }
      }
    }
    if (prompts.back().empty()) throw BadRequest("prompt", "the prompt is empty");
  }
  return generate(http, request, prompts, ResponseWriter::Kind::completion);
}

HttpResponse Service::generate(const HttpRequest& http, const GenerationRequest& request,
                               const std::vector<std::vector<Token>>& prompts, ResponseWriter::Kind kind) {
  const bool chat = kind == ResponseWriter::Kind::chat;
  const std::string id = new_id();
  engine::SamplerOptions sampler = request.sampler;
  if (!request.has_seed) sampler.seed = std::random_device{}();
  std::vector<Job> jobs;
  for (const std::vector<Token>& prompt : prompts) {
    for (std::size_t i = 0; i < request.n; ++i) {
      jobs.push_back({.prompt = prompt,
                      .max_tokens = request.max_tokens.value_or(options_.max_tokens),
                      .sampler = sampler,
                      .log_probabilities = request.log_probabilities,
                      .stops = request.stops,
                      .stop_at_end = !request.ignore_end,
                      .continues = !chat});
      jobs.back().sampler.seed += i;
    }
  }
  const std::shared_ptr<Reply> reply = guarded(scheduler_.submit(std::move(jobs)));
  ResponseWriter writer(engine_.tokenizer(), {.kind = kind,
                                              .id = id,
                                              .model = options_.model,
                                              .created = std::time(nullptr),
                                              .n = request.n,
                                              .probabilities = request.log_probabilities.has_value(),
                                              .include_usage = request.include_usage});
  if (!request.stream) return collect(http, *reply, writer);
  auto source = std::make_shared<PartSource>(reply, std::move(writer), request.n);
  return {.type = "text/event-stream", .next_part = [source] { return (*source)(); }};
}

HttpResponse Service::health() const {
  if (scheduler_.draining()) return {.status = 503, .body = status_body("stopping")};
  return {.body = status_body("ok")};
}

HttpResponse Service::metrics() const {
  const Load load = scheduler_.load();
  const CacheMemory memory = cache_memory(scheduler_.cache_config(), scheduler_.cache_usage(), load);
  return {.type = "text/plain; version=0.0.4; charset=utf-8",
          .body = metrics_text(load, memory, options_.connections ? options_.connections() : 0)};
}

HttpResponse Service::slot(std::string_view rest, const HttpRequest& http) {
  int id = -1;
  const auto [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), id);
  const std::string_view action(end, static_cast<std::size_t>(rest.data() + rest.size() - end));
  if (status != std::errc{} || id < 0 || (action != "/save" && action != "/restore")) {
    return failure(404, fmt::format("there is no {}", printable(http.path)));
  }
  if (options_.slot_folder.empty()) return failure(403, "this server saves no conversations (--slot-folder)");
  const SlotRequest request = parse_slot(http.body, options_.limits);
  const std::filesystem::path path = options_.slot_folder / request.filename;
  try {
    const std::size_t tokens = action == "/save" ? scheduler_.save(id, path) : scheduler_.restore(id, path);
    return {.body = slot_body(id, request.filename, tokens)};
  } catch (const Error& e) {
    std::string what = e.what();  // clients know the file's name only
    const std::string folder = path.parent_path().string() + "/";
    for (std::size_t at = what.find(folder); at != std::string::npos; at = what.find(folder))
      what.erase(at, folder.size());
    const bool space = e.code() == ErrorCode::out_of_memory;
    return failure(space ? 503 : e.code() == ErrorCode::io && action == "/save" ? 500 : 400, what, "filename");
  }
}

HttpResponse Service::tokenize(const HttpRequest& http) const {
  const TokenizeRequest request = parse_tokenize(http.body, options_.limits);
  return {.body = tokens_body(encode(request.text, request.add_special, request.parse_special, "content"))};
}

HttpResponse Service::detokenize(const HttpRequest& http) const {
  const DetokenizeRequest request = parse_detokenize(http.body, options_.limits);
  for (const Token token : request.tokens) {
    if (static_cast<std::size_t>(token) >= engine_.tokenizer().size()) {
      throw BadRequest("tokens",
                       fmt::format("tokens holds {}, the vocabulary has {}", token, engine_.tokenizer().size()));
    }
  }
  return {.body = content_body(engine_.tokenizer().decode(request.tokens, true))};
}

void Service::check_model(const std::string& name) const {
  if (name.empty() || name == options_.model) return;
  throw NoSuchModel(
      fmt::format("the model \"{}\" does not exist; this server has \"{}\"", printable(name), options_.model));
}

std::vector<Token> Service::encode(std::string_view text, bool add_bos, bool parse_special,
                                   const std::string& field) const {
  const tokenizer::Tokenizer& tokenizer = engine_.tokenizer();
  try {
    return add_bos ? tokenizer.encode_prompt(text, parse_special) : tokenizer.encode(text, parse_special);
  } catch (const Error& e) {
    throw BadRequest(field, fmt::format("{}: {}", field, e.what()));
  }
}

std::string Service::new_id() { return fmt::format("{:08x}{:08x}", run_, requests_++); }

}  // namespace kvant::server
