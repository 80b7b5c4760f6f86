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

/// A recognised chat template: how turns are written out. Templates are recognised, not interpreted: the parts of a
/// template that describe tools are not used.
class ChatTemplate {
 public:
  enum class Kind { chatml, llama2, llama3, mistral };
  /// From tokenizer.chat_template. Throws unsupported ("FILE: chat template not recognised ...") when it is none of the
  /// known ones, format when there is none.
  static ChatTemplate from(const gguf::File& file);
  /// Writes the whole conversation and, with add_generation_prompt, the opening of the assistant's turn. A ChatML
  /// conversation that does not start with a system message gets the default that the file's template states, if it
  /// states one. The BOS at the very start is left to the caller, who adds it as to any text (Tokenizer::add_bos).
  /// Throws invalid_argument on a role that the template has no place for.
  std::string render(std::span<const Message> messages, bool add_generation_prompt) const;
  Kind kind() const noexcept { return kind_; }
  std::string_view default_system() const noexcept { return default_system_; }

 private:
  std::string render_chatml(std::span<const Message> messages) const;
  std::string render_instructions(std::span<const Message> messages) const;

  Kind kind_ = Kind::chatml;
  std::string default_system_;
  bool drops_reasoning_ = false;      // ChatML of Qwen3: earlier answers lose their <think> part
  bool space_before_close_ = false;   // Mistral: " [/INST]" rather than "[/INST]"
  bool space_before_answer_ = false;  // Mistral: a space between [/INST] and the answer
};

}  // namespace kvant::tokenizer
