/// Conversations that share the pool of one cache, on a real model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "engine/engine.h"
#include "integration/random_model.h"
#include "integration/test_models.h"

namespace kvant::engine {
namespace {

using model::Input;
using testing::HasSubstr;

using Tokens = std::vector<Token>;

/// Several conversations that go on token by token, each by its most likely token, in one batch.
class Conversations {
 public:
  Conversations(Engine& engine, const Engine::CacheOptions& options)
      : engine_(&engine), cache_(engine.make_cache(options)), said_(static_cast<std::size_t>(options.sequences)) {}

  cache::KvCache& cache() { return cache_; }
  const Tokens& said(int sequence) const { return said_[static_cast<std::size_t>(sequence)]; }

  /// Computes all but the last of these tokens, which is left to the first step.
  void prefill(int sequence, const Tokens& tokens) {
    const std::size_t known = cache_.length(sequence);
    const auto rest = std::span(tokens).subspan(known, tokens.size() - 1 - known);
    const Input input{sequence, rest, 0};
    engine_->transformer().forward(cache_, {&input, 1});
    said_[static_cast<std::size_t>(sequence)] = tokens;
  }
  void step(const std::vector<int>& sequences) {
    std::vector<Input> inputs;
    for (const int s : sequences) inputs.push_back({s, std::span(said(s)).last(1), 1});
    const auto logits = engine_->transformer().forward(cache_, inputs);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto row = logits.row(i);
      const auto best = std::max_element(row.begin(), row.end()) - row.begin();
      said_[static_cast<std::size_t>(sequences[i])].push_back(static_cast<Token>(best));
    }
  }

 private:
  Engine* engine_;
  cache::KvCache cache_;
  std::vector<Tokens> said_;
};

class PoolOfModel : public testing::TestWithParam<const char*> {
 protected:
  Engine engine_{integration::own_model("standin-a-q8_0.gguf").string(), {.threads = 2, .isa = active_isa()}};
  Engine::CacheOptions options_{.k = codec::parse_cache_spec(GetParam()),
                                .v = codec::parse_cache_spec("lm4", codec::PageSide::value),
                                .context = 256};

  Tokens encode(std::string_view text) const { return engine_.tokenizer().encode(text); }
  /// The first `known` tokens are computed first: in fast precision the size of a batch tells.
  Tokens alone(const Tokens& prompt, std::size_t known, std::size_t count) {
    Conversations one(engine_, options_);
    one.prefill(0, Tokens(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(known)));
    one.prefill(0, prompt);
    for (std::size_t i = 0; i < count; ++i) one.step({0});
    return one.said(0);
  }
};

TEST_P(PoolOfModel, ConversationsWithTheSamePrefixAreAsIfAlone) {
  constexpr std::size_t kSteps = 40;
  Tokens prefix;
  for (int i = 0; i < 4; ++i) {
    for (const Token t : encode("The king gave his answer on the third day, and nobody in the hall spoke. ")) {
      prefix.push_back(t);
    }
  }
  ASSERT_GT(prefix.size(), cache::KvCache::kBlockTokens);
  std::vector<Tokens> prompts(3, prefix);
  for (const Token t : encode("Then the old road")) prompts[0].push_back(t);
  for (const Token t : encode("A ship came")) prompts[1].push_back(t);
  for (const Token t : encode("Nobody")) prompts[2].push_back(t);

  Engine::CacheOptions options = options_;
  options.sequences = 4;
  Conversations all(engine_, options);
  all.prefill(3, prefix);
  const std::size_t common = all.cache().length(3), before = all.cache().free_blocks();
  for (int s = 0; s < 3; ++s) all.cache().fork(3, s, common);
  EXPECT_EQ(all.cache().free_blocks(), before);
  for (int s = 0; s < 3; ++s) all.prefill(s, prompts[static_cast<std::size_t>(s)]);
  for (std::size_t i = 0; i < kSteps; ++i) all.step({0, 1, 2});
  for (int s = 0; s < 3; ++s)
    EXPECT_EQ(all.said(s), alone(prompts[static_cast<std::size_t>(s)], prefix.size(), kSteps)) << s;
}

TEST_P(PoolOfModel, AConversationGoesOnInAnotherProcess) {
  const Tokens prompt = encode("The king gave his answer on the third day.");
  const std::string path = testing::TempDir() + "/kvant_conversation_" + std::to_string(::getpid());
  Engine::CacheOptions options = options_;
  options.sequences = 2;
  Conversations first(engine_, options);
  first.prefill(1, prompt);
  for (int i = 0; i < 10; ++i) first.step({1});
  first.cache().save(path, 1);

  Engine again{engine_.file().path(), {.threads = 1, .isa = active_isa()}};
  Conversations second(again, options_);
  second.cache().load(path, 0);
  second.prefill(0, first.said(1));
  for (int i = 0; i < 10; ++i) second.step({0});
  EXPECT_EQ(second.said(0), alone(prompt, 1, 20));

  // Another model of the same shape: one tensor differs.
  const auto& file = engine_.file();
  const auto norm = integration::random_values(gguf::TensorType::f32, file.tensor("output_norm.weight").values(), 1, 3);
  const integration::TemporaryFile other(
      "kvant_other.gguf", integration::with_changes(file, "output_norm.weight", [&](gguf::Writer& w) {
        w.add("output_norm.weight", gguf::TensorType::f32, file.tensor("output_norm.weight").shape, norm);
      }));
  Engine stranger(other.path(), {.threads = 1, .isa = active_isa()});
  Conversations third(stranger, options_);
  try {
    third.cache().load(path, 0);
    ADD_FAILURE() << "the file of another model was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_THAT(e.what(), testing::MatchesRegex(".*: saved with model [0-9a-f]{16}, expected model [0-9a-f]{16}"));
  }
  std::filesystem::remove(path);
}

INSTANTIATE_TEST_SUITE_P(, PoolOfModel, testing::Values("q8_0", "lm4"));

TEST(PoolBytes, AreWhatTheCacheTakes) {
  Engine engine(integration::own_model("standin-a-q8_0.gguf").string(), {.threads = 1, .isa = active_isa()});
  Engine::CacheOptions options{.k = {}, .v = {}, .context = 256, .sequences = 8};
  const std::size_t all = engine.make_cache(options).usage().bytes();
  options.pool_bytes = all / 2;
  const cache::KvCache half = engine.make_cache(options);
  EXPECT_EQ(half.blocks(), 16u);
  EXPECT_EQ(half.usage().bytes(), all / 2);
  EXPECT_EQ(half.config().capacity, 256u);
  options.pool_bytes = 100 * all;
  EXPECT_EQ(engine.make_cache(options).usage().bytes(), all) << "no more than the sequences can have";
  options.pool_bytes = 1000;
  try {
    engine.make_cache(options);
    ADD_FAILURE() << "a pool without blocks was made";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::out_of_memory);
    EXPECT_EQ(std::string(e.what()),
              fmt::format("a cache pool of 1000 bytes has no room for 64 tokens, which take {} bytes", all / 32));
  }
}

}  // namespace
}  // namespace kvant::engine
