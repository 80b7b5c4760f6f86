#include "chat.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/utf8.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

/// Set by Ctrl-C. A signal handler can reach nothing but a global.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_interrupt(int) { stop_requested = true; }

/// Lets Ctrl-C set `stop_requested` while it lives. System calls are not restarted, so that a wait ends at once.
class InterruptGuard {
 public:
  InterruptGuard() {
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, &previous_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &previous_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction previous_ {};
};

/// Whether standard input has something to read (or its end); false after Ctrl-C. The flag is looked at every so often,
/// as the signal may come before the wait begins or reach another thread.
bool wait_for_input() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (!stop_requested) {
    const int ready = ::poll(&input, 1, 100);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
  return false;
}

/// Lines of standard input.
class LineReader {
 public:
  enum class Status { line, end, interrupted };
  Status next(std::string& line) {
    for (;;) {
      if (const std::size_t at = buffer_.find('\n'); at != std::string::npos) {
        line = buffer_.substr(0, at);
        buffer_.erase(0, at + 1);
        return Status::line;
      }
      if (!wait_for_input()) return Status::interrupted;
      char chunk[4096];
      const ssize_t n = ::read(STDIN_FILENO, chunk, sizeof chunk);
      if (n < 0 && errno == EINTR) continue;
      KVANT_CHECK(n >= 0, ErrorCode::io, "standard input: cannot read: {}", std::strerror(errno));
      if (n == 0) {
        line = std::exchange(buffer_, {});
        return line.empty() ? Status::end : Status::line;
      }
      buffer_.append(chunk, static_cast<std::size_t>(n));
    }
  }

 private:
  std::string buffer_;
};

std::vector<tokenizer::Message> with_system(const std::string& system, std::vector<tokenizer::Message> messages) {
  if (!system.empty()) messages.insert(messages.begin(), {"system", system});
  return messages;
}

constexpr const char* kHelp =
    "/reset  start a new conversation\n/exit   leave (or Ctrl-D, or Ctrl-C twice)\n"
    "Ctrl-C  stop the answer being written\n";

void note(std::string_view text) { write_stderr(dim(text, stderr_is_terminal()) + "\n"); }

/// Whether the chat goes on after `line`, a message or a command.
bool answer(Chat& chat, const std::string& line, std::size_t context) {
  if (line == "/exit") return false;
  if (line == "/help") {
    write_stderr(kHelp);
  } else if (line == "/reset") {
    chat.reset();
    note("new conversation");
  } else if (!line.empty()) {
    stop_requested = false;
    const Chat::Turn turn = chat.say(line, [](std::string_view text) { write_stdout(text); });
    if (turn.fits) write_stdout("\n");
    using Stop = engine::GenerateResult::Stop;
    if (!turn.fits || turn.result.stop == Stop::context_full) {
      note(fmt::format("the context of {} tokens is full: /reset starts a new conversation, -c N gives more room",
                       context));
    }
    if (turn.result.stop == Stop::cancelled) note("stopped");
    stop_requested = false;
    if (turn.fits) {
      note(fmt::format("turn {}: {} new prompt tokens, {} generated at {:.1f} tokens/s, {} of {} in the cache",
                       chat.turns(), turn.result.prompt_tokens, turn.result.tokens.size(), decode_rate(turn.result),
                       chat.session().tokens().size(), context));
    }
  }
  return true;
}

}  // namespace

TextStream::TextStream(const tokenizer::Tokenizer& tokenizer, std::function<void(std::string_view)> on_text)
    : decoder_(tokenizer), on_text_(std::move(on_text)) {}

void TextStream::emit(const std::string& part) {
  text_ += part;
  if (on_text_ && !part.empty()) on_text_(part);
}

Chat::Chat(engine::Engine& engine, ChatSettings settings)
    : engine_(engine), settings_(std::move(settings)), template_(tokenizer::ChatTemplate::from(engine.file())) {
  start_session();
}

