#include "codec/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <variant>

#include "base/error.h"
#include "base/random.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace kvant::codec {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

Plan small_plan() {
  Plan plan;
  plan.model = {.architecture = "qwen2",
                .layers = 2,
                .embedding = 24,
                .heads = 4,
                .kv_heads = 2,
                .head_dim = 6,
                .rope_dims = 4,
                .rope_base = 1e6,
                .rope_scaling = "yarn",
                .rope_factor = 4,
                .rope_original_context = 32768,
                .rope_attention_factor = 1.1,
                .rope_details = 0xfedcba9876543210,
                .key_biases = 2,
                .attention_shapes = 3};
  plan.corpus = {"wiki.txt", 0xffffffffffffffff, 8192, 512};
  Random random(3);
  const auto values = [&](std::size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(random.uniform());
    return v;
  };
  for (int i = 0; i < 2; ++i) plan.layers.push_back({values(12), values(12), values(12), values(4), values(4)});
  plan.layers[0].k_mean[3] = -7.5f;
  plan.layers[1].k_energy[2] = 0;
  return plan;
}

/// The line with which a file is refused.
std::string refusal(std::span<const std::byte> bytes, ErrorCode code = ErrorCode::format) {
  try {
    parse_plan(bytes, "p.gguf");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

/// The file of small_plan() without the key or tensor named `without`, and with what `more` adds.
std::vector<std::byte> changed(std::string_view without, const std::function<void(gguf::Writer&)>& more = {}) {
  const auto bytes = serialize_plan(small_plan());
  const auto file = gguf::File::parse(bytes, "p.gguf");
  gguf::Writer writer;
  std::size_t left_out = 0;
  for (const auto& entry : file.metadata()) {
    if (entry.key == without) {
      ++left_out;
    } else if (entry.key != "general.alignment") {
      writer.set(entry.key, entry.value);
    }
  }
  for (const gguf::Tensor& t : file.tensors()) {
    if (t.name == without) {
      ++left_out;
    } else {
      writer.add(std::string(t.name), t.type, t.shape, t.data);
    }
  }
  EXPECT_EQ(left_out, without.empty() ? 0u : 1u) << without;
  if (more) more(writer);
  return writer.bytes();
}

TEST(Plan, ComesBackAsItWas) {
  const Plan plan = small_plan();
  const auto bytes = serialize_plan(plan);
  EXPECT_EQ(parse_plan(bytes, "p.gguf"), plan);
  EXPECT_EQ(serialize_plan(parse_plan(bytes, "p.gguf")), bytes);
}

TEST(Plan, ComesBackFromAFile) {
  const std::string path = testing::TempDir() + "kvant_plan_test.gguf";
  write_plan(path, small_plan());
  EXPECT_EQ(read_plan(path), small_plan());
  std::filesystem::remove(path);
  EXPECT_THAT([&] { read_plan(path); }, testing::ThrowsMessage<Error>(StartsWith(path + ": ")));
}

TEST(Plan, UnknownKeysAndTensorsArePassedOver) {
  const std::vector<float> values(3);
  const auto bytes = changed("", [&](gguf::Writer& w) {
    w.set("kvant.plan.mood", std::string_view("good"));
    w.add("blk.0.more", gguf::TensorType::f32, {3}, std::as_bytes(std::span(values)));
  });
  EXPECT_EQ(parse_plan(bytes, "p.gguf"), small_plan());
}

TEST(Plan, OtherVersionsAreRefused) {
  const auto bytes = changed("kvant.plan.version", [](gguf::Writer& w) { w.set("kvant.plan.version", 2u); });
  EXPECT_EQ(refusal(bytes, ErrorCode::unsupported), "p.gguf: metadata kvant.plan.version: 2, supported is 1");
}

TEST(Plan, EveryMissingKeyOrTensorIsNamed) {
  const auto bytes = serialize_plan(small_plan());
  const auto file = gguf::File::parse(bytes, "p.gguf");
  std::size_t tried = 0;
  for (const auto& entry : file.metadata()) {
    if (!entry.key.starts_with("kvant.")) continue;
    EXPECT_THAT(refusal(changed(entry.key)), AllOf(StartsWith("p.gguf: "), HasSubstr(std::string(entry.key))));
    ++tried;
  }
  for (const gguf::Tensor& t : file.tensors()) {
    EXPECT_THAT(refusal(changed(t.name)), AllOf(StartsWith("p.gguf: "), HasSubstr(std::string(t.name))));
    ++tried;
  }
  EXPECT_EQ(tried, 1u + 15u + 4u + 2u * 5u);
}

struct BadValue {
  const char* key;
  std::variant<std::uint64_t, double, const char*> value;
  const char* what;
};

TEST(Plan, EveryBadValueIsNamed) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::uint64_t zero = 0;
  const std::vector<BadValue> cases = {
      {"architecture", "", "0 bytes, expected 1 to 64"},
      {"layers", zero, "0, expected 1 to 1024"},
      {"layers", std::uint64_t{1} << 40, "1099511627776, expected 1 to 1024"},
      {"embedding", zero, "0, expected 1 to 1048576"},
      {"heads", zero, "0, expected 1 to 1024"},
      {"kv_heads", zero, "0, expected 1 to 1024"},
      {"kv_heads", std::uint64_t{3}, "3, expected a divisor of heads = 4"},
      {"head_dim", std::uint64_t{514}, "514, expected 2 to 512"},
      {"head_dim", std::uint64_t{7}, "7, expected a multiple of 2"},
      {"rope.dims", std::uint64_t{3}, "3, expected a multiple of 2"},
      {"rope.dims", std::uint64_t{8}, "8, expected at most head_dim = 6"},
      {"rope.base", -1.0, "-1, expected a number above 0"},
      {"rope.factor", infinity, "inf, expected a number above 0"},
      {"rope.attention_factor", std::nan(""), "nan, expected a number above 0"},
      {"rope.original_context", std::uint64_t{1} << 31, "2147483648, expected 0 to 1073741824"},
  };
  for (const BadValue& c : cases) {
    const std::string key = std::string("kvant.plan.model.") + c.key;
    const auto bytes = changed(key, [&](gguf::Writer& w) {
      std::visit(
          [&]<class T>(T value) {
            if constexpr (std::is_same_v<T, const char*>) {
              w.set(key, std::string_view(value));
            } else {
              w.set(key, value);
            }
          },
          c.value);
    });
    EXPECT_EQ(refusal(bytes), "p.gguf: metadata " + key + ": " + c.what);
  }
}

TEST(Plan, TensorsOfAnotherShapeTypeOrWithBadValuesAreRefused) {
  const auto with = [](std::string_view name, gguf::TensorType type, std::vector<std::size_t> shape, float value) {
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    const std::vector<float> values(count, value);
    return changed(name, [&](gguf::Writer& w) {
      w.add(std::string(name), type, shape, std::as_bytes(std::span(values)).first(gguf::row_bytes(type, count)));
    });
  };
  using T = gguf::TensorType;
  EXPECT_EQ(refusal(with("blk.1.k_mean", T::f32, {6, 3}, 0)),
            "p.gguf: tensor blk.1.k_mean: shape [6,3], expected [6,2]");
  EXPECT_EQ(refusal(with("blk.1.k_energy", T::f32, {6, 2}, 0)),
            "p.gguf: tensor blk.1.k_energy: shape [6,2], expected [2,2]");
  EXPECT_THAT(refusal(with("blk.0.v_mean", T::f16, {6, 2}, 0)),
              AllOf(StartsWith("p.gguf: tensor blk.0.v_mean: type "), HasSubstr("expected F32")));
  EXPECT_EQ(refusal(with("blk.0.q_energy", T::f32, {2, 2}, -1)),
            "p.gguf: tensor blk.0.q_energy: value 0 is -1, expected a finite number >= 0");
  EXPECT_EQ(refusal(with("blk.0.k_mean_rotated", T::f32, {6, 2}, std::numeric_limits<float>::infinity())),
            "p.gguf: tensor blk.0.k_mean_rotated: value 0 is inf, expected a finite number");
  EXPECT_EQ(refusal(with("blk.0.v_mean", T::f32, {6, 2}, std::numeric_limits<float>::quiet_NaN())),
            "p.gguf: tensor blk.0.v_mean: value 0 is nan, expected a finite number");
}

TEST(Plan, TruncatedAnywhereItIsRefused) {
  const auto bytes = serialize_plan(small_plan());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    try {
      // What padding at the end a reader asks for is its own affair; the values must be all there.
      EXPECT_EQ(parse_plan(std::span(bytes).first(size), "p.gguf"), small_plan()) << size;
      EXPECT_GT(size + 32, bytes.size());
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), StartsWith("p.gguf: ")) << size;
    }
  }
}

