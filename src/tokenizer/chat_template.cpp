#include "tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"

namespace kvant::tokenizer {
namespace {

constexpr std::string_view kKey = "tokenizer.chat_template";
constexpr std::string_view kSpace = " \t\n\v\f\r";

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// Text without white space at both ends, as Jinja's strip() and trim.
std::string_view stripped(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

/// The characters that a Jinja string literal stands for.
std::string unescaped(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      text += literal[i];
      continue;
    }
    const char c = literal[++i];
    switch (c) {
      case 'n':
        text += '\n';
        break;
      case 't':
        text += '\t';
        break;
      case 'r':
        text += '\r';
        break;
      default:
        text += c;
    }
  }
  return text;
}

/// Whether `quote` ends the literal somewhere in text.
bool closes(std::string_view text, char quote) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == quote) {
      return true;
    }
  }
  return false;
}

/// The system message that a ChatML template writes out as one literal, "" where it has none. What does not end within
/// the literal is a place where the conversation's own message goes.
std::string literal_system(std::string_view source) {
  constexpr std::string_view kOpen = "<|im_start|>system";
  constexpr std::string_view kClose = "<|im_end|>";
  for (std::size_t at = source.find(kOpen); at != std::string_view::npos; at = source.find(kOpen, at + 1)) {
    const char before = at == 0 ? ' ' : source[at - 1];
    std::string_view rest = source.substr(at + kOpen.size());
    if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with('\n')) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    const std::size_t end = rest.find(kClose);
    if (end == std::string_view::npos) continue;
    const std::string_view text = rest.substr(0, end);
    const bool quoted = before == '\'' || before == '"';
    if (quoted && !closes(text, before)) return unescaped(text);
    if (!quoted && !has(text, "{{") && !has(text, "{%")) return std::string(text);
  }
  return {};
}

/// What follows the last </think>, without newlines before it.
std::string_view without_reasoning(std::string_view answer) {
  constexpr std::string_view kEnd = "</think>";
  const std::size_t at = answer.rfind(kEnd);
  if (at == std::string_view::npos) return answer;
  answer.remove_prefix(at + kEnd.size());
  answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
  return answer;
}

void check_roles(std::span<const Message> messages) {
  for (const Message& m : messages) {
    KVANT_CHECK(m.role == "system" || m.role == "user" || m.role == "assistant", ErrorCode::invalid_argument,
                "chat message of role \"{}\", expected system, user or assistant", printable(m.role));
  }
}

std::string render_llama3(std::span<const Message> messages) {
  std::string out;
  for (const Message& m : messages) {
    fmt::format_to(std::back_inserter(out), "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", m.role,
                   stripped(m.content));
  }
  return out;
}

}  // namespace

ChatTemplate ChatTemplate::from(const gguf::File& file) {
  KVANT_CHECK(file.find(kKey) != nullptr, ErrorCode::format, "{}: no chat template ({})", file.path(), kKey);
  const std::string_view source = file.text(kKey);
  ChatTemplate chat;
  if (has(source, "<|start_header_id|>")) {
    chat.kind_ = Kind::llama3;
  } else if (has(source, "<|im_start|>") && has(source, "<|im_end|>") && !has(source, "<|im_sep|>")) {
    chat.kind_ = Kind::chatml;
    chat.default_system_ = literal_system(source);
    chat.drops_reasoning_ = has(source, "</think>");
  } else if (has(source, "[INST]") && has(source, "<<SYS>>")) {
    chat.kind_ = Kind::llama2;
  } else if (has(source, "[INST]")) {
    chat.kind_ = Kind::mistral;
    chat.space_before_close_ = has(source, " [/INST]");
    chat.space_before_answer_ = has(source, "' ' + message") || has(source, "\" \" + message");
  } else {
    fail(ErrorCode::unsupported, "{}: chat template not recognised: \"{}\" (known: ChatML, Llama 2, Llama 3, Mistral)",
         file.path(), printable(source, 60));
  }
  return chat;
}

std::string ChatTemplate::render(std::span<const Message> messages, bool add_generation_prompt) const {
  check_roles(messages);
  switch (kind_) {
    case Kind::chatml:
      return render_chatml(messages) + (add_generation_prompt ? "<|im_start|>assistant\n" : "");
    case Kind::llama3:
      return render_llama3(messages) +
             (add_generation_prompt ? "<|start_header_id|>assistant<|end_header_id|>\n\n" : "");
    case Kind::llama2:
    case Kind::mistral:
      return render_instructions(messages);  // [/INST] itself opens the answer
  }
  return {};
}

std::string ChatTemplate::render_chatml(std::span<const Message> messages) const {
  std::string out;
  const auto turn = [&](std::string_view role, std::string_view content) {
    fmt::format_to(std::back_inserter(out), "<|im_start|>{}\n{}<|im_end|>\n", role, content);
  };
  const bool own_system = !messages.empty() && messages[0].role == "system";
  if (!own_system && !default_system_.empty()) turn("system", default_system_);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool earlier_answer = messages[i].role == "assistant" && i + 1 < messages.size();
    turn(messages[i].role, drops_reasoning_ && earlier_answer ? without_reasoning(messages[i].content)
                                                              : std::string_view(messages[i].content));
  }
  return out;
}

std::string ChatTemplate::render_instructions(std::span<const Message> messages) const {
  const bool llama2 = kind_ == Kind::llama2;
  const auto trim = [&](std::string_view text) { return llama2 ? stripped(text) : text; };
  std::string out;
  std::string system;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Message& m = messages[i];
    if (m.role == "system") {
      KVANT_CHECK(i == 0, ErrorCode::invalid_argument, "a system message must be the first of the chat, not number {}",
                  i + 1);
      system = llama2 ? fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n", m.content) : m.content + "\n\n";
    } else if (m.role == "user") {
      if (llama2 && !out.empty()) out += "<s>";
      out +=
          fmt::format("[INST] {}{}", trim(system + m.content), llama2 || space_before_close_ ? " [/INST]" : "[/INST]");
      system.clear();
    } else {
      out += llama2 ? fmt::format(" {} </s>", trim(m.content))
                    : fmt::format("{}{}</s>", space_before_answer_ ? " " : "", m.content);
    }
  }
  return out;
}

}  // namespace kvant::tokenizer
