/// Broken models and impossible requests give one clear error each.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/engine.h"
#include "integration/random_model.h"
#include "integration/test_models.h"

namespace kvant::integration {
namespace {

using testing::AllOf;
using testing::HasSubstr;

template <class Action>
std::string message(ErrorCode code, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), testing::Not(HasSubstr("\n")));
    return error.what();
  }
  return "accepted";
}

std::string load_message(const RandomModel& random, ErrorCode code = ErrorCode::format) {
  const auto bytes = random.bytes();
  return message(code, [&] { LoadedModel(gguf::File::parse(bytes, "m.gguf"), {}); });
}

TEST(BadModel, OfAnotherArchitecture) {
  EXPECT_EQ(load_message({.architecture = "gemma"}, ErrorCode::unsupported),
            "m.gguf: general.architecture is \"gemma\", supported are qwen2, qwen3 and llama");
}

TEST(BadModel, WithoutATensor) {
  for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.1.attn_k.weight", "blk.0.ffn_norm.weight"}) {
    EXPECT_THAT(load_message({.without = name}), AllOf(HasSubstr("m.gguf: tensor "), HasSubstr(name)));
  }
  EXPECT_THAT(load_message({.architecture = "qwen3", .without = "blk.0.attn_q_norm.weight"}),
              HasSubstr("blk.0.attn_q_norm.weight"));
}

TEST(BadModel, WithATensorOfAnotherShape) {
  EXPECT_EQ(load_message({.reshaped = "blk.1.attn_k.weight"}),
            "m.gguf: tensor blk.1.attn_k.weight: shape [128,96], expected [128,64]");
  EXPECT_EQ(load_message({.reshaped = "blk.0.attn_q.bias"}),
            "m.gguf: tensor blk.0.attn_q.bias: shape [160], expected [128]");
  EXPECT_EQ(load_message({.reshaped = "output.weight"}),
            "m.gguf: tensor output.weight: shape [128,128], expected [128,96]");
}

TEST(BadModel, WithATensorThatNobodyKnows) {
  const std::vector<float> values(32);
  EXPECT_THAT(load_message({.more =
                                [&](gguf::Writer& w) {
                                  w.add("blk.0.attn_sinks.weight", gguf::TensorType::f32, {32},
                                        std::as_bytes(std::span(values)));
                                }},
                           ErrorCode::unsupported),
              HasSubstr("m.gguf: tensor blk.0.attn_sinks.weight: not known"));
}

TEST(BadModel, WithIntegersForWeights) {
  const std::vector<std::int32_t> values(128);
  const auto add = [&](gguf::Writer& w) {
    w.add("output_norm.weight", gguf::TensorType::i32, {128}, std::as_bytes(std::span(values)));
  };
  EXPECT_THAT(load_message({.more = add, .without = "output_norm.weight"}, ErrorCode::unsupported),
              HasSubstr("m.gguf: tensor output_norm.weight: type I32"));
}

TEST(BadModel, CutShort) {
  const auto bytes = RandomModel{}.bytes();
  for (const std::size_t size : {bytes.size() / 2, bytes.size() - 1}) {
    const auto text =
        message(ErrorCode::format, [&] { LoadedModel(gguf::File::parse(std::span(bytes).first(size), "m.gguf"), {}); });
    EXPECT_THAT(text, testing::StartsWith("m.gguf: "));
  }
}

TEST(BadModel, MissingFile) {
  EXPECT_THAT(message(ErrorCode::io, [] { engine::Engine("no-such-file.gguf", {}); }), HasSubstr("no-such-file.gguf"));
}

TEST(BadModel, WithoutAVocabulary) {
  const TemporaryFile file("kvant_without_vocabulary.gguf", RandomModel{}.bytes());
  EXPECT_THAT(message(ErrorCode::format, [&] { engine::Engine(file.path(), {}); }),
              AllOf(HasSubstr(file.path()), HasSubstr("tokenizer")));
}

TEST(BadModel, WithAVocabularyOfAnotherSize) {
  const auto original = gguf::File::open(own_model("standin-a-q8_0.gguf"));
  const auto embedding = random_values(gguf::TensorType::f32, 256 * 4097, 1, 3);
  const TemporaryFile file("kvant_vocabulary.gguf", with_changes(original, "token_embd.weight", [&](gguf::Writer& w) {
                             w.add("token_embd.weight", gguf::TensorType::f32, {256, 4097}, embedding);
                           }));
  EXPECT_EQ(message(ErrorCode::format, [&] { engine::Engine(file.path(), {}); }),
            file.path() + ": the tokenizer has 4096 tokens, tensor token_embd.weight has 4097 rows");
}

TEST(BadRequest, ContextLargerThanMemory) {
  engine::Engine engine(own_model("standin-a-q8_0.gguf").string(), {});
  const codec::CacheSpec f16;
  EXPECT_THAT(message(ErrorCode::out_of_memory, [&] { engine.make_cache(f16, f16, std::size_t{1} << 31); }),
              HasSubstr("cache of 2147483648 tokens needs 6144.0 GiB"));
}

TEST(BadRequest, ContextBeyondTheSlidingWindow) {
  const auto original = gguf::File::open(own_model("standin-a-q8_0.gguf"));
  const TemporaryFile file("kvant_window.gguf", with_changes(original, "", [](gguf::Writer& w) {
                             w.set("qwen2.attention.sliding_window", std::uint32_t{64});
                           }));
  engine::Engine engine(file.path(), {});
  const codec::CacheSpec f16;
  EXPECT_EQ(engine.make_cache(f16, f16, 64).config().capacity, 64u);
  EXPECT_EQ(engine.make_cache(f16, f16, 0).config().capacity, 64u) << "the longest that works";
  EXPECT_THAT(message(ErrorCode::unsupported, [&] { engine.make_cache(f16, f16, 65); }),
              HasSubstr("a context of 65 tokens exceeds the model's sliding window of 64"));
}

}  // namespace
}  // namespace kvant::integration
