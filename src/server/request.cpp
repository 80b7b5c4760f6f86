#include "server/request.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace kvant::server {
namespace {

using nlohmann::json;

template <class... Args>
[[noreturn]] void refuse(std::string field, fmt::format_string<Args...> format, Args&&... args) {
  throw BadRequest(std::move(field), fmt::format(format, std::forward<Args>(args)...));
}

/// The value as it may be shown in an error.
std::string shown(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 40);
}

json parse(std::string_view body, std::size_t depth) {
  try {
    json document = json::parse(body, [depth](int at, json::parse_event_t, json&) {
      if (at > static_cast<int>(depth)) refuse("", "the JSON is nested more than {} levels deep", depth);
      return true;
    });
    if (!document.is_object()) refuse("", "the body is {}, expected a JSON object", document.type_name());
    return document;
  } catch (const json::exception& e) {
    const std::string_view what = e.what();
    const std::size_t at = what.find("] ");
    refuse("", "the body is not valid JSON: {}", printable(at == what.npos ? what : what.substr(at + 2), 200));
  }
}

/// The fields of a JSON object, each asked for once; what is left at the end is unknown. A field that is null counts as
/// absent.
class Fields {
 public:
  /// at: where the object stands, "" for the body itself or "stream_options."
  Fields(const json& object, std::string at) : object_(object), at_(std::move(at)) {}

  std::string path(std::string_view name) const { return at_ + std::string(name); }

  const json* find(std::string_view name) {
    known_.push_back(name);
    const auto entry = object_.find(name);
    return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
  }

  std::optional<bool> boolean(std::string_view name) {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) refuse(path(name), "{} is {}, expected true or false", path(name), shown(*value));
    return value->get<bool>();
  }

  std::optional<std::string> text(std::string_view name) {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) refuse(path(name), "{} is {}, expected a string", path(name), shown(*value));
    return value->get<std::string>();
  }

  std::optional<double> number(std::string_view name, double least, double most) {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    const double x = value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(x >= least && x <= most)) {
      refuse(path(name), "{} is {}, expected a number from {} to {}", path(name), shown(*value), least, most);
    }
    return x;
  }

  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least, std::int64_t most) {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() && value->get<std::uint64_t>() > std::uint64_t{INT64_MAX});
    const std::int64_t x = fits ? value->get<std::int64_t>() : 0;
    if (!fits || x < least || x > most) {
      refuse(path(name), "{} is {}, expected a whole number from {} to {}", path(name), shown(*value), least, most);
    }
    return x;
  }

  const json* array(std::string_view name, std::size_t least, std::size_t most) {
    const json* value = find(name);
    if (value == nullptr) return nullptr;
    if (!value->is_array()) refuse(path(name), "{} is {}, expected a list", path(name), shown(*value));
    if (value->size() < least || value->size() > most) {
      refuse(path(name), "{} has {} entries, expected {} to {}", path(name), value->size(), least, most);
    }
    return value;
  }

  /// A field that is accepted for its default alone.
  void only(std::string_view name, const std::vector<json>& accepted) {
    const json* value = find(name);
    if (value == nullptr || std::find(accepted.begin(), accepted.end(), *value) != accepted.end()) return;
    refuse(path(name), "{} is {}, which this server does not support", path(name), shown(*value));
  }

  /// A field that changes nothing here.
  void ignore(std::string_view name) { find(name); }

  void refuse_others() const {
    for (const auto& [name, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      refuse(at_ + printable(name), "unknown field: {}", at_ + printable(name));
    }
  }

 private:
  const json& object_;
  std::string at_;
  std::vector<std::string_view> known_;
};

constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;

std::vector<std::string> read_stops(Fields& fields, const RequestLimits& limits) {
  const json* value = fields.find("stop");
  if (value == nullptr) return {};
  std::vector<std::string> stops;
  if (value->is_string()) {
    stops.push_back(value->get<std::string>());
  } else {
    const json* list = fields.array("stop", 0, limits.stops);
    for (const json& entry : *list) {
      if (!entry.is_string()) refuse("stop", "stop holds {}, expected strings", shown(entry));
      stops.push_back(entry.get<std::string>());
    }
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > limits.stop_bytes) {
      refuse("stop", "a stop string has {} bytes, expected 1 to {}", stop.size(), limits.stop_bytes);
    }
  }
  return stops;
}

