#include "server/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace kvant::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kMessages = R"("messages": [{"role": "user", "content": "Hi"}])";

std::string chat_body(std::string_view more) {
  return "{" + std::string(kMessages) + (more.empty() ? "" : ", ") + std::string(more) + "}";
}
std::string completion_body(std::string_view more) {
  return R"({"prompt": "Once")" + std::string(more.empty() ? "" : ", ") + std::string(more) + "}";
}

/// Field and message of the refusal.
template <class Parse>
std::pair<std::string, std::string> refusal(Parse parse, std::string_view body) {
  try {
    parse(body, RequestLimits{});
  } catch (const BadRequest& e) {
    return {e.field(), e.what()};
  }
  ADD_FAILURE() << "accepted: " << body;
  return {};
}

void expect_refused(std::string_view more, std::string_view field, std::string_view message) {
  for (const bool chat : {true, false}) {
    const auto [where, what] =
        chat ? refusal(parse_chat, chat_body(more)) : refusal(parse_completion, completion_body(more));
    EXPECT_EQ(where, field) << more;
    EXPECT_THAT(what, HasSubstr(std::string(message))) << more;
  }
}

TEST(Request, ChatDefaultsAreThoseOfTheInterface) {
  const ChatRequest request = parse_chat(chat_body(""));
  ASSERT_EQ(request.messages.size(), 1u);
  EXPECT_EQ(request.messages[0].role, "user");
  EXPECT_EQ(request.messages[0].content, "Hi");
  EXPECT_EQ(request.sampler.temperature, 1);
  EXPECT_EQ(request.sampler.top_p, 1);
  EXPECT_EQ(request.n, 1u);
  EXPECT_FALSE(request.max_tokens || request.log_probabilities || request.stream || request.has_seed);
}

TEST(Request, ReadsEveryField) {
  const ChatRequest request = parse_chat(chat_body(
      R"("model": "m", "max_completion_tokens": 7, "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
         "repeat_penalty": 1.1, "seed": -3, "stop": ["a", "bc"], "logprobs": true, "top_logprobs": 4, "stream": true,
         "stream_options": {"include_usage": true}, "ignore_eos": true, "user": "me", "tools": [], "tool_choice": "auto",
         "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"})"));
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.n, 2u);
  EXPECT_EQ(request.sampler.temperature, 0.5);
  EXPECT_EQ(request.sampler.top_p, 0.9);
  EXPECT_EQ(request.sampler.top_k, 5);
  EXPECT_EQ(request.sampler.min_p, 0.1);
  EXPECT_EQ(request.sampler.repeat_penalty, 1.1);
  EXPECT_TRUE(request.has_seed);
  EXPECT_EQ(request.sampler.seed, static_cast<std::uint64_t>(-3));
  EXPECT_THAT(request.stops, ElementsAre("a", "bc"));
  EXPECT_EQ(request.log_probabilities, 4u);
  EXPECT_TRUE(request.stream && request.include_usage && request.ignore_end);
}

TEST(Request, MessagesMayHaveTextPartsAndTheDevelopersRole) {
  const ChatRequest request = parse_chat(
      R"({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
                       {"role": "user", "content": "Hi", "name": "Ann"},
                       {"role": "assistant", "content": "Ho", "refusal": null, "tool_calls": []}]})");
  ASSERT_EQ(request.messages.size(), 3u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[0].content, "Be brief.");
}

TEST(Request, PromptsAreTextsOrTokens) {
  const auto prompts = [](std::string_view json) {
    return parse_completion(R"({"prompt": )" + std::string(json) + "}").prompts;
  };
  EXPECT_EQ(std::get<std::string>(prompts(R"("a")").at(0)), "a");
  EXPECT_EQ(prompts(R"(["a", "b"])").size(), 2u);
  EXPECT_THAT(std::get<std::vector<Token>>(prompts("[1, 2]").at(0)), ElementsAre(1, 2));
  EXPECT_THAT(std::get<std::vector<Token>>(prompts("[[1], [2, 3]]").at(1)), ElementsAre(2, 3));
  for (const char* bad : {"7", "[]", "[true]", "[1, -2]", "[1, \"a\"]", "[1, 2.5]", "[4294967296]", "{}"}) {
    EXPECT_EQ(refusal(parse_completion, R"({"prompt": )" + std::string(bad) + "}").first, "prompt") << bad;
  }
  EXPECT_EQ(refusal(parse_completion, "{}").second, "prompt is missing");
}

TEST(Request, WrongValuesAreRefusedByName) {
  expect_refused(R"("temperature": "hot")", "temperature", "temperature is \"hot\", expected a number from 0 to 2");
  expect_refused(R"("temperature": 2.1)", "temperature", "expected a number");
  expect_refused(R"("top_p": -0.1)", "top_p", "top_p is -0.1");
  expect_refused(R"("n": 0)", "n", "n is 0, expected a whole number from 1 to 16");
  expect_refused(R"("n": 1.0)", "n", "n is 1.0");
  expect_refused(R"("max_tokens": -1)", "max_tokens", "max_tokens is -1");
  expect_refused(R"("max_tokens": 99999999999999999999)", "max_tokens", "expected a whole number");
  expect_refused(R"("seed": 18446744073709551615)", "seed", "expected a whole number");
  expect_refused(R"("stream": 1)", "stream", "stream is 1, expected true or false");
  expect_refused(R"("stop": 3)", "stop", "stop is 3, expected a list");
  expect_refused(R"("stop": [""])", "stop", "a stop string has 0 bytes");
  expect_refused(R"("stop": [null])", "stop", "stop holds null");
  expect_refused(R"("model": {})", "model", "model is {}, expected a string");
  expect_refused(R"("stream_options": {"include_usage": true})", "stream_options", "stream is not true");
  expect_refused(R"("stream": true, "stream_options": {"include_usge": true})", "stream_options.include_usge",
                 "unknown field");
  expect_refused(R"("max_token": 3)", "max_token", "unknown field: max_token");
}

