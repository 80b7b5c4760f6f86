#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/spec.h"
#include "engine/engine.h"
#include "tokenizer/chat_template.h"

namespace kvant::app {

/// Collects the text of a generation and passes it on as it comes, whole characters at a time.
class TextStream {
 public:
  /// on_text may be empty.
  TextStream(const tokenizer::Tokenizer& tokenizer, std::function<void(std::string_view)> on_text);
  void push(engine::Token token) { emit(decoder_.push(token)); }
  void finish() { emit(decoder_.finish()); }
  const std::string& text() const { return text_; }

 private:
  void emit(const std::string& part);

  tokenizer::StreamDecoder decoder_;
  std::function<void(std::string_view)> on_text_;
  std::string text_;
};

struct ChatSettings {
  std::string system;  ///< empty: what the template says
  std::size_t context = 0;
  codec::CacheSpec k, v;
  engine::Session::Options generation;  ///< its callbacks are set by Chat
};

/// A conversation. The cache keeps the history: each turn feeds only what is new.
class Chat {
 public:
  /// Throws as ChatTemplate::from does.
  Chat(engine::Engine& engine, ChatSettings settings);

  struct Turn {
    engine::GenerateResult result;
    bool fits = true;  ///< false: the message did not fit the context and nothing was done
  };
  /// Answers a message, passing the text on as it comes.
  Turn say(std::string_view message, const std::function<void(std::string_view)>& on_text);
  /// Forgets the conversation.
  void reset();

  std::size_t turns() const { return history_.size() / 2; }
  const engine::Session& session() const { return *session_; }

 private:
  void start_session();

  engine::Engine& engine_;
  ChatSettings settings_;
  tokenizer::ChatTemplate template_;
  std::vector<tokenizer::Message> history_;  ///< user and assistant in turn
  std::unique_ptr<engine::Session> session_;
  std::string in_cache_;  ///< the rendered text that the session holds
};

/// Tokens per second of decoding; 0 where nothing was decoded. The first token comes from the prompt's pass, and the
/// end token takes a pass without being among the tokens.
double decode_rate(const engine::GenerateResult& result);

/// The ids of a conversation's text that ends where the assistant's answer begins.
std::vector<engine::Token> chat_prompt(const engine::Engine& engine, const std::string& system,
                                       const std::string& message);

/// Says on standard error when a cache is larger than what the model has seen in training.
void warn_beyond_training(const engine::Engine& engine, std::size_t context);

/// Reads messages from standard input, one a line, and answers each on standard output until its end or "/exit".
/// Ctrl-C stops an answer; twice at the prompt it ends the chat.
void run_chat(engine::Engine& engine, const ChatSettings& settings);

}  // namespace kvant::app