void read_sampler(Fields& fields, GenerationRequest& request) {
  engine::SamplerOptions& sampler = request.sampler;
  sampler.temperature = fields.number("temperature", 0, 2).value_or(1);
  sampler.top_p = fields.number("top_p", 0, 1).value_or(1);
  // 0 keeps the likeliest token alone, which is what the smallest p does.
  if (sampler.top_p == 0) sampler.top_p = std::numeric_limits<double>::min();
  sampler.top_k = static_cast<int>(fields.integer("top_k", 0, std::numeric_limits<int>::max()).value_or(0));
  sampler.min_p = fields.number("min_p", 0, 1).value_or(0);
  sampler.repeat_penalty = fields.number("repeat_penalty", 0.01, 100).value_or(1);
  if (const auto seed =
          fields.integer("seed", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max())) {
    sampler.seed = static_cast<std::uint64_t>(*seed);
    request.has_seed = true;
  }
  for (const char* penalty : {"frequency_penalty", "presence_penalty"}) fields.only(penalty, {0, 0.0});
  fields.only("logit_bias", {json::object()});
}

void read_common(Fields& fields, const RequestLimits& limits, GenerationRequest& request) {
  request.model = fields.text("model").value_or("");
  if (const auto most = fields.integer("max_tokens", 1, kMostTokens)) {
    request.max_tokens = static_cast<std::size_t>(*most);
  }
  request.n = static_cast<std::size_t>(fields.integer("n", 1, static_cast<std::int64_t>(limits.choices)).value_or(1));
  read_sampler(fields, request);
  request.stops = read_stops(fields, limits);
  request.ignore_end = fields.boolean("ignore_eos").value_or(false);
  request.stream = fields.boolean("stream").value_or(false);
  if (const json* options = fields.find("stream_options")) {
    if (!options->is_object()) refuse("stream_options", "stream_options is {}, expected an object", shown(*options));
    if (!request.stream) refuse("stream_options", "stream_options is given, but stream is not true");
    Fields inner(*options, "stream_options.");
    request.include_usage = inner.boolean("include_usage").value_or(false);
    inner.ignore("include_obfuscation");
    inner.refuse_others();
  }
  for (const char* name : {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}) {
    fields.ignore(name);
  }
}

/// The text of a message: a string, or parts of type "text".
std::string read_content(const json& content, const std::string& at) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) refuse(at, "{} is {}, expected a string or a list of text parts", at, shown(content));
  std::string text;
  for (std::size_t i = 0; i < content.size(); ++i) {
    const std::string part = fmt::format("{}[{}]", at, i);
    if (!content[i].is_object()) refuse(part, "{} is {}, expected an object", part, shown(content[i]));
    Fields fields(content[i], part + ".");
    const std::string type = fields.text("type").value_or("");
    if (type != "text") refuse(part + ".type", "{}.type is \"{}\", expected \"text\"", part, printable(type));
    const auto piece = fields.text("text");
    if (!piece) refuse(part + ".text", "{}.text is missing", part);
    fields.refuse_others();
    text += *piece;
  }
  return text;
}

tokenizer::Message read_message(const json& message, const std::string& at) {
  if (!message.is_object()) refuse(at, "{} is {}, expected an object", at, shown(message));
  Fields fields(message, at + ".");
  tokenizer::Message result;
  result.role = fields.text("role").value_or("");
  if (result.role == "developer") result.role = "system";
  if (result.role != "system" && result.role != "user" && result.role != "assistant") {
    refuse(at + ".role", "{}.role is \"{}\", expected system, developer, user or assistant", at,
           printable(result.role));
  }
  const json* content = fields.find("content");
  if (content == nullptr) refuse(at + ".content", "{}.content is missing", at);
  result.content = read_content(*content, at + ".content");
  fields.ignore("name");
  fields.only("refusal", {});
  fields.only("audio", {});
  fields.only("tool_calls", {json::array()});
  fields.only("annotations", {json::array()});
  fields.refuse_others();
  return result;
}

Token read_token(const json& value, const std::string& at) {
  const bool fits = value.is_number_integer() && value >= 0 && value <= std::numeric_limits<Token>::max();
  if (!fits) refuse(at, "{} holds {}, expected token ids", at, shown(value));
  return value.get<Token>();
}

std::vector<Token> read_tokens(const json& list, const std::string& at) {
  std::vector<Token> tokens;
  for (const json& value : list) tokens.push_back(read_token(value, at));
  return tokens;
}

