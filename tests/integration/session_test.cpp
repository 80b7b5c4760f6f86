/// Conversations on a real model: what the session promises however a generation stops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "engine/engine.h"
#include "integration/test_models.h"

namespace kvant::engine {
namespace {

using Stop = GenerateResult::Stop;

const codec::CacheSpec kF32{gguf::TensorType::f32, false};

class SessionTest : public testing::Test {
 protected:
  SessionTest()
      : engine_(integration::own_model("standin-a-q8_0.gguf").string(),
                {.threads = 2, .isa = active_isa(), .precision = kernels::Precision::reference}) {}

  Session session(std::size_t context) { return {engine_, engine_.make_cache(kF32, kF32, context)}; }
  std::vector<Token> encode(std::string_view text) const { return engine_.tokenizer().encode(text); }

  Engine engine_;
};

TEST_F(SessionTest, GreedyTokensAreTheLargestLogitsOfEachForwardPass) {
  std::vector<Token> tokens = encode("The king gave his answer on the third day.");
  Session s = session(128);
  const auto result = s.generate(tokens, {.max_tokens = 20, .stop_at_end = false});
  EXPECT_EQ(result.stop, Stop::length);
  EXPECT_EQ(result.prompt_tokens, tokens.size());
  for (const Token token : result.tokens) {
    cache::KvCache fresh = engine_.make_cache(kF32, kF32, 128);
    const auto row = engine_.transformer().forward(fresh, std::array{model::Input{0, tokens, 1}}).row(0);
    EXPECT_EQ(token, std::max_element(row.begin(), row.end()) - row.begin());
    tokens.push_back(token);
  }
  EXPECT_EQ(s.tokens(), tokens);
}

TEST_F(SessionTest, TurnsGiveWhatOneLongPromptGives) {
  const auto first = encode("The king gave his answer on the third day."), second = encode(" The old road");
  Session turns = session(256);
  std::vector<Token> all = first;
  const auto a = turns.generate(first, {.max_tokens = 10, .stop_at_end = false});
  all.insert(all.end(), a.tokens.begin(), a.tokens.end());
  all.insert(all.end(), second.begin(), second.end());
  const auto b = turns.generate(second, {.max_tokens = 10, .stop_at_end = false});
  Session whole = session(256);
  EXPECT_EQ(whole.generate(all, {.max_tokens = 10, .stop_at_end = false}).tokens, b.tokens);
  EXPECT_EQ(whole.tokens(), turns.tokens());
}

TEST_F(SessionTest, ReportsTokensAndThePromptsProgress) {
  Session s = session(600);
  const auto prompt = integration::random_tokens(520, engine_.config().vocabulary, 5);
  std::vector<std::size_t> done;
  std::vector<Token> seen;
  const auto result = s.generate(prompt, {.max_tokens = 5,
                                          .stop_at_end = false,
                                          .on_token = [&](Token t) { seen.push_back(t); },
                                          .on_prefill =
                                              [&](std::size_t d, std::size_t total) {
                                                done.push_back(d);
                                                EXPECT_EQ(total, 520u);
                                              }});
  EXPECT_THAT(done, testing::ElementsAre(512, 520));
  EXPECT_EQ(seen, result.tokens);
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_GT(result.prefill_seconds, 0);
  EXPECT_GT(result.decode_seconds, 0);
}

TEST_F(SessionTest, StopsWhenTheContextIsFull) {
  const auto prompt = encode("The king gave his answer");
  Session s = session(prompt.size() + 4);
  const auto result = s.generate(prompt, {.max_tokens = 50, .stop_at_end = false});
  EXPECT_EQ(result.stop, Stop::context_full);
  EXPECT_EQ(result.tokens.size(), 4u);
  EXPECT_THROW(s.generate(prompt, {}), Error) << "no room for another turn";
}

TEST_F(SessionTest, StopsAtTheEndTokenUnlessToldNotTo) {
  const auto prompt = encode("The king gave his answer on the third day.");
  Session s = session(128);
  const auto all = s.generate(prompt, {.max_tokens = 12, .stop_at_end = false}).tokens;
  ASSERT_EQ(all.size(), 12u);
  // The same model, where what it says next to last is the end token.
  const Token end = all[10];
  const integration::TemporaryFile file(
      "kvant_end.gguf", integration::with_changes(engine_.file(), "tokenizer.ggml.eos_token_id", [&](gguf::Writer& w) {
        w.set("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(end));
      }));
  Engine engine(file.path(), {.threads = 2, .isa = active_isa(), .precision = kernels::Precision::reference});
  Session stopping(engine, engine.make_cache(kF32, kF32, 128)), going_on(engine, engine.make_cache(kF32, kF32, 128));
  const auto stopped = stopping.generate(prompt, {.max_tokens = 12});
  EXPECT_EQ(stopped.stop, Stop::end_token);
  EXPECT_EQ(stopped.tokens, std::vector<Token>(all.begin(), std::find(all.begin(), all.end(), end)));
  const auto continued = going_on.generate(prompt, {.max_tokens = 12, .stop_at_end = false});
  EXPECT_EQ(continued.stop, Stop::length);
  EXPECT_EQ(continued.tokens, all);
}

TEST_F(SessionTest, ACancelledGenerationLeavesAUsableSession) {
  const auto first = encode("The king gave his answer on the third day."), second = encode(" The old road");
  for (const std::size_t after : {0u, 3u}) {
    SCOPED_TRACE(after);
    Session s = session(256);
    std::atomic<bool> cancel = after == 0;
    std::size_t count = 0;
    const auto a = s.generate(first, {.stop_at_end = false, .cancel = &cancel, .on_token = [&](Token) {
                                        if (++count == after) cancel = true;
                                      }});
    EXPECT_EQ(a.stop, Stop::cancelled);
    EXPECT_EQ(a.tokens.size(), after);

    std::vector<Token> all = first;
    all.insert(all.end(), a.tokens.begin(), a.tokens.end());
    EXPECT_EQ(s.tokens(), all);
    all.insert(all.end(), second.begin(), second.end());
    Session whole = session(256);
    EXPECT_EQ(s.generate(second, {.max_tokens = 10}).tokens, whole.generate(all, {.max_tokens = 10}).tokens);
  }
}

TEST_F(SessionTest, AnExceptionOfTheCallerLeavesAUsableSession) {
  const auto prompt = encode("The king gave his answer on the third day.");
  Session s = session(256), whole = session(256);
  const auto expected = whole.generate(prompt, {.max_tokens = 12, .stop_at_end = false}).tokens;
  EXPECT_THROW(s.generate(prompt, {.on_token = [](Token) { throw std::runtime_error("caller"); }}), std::runtime_error);
  ASSERT_EQ(s.tokens().size(), prompt.size() + 1);
  const std::vector<Token> next{expected[1]};
  const auto rest = s.generate(next, {.max_tokens = 10, .stop_at_end = false}).tokens;
  EXPECT_EQ(rest, std::vector<Token>(expected.begin() + 2, expected.end()));
}

TEST_F(SessionTest, RefusesPromptsThatAreEmptyOrTooLong) {
  Session s = session(16);
  const auto message = [&](std::span<const Token> prompt) -> std::string {
    try {
      s.generate(prompt, {});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({}), "the prompt is empty");
  EXPECT_EQ(message(std::vector<Token>(17, 1)), "the prompt has 17 tokens, but 0 of the context's 16 are in use");
  EXPECT_TRUE(s.tokens().empty());
}

TEST_F(SessionTest, WithoutNewTokensOnlyThePromptIsRead) {
  Session s = session(64);
  const auto prompt = encode("The king");
  EXPECT_TRUE(s.generate(prompt, {.max_tokens = 0}).tokens.empty());
  EXPECT_EQ(s.cache().length(0), prompt.size());
}

}  // namespace
}  // namespace kvant::engine