TEST(Request, WhatIsNotImplementedIsRefusedNotIgnored) {
  expect_refused(R"("frequency_penalty": 0.5)", "frequency_penalty", "does not support");
  expect_refused(R"("logit_bias": {"5": 1})", "logit_bias", "does not support");
  EXPECT_EQ(refusal(parse_chat, chat_body(R"("tools": [{"type": "function"}])")).first, "tools");
  EXPECT_EQ(refusal(parse_chat, chat_body(R"("response_format": {"type": "json_object"})")).first, "response_format");
  EXPECT_EQ(refusal(parse_completion, completion_body(R"("echo": true)")).first, "echo");
  EXPECT_EQ(refusal(parse_completion, completion_body(R"("best_of": 3)")).first, "best_of");
}

TEST(Request, BrokenMessagesAreRefusedByPlace) {
  const auto at = [](std::string_view messages) {
    return refusal(parse_chat, R"({"messages": )" + std::string(messages) + "}").first;
  };
  EXPECT_EQ(at("[]"), "messages");
  EXPECT_EQ(at("\"Hi\""), "messages");
  EXPECT_EQ(at("[1]"), "messages[0]");
  EXPECT_EQ(at(R"([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}])"), "messages[1].role");
  EXPECT_EQ(at(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(at(R"([{"role": "user", "content": 5}])"), "messages[0].content");
  EXPECT_EQ(at(R"([{"role": "user", "content": [{"type": "image_url"}]}])"), "messages[0].content[0].type");
  EXPECT_EQ(at(R"([{"role": "user", "content": "a", "tone": "b"}])"), "messages[0].tone");
  EXPECT_EQ(refusal(parse_chat, "{}").second, "messages is missing");
}

TEST(Request, ProbabilitiesDifferBetweenTheInterfaces) {
  EXPECT_EQ(parse_chat(chat_body(R"("logprobs": true)")).log_probabilities, 0u);
  EXPECT_EQ(parse_completion(completion_body(R"("logprobs": 3)")).log_probabilities, 3u);
  EXPECT_EQ(refusal(parse_chat, chat_body(R"("top_logprobs": 3)")).first, "top_logprobs");
  EXPECT_EQ(refusal(parse_chat, chat_body(R"("logprobs": 3)")).first, "logprobs");
  EXPECT_EQ(refusal(parse_completion, completion_body(R"("logprobs": true)")).first, "logprobs");
  EXPECT_EQ(refusal(parse_completion, completion_body(R"("logprobs": 21)")).first, "logprobs");
}

TEST(Request, HostileJsonIsRefused) {
  for (const std::string& body :
       {std::string(""), std::string("nonsense"), std::string("[]"), std::string("3"), std::string("{\"prompt\": NaN}"),
        std::string("{\"prompt\": \"\xff\"}"), std::string("{\"prompt\": \"\\ud800\"}"),
        std::string("{\"prompt\": 1e999}"), std::string("{\"prompt\": \"a\"} x"), std::string(100'000, '['),
        "{\"prompt\": " + std::string(100'000, '['), std::string("{\"a\": 1, \0}", 11)}) {
    EXPECT_EQ(refusal(parse_completion, body).first, "") << body.substr(0, 40);
  }
  EXPECT_THAT(refusal(parse_completion, "{\"prompt\": " + std::string(20, '[') + std::string(20, ']') + "}").second,
              HasSubstr("nested more than 16 levels"));
  const std::string name(1000, 'x');
  EXPECT_LT(refusal(parse_completion, completion_body("\"" + name + "\": 1")).second.size(), 200u);
}

TEST(Request, SlotsHavePlainFileNames) {
  EXPECT_EQ(parse_slot(R"({"filename": "Chat-1_a.kv"})").filename, "Chat-1_a.kv");
  for (const char* bad : {"", ".", "..", ".hidden", "a/b", "../a", "/a", "a\\\\b", "a b", "a\\u0000", "\\u00e4"}) {
    EXPECT_EQ(refusal(parse_slot, fmt::format(R"({{"filename": "{}"}})", bad)).first, "filename") << bad;
  }
  EXPECT_EQ(refusal(parse_slot, "{}").first, "filename");
}

TEST(Request, TokenizeAndDetokenize) {
  const TokenizeRequest request = parse_tokenize(R"({"content": "a", "add_special": true, "parse_special": false})");
  EXPECT_EQ(request.text, "a");
  EXPECT_TRUE(request.add_special);
  EXPECT_FALSE(request.parse_special);
  EXPECT_EQ(refusal(parse_tokenize, "{}").first, "content");
  EXPECT_THAT(parse_detokenize(R"({"tokens": [5, 0]})").tokens, ElementsAre(5, 0));
  EXPECT_EQ(refusal(parse_detokenize, R"({"tokens": [-1]})").first, "tokens");
}

}  // namespace
}  // namespace kvant::server
