/// Passes that are repeated from a layer on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "base/error.h"
#include "cache/test_codes.h"
#include "engine/engine.h"
#include "integration/test_models.h"

namespace kvant::model {
namespace {

constexpr int kCoded = 3;  ///< the only layer with coded keys
constexpr std::size_t kCapacity = 700;

class Replay : public testing::Test {
 protected:
  Replay()
      : engine_(integration::own_model("standin-a-q8_0.gguf").string(),
                {.threads = 2, .isa = active_isa(), .precision = kernels::Precision::fast}) {
    Random random(7);
    for (Token& token : tokens_) token = static_cast<Token>(random.below(engine_.config().vocabulary));
  }

  /// f16, but for keys of 2 bits in one layer.
  cache::KvCache coded_cache() {
    cache::CacheConfig config = engine_.transformer().cache_config(kCapacity);
    config.k = codec::parse_cache_spec("plan,plan=given");
    config.constants.resize(static_cast<std::size_t>(config.layers));
    for (int h = 0; h < config.kv_heads; ++h) {
      config.constants[kCoded].k_codes.push_back(cache::make_head_code(
          config.head_dim, {{codec::coded_dims(config.head_dim), codec::QuantizerKind::lm, 2}}, 1));
    }
    return {config, engine_.pool(), active_isa()};
  }
  cache::KvCache plain_cache() { return {engine_.transformer().cache_config(kCapacity), engine_.pool(), active_isa()}; }

  static std::vector<float> copy(MatView<const float> logits) {
    return {logits.data, logits.data + logits.rows * logits.cols};
  }
  /// More tokens than one chunk of a pass has, then some more.
  std::array<Input, 2> inputs() const {
    const std::span all(tokens_);
    return {Input{0, all.first(600), 3}, Input{0, all.subspan(600), 40}};
  }

  engine::Engine engine_;
  std::vector<Token> tokens_ = std::vector<Token>(640);
};

TEST_F(Replay, GivesTheBitsOfAWholePass) {
  Transformer& transformer = engine_.transformer();
  cache::KvCache whole = coded_cache(), plain = plain_cache(), from_there = coded_cache(), from_above = coded_cache();
  Recording recording;
  for (const Input& input : inputs()) {
    const std::vector<float> expected = copy(transformer.forward(whole, {&input, 1}));
    const std::vector<float> reference = copy(transformer.forward(plain, {&input, 1}, &recording));
    EXPECT_EQ(expected.size(), input.logits * engine_.config().vocabulary);
    EXPECT_NE(expected, reference);
    EXPECT_EQ(copy(transformer.replay(from_there, recording, kCoded)), expected);
    EXPECT_EQ(copy(transformer.replay(from_above, recording, kCoded + 1)), reference);  // all that differs is below
  }
  EXPECT_EQ(from_there.length(0), 0u);
  EXPECT_EQ(plain.length(0), tokens_.size());
}

TEST_F(Replay, RefusesWhatDoesNotFit) {
  Transformer& transformer = engine_.transformer();
  cache::KvCache plain = plain_cache(), other = plain_cache();
  Recording recording;
  const auto both = inputs();
  transformer.forward(plain, {&both[0], 1}, &recording);
  const int layers = engine_.config().layers;
  for (const int layer : {-1, layers}) EXPECT_THROW(transformer.replay(other, recording, layer), Error);
  transformer.forward(plain, {&both[1], 1}, &recording);
  EXPECT_THROW(transformer.replay(other, recording, 1), Error);  // has not seen the first 600 tokens
}

}  // namespace
}  // namespace kvant::model