void Chat::start_session() {
  session_.reset();  // the old cache goes before the new one comes
  session_ =
      std::make_unique<engine::Session>(engine_, engine_.make_cache(settings_.k, settings_.v, settings_.context));
  in_cache_.clear();
}

void Chat::reset() {
  history_.clear();
  start_session();
}

Chat::Turn Chat::say(std::string_view message, const std::function<void(std::string_view)>& on_text) {
  history_.push_back({"user", std::string(message)});
  const std::string whole = template_.render(with_system(settings_.system, history_), true);
  // What the cache holds is a prefix of the whole unless the template rewrites what it is given: then all is fed again.
  if (!in_cache_.empty() && !whole.starts_with(in_cache_)) start_session();
  const bool first = in_cache_.empty();
  const std::string_view fresh = std::string_view(whole).substr(in_cache_.size());
  const auto prompt =
      first ? encode_text(engine_.tokenizer(), fresh, true, "chat") : engine_.tokenizer().encode(fresh, true);
  if (session_->tokens().size() + prompt.size() >= settings_.context) {
    history_.pop_back();
    return {{}, false};
  }

  TextStream stream(engine_.tokenizer(), on_text);
  engine::Session::Options options = settings_.generation;
  options.on_token = [&](engine::Token token) { stream.push(token); };
  Turn turn{session_->generate(prompt, options)};
  stream.finish();
  if (turn.result.stop == engine::GenerateResult::Stop::cancelled && turn.result.tokens.empty()) {
    history_.pop_back();  // stopped inside the prompt: as if it had not been said
    start_session();
    return turn;
  }
  in_cache_ = whole + stream.text();
  history_.push_back({"assistant", stream.text()});
  return turn;
}

double decode_rate(const engine::GenerateResult& result) {
  const bool ended = result.stop == engine::GenerateResult::Stop::end_token;
  const std::size_t passes = result.tokens.size() + (ended ? 1 : 0);
  return passes > 1 && result.decode_seconds > 0 ? static_cast<double>(passes - 1) / result.decode_seconds : 0;
}

std::vector<engine::Token> chat_prompt(const engine::Engine& engine, const std::string& system,
                                       const std::string& message) {
  const auto chat_template = tokenizer::ChatTemplate::from(engine.file());
  const std::string text = chat_template.render(with_system(system, {{"user", message}}), true);
  return encode_text(engine.tokenizer(), text, true, "chat");
}

void warn_beyond_training(const engine::Engine& engine, std::size_t context) {
  if (context <= engine.config().context) return;
  note(fmt::format("kvant: note: context {} is beyond the {} tokens that the model was trained for", context,
                   engine.config().context));
}

void run_chat(engine::Engine& engine, const ChatSettings& settings) {
  ChatSettings own = settings;
  own.generation.cancel = &stop_requested;
  Chat chat(engine, own);
  warn_beyond_training(engine, own.context);
  const bool terminal = stdin_is_terminal() && stderr_is_terminal();
  if (terminal) note(fmt::format("{}, context {} tokens; /help for help", engine.config().name, own.context));

  const InterruptGuard guard;
  LineReader reader;
  std::string line;
  for (bool warned = false;;) {
    if (terminal) write_stderr(bold("> ", true));
    const LineReader::Status status = reader.next(line);
    if (status == LineReader::Status::end) break;
    if (status == LineReader::Status::interrupted) {
      stop_requested = false;
      if (std::exchange(warned, true)) break;
      note("\nCtrl-C again, Ctrl-D or /exit leaves");
      continue;
    }
    warned = false;
    if (line.ends_with('\r')) line.pop_back();
    if (!is_valid_utf8(line)) {
      KVANT_CHECK(terminal, ErrorCode::invalid_argument, "standard input: '{}' is not valid UTF-8", printable(line));
      note("not valid UTF-8");
    } else if (!answer(chat, line, own.context)) {
      break;
    }
  }
  if (terminal) write_stderr("\n");
  note("cache " + describe(own.k, own.v, chat.session().cache().usage()));
}

}  // namespace kvant::app
