#pragma once
#include <span>
#include <string>
#include <string_view>

#include "gguf/reader.h"

namespace kvant::tokenizer {

struct Message {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// A recognised chat template: how turns are written out. Templates are recognised, not interpreted.
class ChatTemplate {
 public:
  enum class Kind { chatml, llama2, llama3, mistral };
  /// From tokenizer.chat_template. Throws unsupported ("FILE: chat template not recognised ...") when it is none of the
  /// known ones, format when there is none.
  static ChatTemplate from(const gguf::File& file);
  /// Writes the whole conversation and, with add_generation_prompt, the opening of the assistant's turn. A ChatML
  /// conversation without a system message gets the default that the file's template states, if it states one.
  std::string render(std::span<const Message> messages, bool add_generation_prompt) const;
  Kind kind() const noexcept { return kind_; }
  std::string_view default_system() const noexcept { return default_system_; }

 private:
  Kind kind_ = Kind::chatml;
  std::string default_system_;
};

}  // namespace kvant::tokenizer
