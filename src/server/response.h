#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/reply.h"
#include "server/slots.h"
#include "tokenizer/tokenizer.h"

namespace kvant::server {

/// The body of an error in OpenAI's shape. Empty `field` and `code` become null.
std::string error_body(std::string_view type, std::string_view message, std::string_view field = {},
                       std::string_view code = {});

/// An answer that has come to its end.
struct Completed {
  Piece piece;
  Ending ending;
};

/// Tokens of the prompts, each counted once however many answers it has, and of the answers.
struct Usage {
  std::size_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
};
/// Of answers that come in groups of n for one prompt.
Usage sum_usage(std::span<const Ending> endings, std::size_t n);

/// Writes the answers to one chat or completion request, whole or as parts of a stream, in OpenAI's shape.
class ResponseWriter {
 public:
  enum class Kind { chat, completion };
  struct Options {
    Kind kind = Kind::chat;
    std::string id;            ///< unique, without its prefix
    std::string model;         ///< its name
    std::int64_t created = 0;  ///< seconds since 1970
    std::size_t n = 1;         ///< answers to a prompt
    bool probabilities = false;
    bool include_usage = false;  ///< a stream ends with the usage
  };
  /// Keeps a reference to the tokenizer.
  ResponseWriter(const tokenizer::Tokenizer& tokenizer, Options options);

  std::string whole(std::span<const Completed> choices) const;

  // Events of a stream ("data: ...\n\n").

  /// What precedes the first piece of a choice; empty for completions.
  std::string opening(std::size_t choice) const;
  std::string part(std::size_t choice, const Piece& piece);
  std::string ending(std::size_t choice, const Ending& ending) const;
  /// The last of the stream.
  std::string closing(const Usage& usage) const;

 private:
  tokenizer::Tokenizer const* tokenizer_;
  Options options_;
  std::vector<std::size_t> offsets_;  ///< bytes of text that a choice has given out
};

/// An event of a stream that says that it failed.
std::string error_event(const std::string& error);

/// Bodies of the smaller routes.
std::string models_body(const std::string& model, std::int64_t created, std::size_t context);
std::string tokens_body(std::span<const tokenizer::Token> tokens);
std::string content_body(std::string_view content);
std::string slots_body(std::span<const Slots::Info> slots);
/// Of a slot that was saved or restored.
std::string slot_body(int slot, const std::string& filename, std::size_t tokens);
/// {"status": ...}
std::string status_body(std::string_view status);

}  // namespace kvant::server