/// A string, a list of strings, a list of ids, or a list of such lists.
void read_prompts(Fields& fields, const RequestLimits& limits, CompletionRequest& request) {
  const json* prompt = fields.find("prompt");
  if (prompt == nullptr) refuse("prompt", "prompt is missing");
  if (prompt->is_string()) {
    request.prompts.emplace_back(prompt->get<std::string>());
    return;
  }
  if (!prompt->is_array() || prompt->empty()) {
    refuse("prompt", "prompt is {}, expected a string, a list of strings or a list of token ids", shown(*prompt));
  }
  if (prompt->front().is_number()) {
    request.prompts.emplace_back(read_tokens(*prompt, "prompt"));
    return;
  }
  if (prompt->size() > limits.prompts) {
    refuse("prompt", "prompt has {} entries, expected at most {}", prompt->size(), limits.prompts);
  }
  for (const json& entry : *prompt) {
    if (entry.is_string()) {
      request.prompts.emplace_back(entry.get<std::string>());
    } else if (entry.is_array()) {
      request.prompts.emplace_back(read_tokens(entry, "prompt"));
    } else {
      refuse("prompt", "prompt holds {}, expected strings or lists of token ids", shown(entry));
    }
  }
}

}  // namespace

ChatRequest parse_chat(std::string_view body, const RequestLimits& limits) {
  const json document = parse(body, limits.depth);
  Fields fields(document, "");
  ChatRequest request;
  const json* messages = fields.array("messages", 1, limits.messages);
  if (messages == nullptr) refuse("messages", "messages is missing");
  for (std::size_t i = 0; i < messages->size(); ++i) {
    request.messages.push_back(read_message((*messages)[i], fmt::format("messages[{}]", i)));
  }
  read_common(fields, limits, request);
  if (const auto most = fields.integer("max_completion_tokens", 1, kMostTokens)) {
    request.max_tokens = static_cast<std::size_t>(*most);
  }
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, static_cast<std::int64_t>(limits.top_log_probabilities));
  if (top && !wanted) refuse("top_logprobs", "top_logprobs is given, but logprobs is not true");
  if (wanted) request.log_probabilities = static_cast<std::size_t>(top.value_or(0));
  fields.only("response_format", {json{{"type", "text"}}});
  fields.only("tools", {json::array()});
  fields.only("tool_choice", {"none", "auto"});
  fields.only("functions", {json::array()});
  fields.only("function_call", {"none"});
  fields.only("modalities", {json::array({"text"})});
  fields.ignore("parallel_tool_calls");
  fields.refuse_others();
  return request;
}

CompletionRequest parse_completion(std::string_view body, const RequestLimits& limits) {
  const json document = parse(body, limits.depth);
  Fields fields(document, "");
  CompletionRequest request;
  read_prompts(fields, limits, request);
  read_common(fields, limits, request);
  if (request.n * request.prompts.size() > limits.choices) {
    refuse("n", "{} prompts with {} answers each, expected at most {} answers", request.prompts.size(), request.n,
           limits.choices);
  }
  if (const auto top = fields.integer("logprobs", 0, static_cast<std::int64_t>(limits.top_log_probabilities))) {
    request.log_probabilities = static_cast<std::size_t>(*top);
  }
  fields.only("best_of", {request.n});
  fields.only("echo", {false});
  fields.only("suffix", {""});
  fields.refuse_others();
  return request;
}

TokenizeRequest parse_tokenize(std::string_view body, const RequestLimits& limits) {
  const json document = parse(body, limits.depth);
  Fields fields(document, "");
  TokenizeRequest request;
  const auto text = fields.text("content");
  if (!text) refuse("content", "content is missing");
  request.text = *text;
  request.add_special = fields.boolean("add_special").value_or(false);
  request.parse_special = fields.boolean("parse_special").value_or(true);
  fields.refuse_others();
  return request;
}

DetokenizeRequest parse_detokenize(std::string_view body, const RequestLimits& limits) {
  const json document = parse(body, limits.depth);
  Fields fields(document, "");
  const json* tokens = fields.array("tokens", 0, std::numeric_limits<std::size_t>::max());
  if (tokens == nullptr) refuse("tokens", "tokens is missing");
  DetokenizeRequest request{read_tokens(*tokens, "tokens")};
  fields.refuse_others();
  return request;
}

SlotRequest parse_slot(std::string_view body, const RequestLimits& limits) {
  const json document = parse(body, limits.depth);
  Fields fields(document, "");
  SlotRequest request;
  request.filename = fields.text("filename").value_or("");
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  if (request.filename.empty() || request.filename.size() > 128 || request.filename.front() == '.' ||
      !std::all_of(request.filename.begin(), request.filename.end(), plain)) {
    refuse("filename", "filename is \"{}\", expected 1 to 128 letters, digits, -, _ and ., which is not the first",
           printable(request.filename));
  }
  fields.refuse_others();
  return request;
}

}  // namespace kvant::server
