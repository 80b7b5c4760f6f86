#include "server/response.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace kvant::server {
namespace {

using json = nlohmann::ordered_json;

/// What OpenAI's interface gives for a logarithm that is as good as minus infinity.
constexpr float kLeastLogarithm = -9999;

std::string dump(const json& document) { return document.dump(-1, ' ', false, json::error_handler_t::replace); }
std::string event(const json& document) { return "data: " + dump(document) + "\n\n"; }

std::string token_text(const tokenizer::Tokenizer& tokenizer, tokenizer::Token token) {
  return std::string(tokenizer.piece(token, true));
}

json chat_entry(const tokenizer::Tokenizer& tokenizer, const engine::LogProbabilities::Entry& entry) {
  const std::string text = token_text(tokenizer, entry.token);
  json bytes = json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", std::max(entry.log_probability, kLeastLogarithm)}, {"bytes", bytes}};
}

json chat_probabilities(const tokenizer::Tokenizer& tokenizer, const Piece& piece) {
  json content = json::array();
  for (const engine::LogProbabilities& token : piece.tokens) {
    json entry = chat_entry(tokenizer, token.chosen);
    entry["top_logprobs"] = json::array();
    for (const auto& other : token.top) entry["top_logprobs"].push_back(chat_entry(tokenizer, other));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

/// offset: bytes of the answer before the piece.
json completion_probabilities(const tokenizer::Tokenizer& tokenizer, const Piece& piece, std::size_t offset) {
  json tokens = json::array(), values = json::array(), tops = json::array(), offsets = json::array();
  for (const engine::LogProbabilities& token : piece.tokens) {
    const std::string text = token_text(tokenizer, token.chosen.token);
    tokens.push_back(text);
    values.push_back(std::max(token.chosen.log_probability, kLeastLogarithm));
    json top = json::object();
    for (const auto& other : token.top) {
      top[token_text(tokenizer, other.token)] = std::max(other.log_probability, kLeastLogarithm);
    }
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += text.size();
  }
  return {{"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

std::string_view finish_reason(Finish finish) { return finish == Finish::length ? "length" : "stop"; }

json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.generated_tokens},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

/// What every document and event starts with.
json head(const ResponseWriter::Options& options, bool stream) {
  const bool chat = options.kind == ResponseWriter::Kind::chat;
  const std::string_view object = !chat ? "text_completion" : stream ? "chat.completion.chunk" : "chat.completion";
  return {{"id", (chat ? "chatcmpl-" : "cmpl-") + options.id},
          {"object", object},
          {"created", options.created},
          {"model", options.model}};
}

json probabilities_json(const tokenizer::Tokenizer& tokenizer, const ResponseWriter::Options& options,
                        const Piece& piece, std::size_t offset) {
  if (!options.probabilities) return nullptr;
  return options.kind == ResponseWriter::Kind::chat ? chat_probabilities(tokenizer, piece)
                                                    : completion_probabilities(tokenizer, piece, offset);
}

/// An event with one choice.
std::string choice_event(const ResponseWriter::Options& options, json choice) {
  json document = head(options, true);
  document["choices"] = json::array({std::move(choice)});
  if (options.include_usage) document["usage"] = nullptr;
  return event(document);
}

}  // namespace

std::string error_body(std::string_view type, std::string_view message, std::string_view field, std::string_view code) {
  const auto or_null = [](std::string_view text) { return text.empty() ? json(nullptr) : json(text); };
  return dump({{"error", {{"message", message}, {"type", type}, {"param", or_null(field)}, {"code", or_null(code)}}}});
}

Usage sum_usage(std::span<const Ending> endings, std::size_t n) {
  Usage usage;
  for (std::size_t i = 0; i < endings.size(); ++i) {
    usage.generated_tokens += endings[i].generated_tokens;
    if (i % n != 0) continue;
    usage.prompt_tokens += endings[i].prompt_tokens;
    usage.cached_tokens += endings[i].cached_tokens;
  }
  return usage;
}

ResponseWriter::ResponseWriter(const tokenizer::Tokenizer& tokenizer, Options options)
    : tokenizer_(&tokenizer), options_(std::move(options)) {}

std::string ResponseWriter::whole(std::span<const Completed> choices) const {
  json document = head(options_, false);
  document["choices"] = json::array();
  std::vector<Ending> endings;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const auto& [piece, ending] = choices[i];
    json choice = {{"index", i}};
    if (options_.kind == Kind::chat) {
      choice["message"] = {{"role", "assistant"}, {"content", piece.text}, {"refusal", nullptr}};
    } else {
      choice["text"] = piece.text;
    }
    choice["logprobs"] = probabilities_json(*tokenizer_, options_, piece, 0);
    choice["finish_reason"] = finish_reason(ending.finish);
    document["choices"].push_back(std::move(choice));
    endings.push_back(ending);
  }
  document["usage"] = usage_json(sum_usage(endings, options_.n));
  return dump(document);
}

std::string ResponseWriter::opening(std::size_t choice) const {
  if (options_.kind == Kind::completion) return {};
  return choice_event(options_, {{"index", choice},
                                 {"delta", {{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}},
                                 {"logprobs", nullptr},
                                 {"finish_reason", nullptr}});
}

std::string ResponseWriter::part(std::size_t choice, const Piece& piece) {
  offsets_.resize(std::max(offsets_.size(), choice + 1));
  json entry = {{"index", choice}};
  if (options_.kind == Kind::chat) {
    entry["delta"] = {{"content", piece.text}};
  } else {
    entry["text"] = piece.text;
  }
  entry["logprobs"] = probabilities_json(*tokenizer_, options_, piece, offsets_[choice]);
  entry["finish_reason"] = nullptr;
  offsets_[choice] += piece.text.size();
  return choice_event(options_, std::move(entry));
}

std::string ResponseWriter::ending(std::size_t choice, const Ending& ending) const {
  json entry = {{"index", choice}};
  if (options_.kind == Kind::chat) {
    entry["delta"] = json::object();
  } else {
    entry["text"] = "";
  }
  entry["logprobs"] = nullptr;
  entry["finish_reason"] = finish_reason(ending.finish);
  return choice_event(options_, std::move(entry));
}

std::string ResponseWriter::closing(const Usage& usage) const {
  std::string text;
  if (options_.include_usage) {
    json document = head(options_, true);
    document["choices"] = json::array();
    document["usage"] = usage_json(usage);
    text = event(document);
  }
  return text + "data: [DONE]\n\n";
}

std::string error_event(const std::string& error) { return "data: " + error + "\n\n"; }

std::string models_body(const std::string& model, std::int64_t created, std::size_t context) {
  return dump({{"object", "list"},
               {"data", json::array({{{"id", model},
                                      {"object", "model"},
                                      {"created", created},
                                      {"owned_by", "kvant"},
                                      {"context_length", context}}})}});
}

std::string tokens_body(std::span<const tokenizer::Token> tokens) { return dump({{"tokens", tokens}}); }

std::string content_body(std::string_view content) { return dump({{"content", content}}); }

std::string slots_body(std::span<const Slots::Info> slots) {
  json list = json::array();
  for (const Slots::Info& slot : slots) {
    list.push_back({{"id", slot.sequence}, {"state", slot.running ? "running" : "kept"}, {"tokens", slot.tokens}});
  }
  return dump({{"slots", list}});
}

std::string slot_body(int slot, const std::string& filename, std::size_t tokens) {
  return dump({{"id", slot}, {"filename", filename}, {"tokens", tokens}});
}

std::string status_body(std::string_view status) { return dump({{"status", status}}); }

}  // namespace kvant::server
