#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/sampler.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace kvant::server {

using tokenizer::Token;

/// A request that cannot be served as it is, in the terms of OpenAI's errors.
class BadRequest : public std::runtime_error {
 public:
  /// field: the one that is wrong, such as "messages[0].role"; may be empty.
  BadRequest(std::string field, const std::string& message) : std::runtime_error(message), field_(std::move(field)) {}
  const std::string& field() const noexcept { return field_; }

 private:
  std::string field_;
};

/// What a request may ask for at most.
struct RequestLimits {
  std::size_t depth = 16;  ///< of nested JSON
  std::size_t messages = 4096;
  std::size_t prompts = 64;
  std::size_t choices = 16;  ///< n, times prompts where there are several
  std::size_t stops = 16;
  std::size_t stop_bytes = 256;  ///< of each
  std::size_t top_log_probabilities = 20;
};

/// What chat and completion requests have in common.
struct GenerationRequest {
  std::string model;  ///< empty: not named
  std::optional<std::size_t> max_tokens;
  std::size_t n = 1;
  engine::SamplerOptions sampler;
  bool has_seed = false;
  std::vector<std::string> stops;
  std::optional<std::size_t> log_probabilities;  ///< of how many likeliest tokens beside the chosen one
  bool ignore_end = false;                       ///< "ignore_eos"
  bool stream = false;
  bool include_usage = false;  ///< a last part of a stream with the usage
};

struct ChatRequest : GenerationRequest {
  std::vector<tokenizer::Message> messages;
};

struct CompletionRequest : GenerationRequest {
  /// Texts, or ids as they are.
  std::vector<std::variant<std::string, std::vector<Token>>> prompts;
};

struct TokenizeRequest {
  std::string text;
  bool add_special = false;  ///< BOS in front, where the vocabulary asks for it
  bool parse_special = true;
};

struct DetokenizeRequest {
  std::vector<Token> tokens;  ///< not checked against a vocabulary
};

struct SlotRequest {
  std::string filename;  ///< a plain name: letters, digits, '-', '_' and '.', which does not come first
};

// Parsers of untrusted bodies: every field is checked for type and range, unknown ones are refused, as are the parts of
// OpenAI's interface that are not implemented when they ask for anything. All throw BadRequest and nothing else.

/// Temperature and top_p default to 1, as in OpenAI's interface.
ChatRequest parse_chat(std::string_view body, const RequestLimits& limits = {});
CompletionRequest parse_completion(std::string_view body, const RequestLimits& limits = {});
TokenizeRequest parse_tokenize(std::string_view body, const RequestLimits& limits = {});
SlotRequest parse_slot(std::string_view body, const RequestLimits& limits = {});
DetokenizeRequest parse_detokenize(std::string_view body, const RequestLimits& limits = {});

}  // namespace kvant::server
