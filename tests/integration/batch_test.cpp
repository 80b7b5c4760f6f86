/// How tokens are grouped into passes, and by how many threads they are computed, does not change a bit.
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "base/error.h"
#include "integration/random_model.h"
#include "integration/test_models.h"

namespace kvant::integration {
namespace {

using gguf::TensorType;
using kernels::Precision;
using model::Input;
using model::Transformer;

RandomModel quantized() {
  return {.heads = 4,
          .kv_heads = 2,
          .head_dim = 64,
          .embedding = 256,
          .feed_forward = 512,
          .context = 2048,
          .type = TensorType::q8_0};
}

const std::vector<std::byte>& model_bytes() {
  static const std::vector<std::byte> bytes = quantized().bytes();
  return bytes;
}

gguf::File open_model() { return gguf::File::parse(model_bytes(), "random"); }

struct CacheTypes {
  codec::CacheSpec k, v;
};
const CacheTypes kF32{{TensorType::f32, false}, {TensorType::f32, false}};
const CacheTypes kPlain{{TensorType::q8_0, false}, {TensorType::q4_0, true}};

/// Appends tokens in pieces of the given size and returns the logits of all.
std::vector<float> in_pieces(LoadedModel& loaded, const CacheTypes& types, std::span<const std::int32_t> tokens,
                             std::size_t piece) {
  cache::KvCache cache = loaded.make_cache(tokens.size(), types.k, types.v);
  std::vector<float> logits;
  for (std::size_t begin = 0; begin < tokens.size(); begin += piece) {
    const std::size_t count = std::min(piece, tokens.size() - begin);
    const auto rows = loaded.forward(cache, tokens.subspan(begin, count), count);
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  return logits;
}

TEST(Batch, ThreadsDoNotChangeABit) {
  const auto tokens = random_tokens(70, quantized().vocabulary, 3);
  for (const Precision precision : {Precision::reference, Precision::fast}) {
    for (const CacheTypes& types : {kF32, kPlain}) {
      LoadedModel one(open_model(), {.threads = 1, .precision = precision});
      const auto batch = in_pieces(one, types, tokens, tokens.size()), steps = in_pieces(one, types, tokens, 1);
      for (const int threads : {2, 3}) {
        LoadedModel many(open_model(), {.threads = threads, .precision = precision});
        EXPECT_EQ(batch, in_pieces(many, types, tokens, tokens.size())) << threads << " threads, in one batch";
        EXPECT_EQ(steps, in_pieces(many, types, tokens, 1)) << threads << " threads, token by token";
      }
    }
  }
}

TEST(Batch, PiecesOfThePromptDoNotChangeABitInReferencePrecision) {
  const auto tokens = random_tokens(150, quantized().vocabulary, 4);
  for (const CacheTypes& types : {kF32, kPlain}) {
    LoadedModel loaded(open_model(), {});
    const auto whole = in_pieces(loaded, types, tokens, tokens.size());
    for (const std::size_t piece : {1u, 7u, 16u, 17u, 64u, 149u}) {
      EXPECT_EQ(whole, in_pieces(loaded, types, tokens, piece)) << "pieces of " << piece;
    }
  }
}

TEST(Batch, MoreRowsThanAChunkHoldsRunInSeveral) {
  const auto tokens = random_tokens(Transformer::kMaxRows + 130, quantized().vocabulary, 5);
  LoadedModel loaded(open_model(), {});
  cache::KvCache cache = loaded.make_cache(tokens.size());
  // The wanted rows begin in the first chunk and end in the second.
  const auto last = loaded.forward(cache, tokens, 200);
  EXPECT_EQ(cache.length(0), tokens.size());
  const auto all = in_pieces(loaded, kF32, tokens, 100);
  EXPECT_EQ(last, std::vector<float>(all.end() - static_cast<std::ptrdiff_t>(last.size()), all.end()));
}

TEST(Batch, SequencesTogetherEqualEachAloneInReferencePrecision) {
  const std::size_t vocabulary = quantized().vocabulary;
  const std::array tokens{random_tokens(40, vocabulary, 6), random_tokens(1, vocabulary, 7),
                          random_tokens(Transformer::kMaxRows, vocabulary, 8), random_tokens(25, vocabulary, 9)};
  const std::array<std::size_t, 4> wanted{3, 1, 20, 0};
  for (const CacheTypes& types : {kF32, kPlain}) {
    LoadedModel loaded(open_model(), {});
    std::vector<float> alone;
    for (std::size_t s = 0; s < tokens.size(); ++s) {
      cache::KvCache cache = loaded.make_cache(1024, types.k, types.v);
      loaded.forward(cache, random_tokens(s * 5 + 1, vocabulary, 20 + s), 0);  // each at another position
      const auto rows = loaded.forward(cache, tokens[s], wanted[s]);
      alone.insert(alone.end(), rows.begin(), rows.end());
    }
    cache::KvCache cache = loaded.make_cache(1024, types.k, types.v, 4);
    std::array<Input, 4> inputs;
    for (const bool first : {true, false}) {
      std::vector<std::vector<std::int32_t>> openings;
      for (std::size_t s = 0; s < tokens.size(); ++s) openings.push_back(random_tokens(s * 5 + 1, vocabulary, 20 + s));
      for (std::size_t s = 0; s < tokens.size(); ++s) {
        inputs[s] =
            first ? Input{static_cast<int>(s), openings[s], 0} : Input{static_cast<int>(s), tokens[s], wanted[s]};
      }
      const auto rows = loaded.transformer.forward(cache, inputs);
      if (first) continue;
      EXPECT_EQ(alone, std::vector<float>(rows.data, rows.data + rows.rows * rows.cols));
    }
  }
}

TEST(Batch, TruncatedSequencesContinueAsIfNothingHadFollowed) {
  const auto tokens = random_tokens(60, quantized().vocabulary, 10);
  LoadedModel loaded(open_model(), {});
  cache::KvCache cache = loaded.make_cache(100);
  loaded.forward(cache, std::span(tokens).first(40), 0);
  loaded.forward(cache, random_tokens(30, quantized().vocabulary, 11), 0);
  cache.truncate(0, 40);
  const auto rows = loaded.forward(cache, std::span(tokens).subspan(40), 20);
  cache::KvCache fresh = loaded.make_cache(100);
  EXPECT_EQ(rows, loaded.forward(fresh, tokens, 20));
}

TEST(Batch, BadInputsAreRefusedBeforeAnythingChanges) {
  LoadedModel loaded(open_model(), {});
  cache::KvCache cache = loaded.make_cache(8, 2);
  const std::vector<std::int32_t> good{1, 2, 3}, outside{1, 96}, negative{-1};
  const auto refuse = [&](std::vector<Input> inputs, const std::string& text) {
    try {
      loaded.transformer.forward(cache, inputs);
      FAIL() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
    EXPECT_EQ(cache.length(0), 0u);
    EXPECT_EQ(cache.length(1), 0u);
  };
  refuse({{0, good, 0}, {1, outside, 0}}, "token 96 is outside the vocabulary of 96");
  refuse({{0, negative, 0}}, "token -1");
  refuse({{0, good, 0}, {0, good, 0}}, "sequence 0 appears twice");
  refuse({{2, good, 0}}, "sequence 2 is not among the cache's 2");
  refuse({{0, good, 4}}, "logits of 4 rows are wanted of 3 tokens");
  const std::vector<std::int32_t> long_input(9, 1);
  refuse({{0, good, 0}, {1, long_input, 0}}, "holds 0 of 8 tokens, 9 more do not fit");

  LoadedModel other(gguf::File::parse(model_bytes(), "random"), {});
  cache::CacheConfig sizes = other.transformer.cache_config(8);
  sizes.layers = 1;
  cache::KvCache wrong(sizes, other.pool, other.isa);
  EXPECT_THROW(loaded.forward(wrong, good, 1), Error);
}

TEST(Batch, WorkspaceIsWhatTheHeaderStates) {
  const RandomModel m = quantized();
  LoadedModel loaded(open_model(), {.precision = Precision::fast});
  cache::KvCache cache = loaded.make_cache(1024);
  loaded.forward(cache, random_tokens(700, m.vocabulary, 12), 5);
  const std::size_t n = Transformer::kMaxRows, q = 256, kv = 128;
  const std::size_t activations =
      4 * (n * (2 * m.embedding + 2 * q + 2 * kv + 2 * m.feed_forward + m.head_dim) + 5 * m.vocabulary);
  EXPECT_GE(loaded.transformer.workspace_bytes(), activations);
  // The products' own scratch: at most activations of one product once more and some panels of weights.
  EXPECT_LE(loaded.transformer.workspace_bytes(), 2 * activations + (std::size_t{4} << 20));
}

}  // namespace
}  // namespace kvant::integration