TEST(Plan, InvalidOnesAreNotWritten) {
  const auto expect = [](const std::function<void(Plan&)>& change, const std::string& message) {
    Plan plan = small_plan();
    change(plan);
    EXPECT_THAT([&] { serialize_plan(plan); }, testing::ThrowsMessage<Error>(message));
  };
  expect([](Plan& p) { p.layers.pop_back(); }, "plan: statistics of 1 layers, expected 2");
  expect([](Plan& p) { p.layers[1].v_mean.pop_back(); }, "plan: tensor blk.1.v_mean: 11 values, expected 12");
  expect([](Plan& p) { p.layers[1].k_energy[3] = -2; },
         "plan: tensor blk.1.k_energy: value 3 is -2, expected a finite number >= 0");
  expect([](Plan& p) { p.model.kv_heads = 3; },
         "plan: metadata kvant.plan.model.kv_heads: 3, expected a divisor of heads = 4");
}

TEST(Plan, FitsItsOwnModelOnly) {
  const Plan plan = small_plan();
  EXPECT_NO_THROW(check_fits(plan, "p.gguf", plan.model));
  const auto expect = [&](const std::function<void(PlanIdentity&)>& change, const std::string& what) {
    PlanIdentity other = plan.model;
    change(other);
    EXPECT_THAT([&] { check_fits(plan, "p.gguf", other); },
                testing::ThrowsMessage<Error>("p.gguf: made for a model with " + what));
  };
  expect([](auto& m) { m.architecture = "llama"; }, "architecture \"qwen2\", this one has \"llama\"");
  expect([](auto& m) { m.layers = 3; }, "layers 2, this one has 3");
  expect([](auto& m) { m.embedding = 25; }, "embedding 24, this one has 25");
  expect([](auto& m) { m.heads = 2; }, "heads 4, this one has 2");
  expect([](auto& m) { m.kv_heads = 1; }, "kv_heads 2, this one has 1");
  expect([](auto& m) { m.head_dim = 8; }, "head_dim 6, this one has 8");
  expect([](auto& m) { m.rope_dims = 6; }, "rope.dims 4, this one has 6");
  expect([](auto& m) { m.rope_base = 10000; }, "rope.base 1000000, this one has 10000");
  expect([](auto& m) { m.rope_scaling = "none"; }, "rope.scaling \"yarn\", this one has \"none\"");
  expect([](auto& m) { m.rope_factor = 2; }, "rope.factor 4, this one has 2");
  expect([](auto& m) { m.rope_original_context = 1; }, "rope.original_context 32768, this one has 1");
  expect([](auto& m) { m.rope_attention_factor = 1; }, "rope.attention_factor 1.1, this one has 1");
  expect([](auto& m) { m.rope_details = 1; }, "rope.details fedcba9876543210, this one has 0000000000000001");
  expect([](auto& m) { m.key_biases = 1; }, "key_biases 0000000000000002, this one has 0000000000000001");
  expect([](auto& m) { m.attention_shapes = 1; }, "attention_shapes 0000000000000003, this one has 0000000000000001");
}

}  // namespace
}  // namespace kvant::codec
