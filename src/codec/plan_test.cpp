#include "codec/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
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
  const auto head = [&](std::vector<CodePart> parts) {
    HeadCode code{std::vector<Bf16>(32 * 6), std::vector<Bf16>(32 * 6), std::move(parts)};
    for (std::size_t i = 0; i < 36; ++i) {
      code.transform[i] = to_bf16(static_cast<float>(random.uniform() - 0.5));
      code.inverse[i] = to_bf16(static_cast<float>(random.uniform() - 0.5));
    }
    return code;
  };
  const CodePart lm3{32, QuantizerKind::lm, 3, ScaleFormat::f16}, uni8{32, QuantizerKind::uni, 8, ScaleFormat::log8};
  for (int i = 0; i < 2; ++i) {
    plan.layers.push_back({values(12), values(12), values(12), values(42), values(42), values(42), i + 0.1, i / 3.0});
    plan.codes.push_back({{head({lm3}), head({uni8})}, {head({uni8}), head({CodePart{.dims = 32}})}});
  }
  plan.layers[0].k_mean[3] = -7.5f;
  plan.layers[0].k_moment[1] = -0.25f;
  plan.layers[1].k_moment[2] = 0;
  plan.v_type = "lm4,shape=none";
  plan.goal = "--bits 3";
  plan.positions = 4096;
  plan.recent = 32;
  plan.trust = 0.25;
  plan.predicted_kld = 0.1 + 0.2;
  plan.certificates = {{"wiki.txt, the end", 0xfffffffffffffffe, 512, 4096, 0.003, 1e-4, 0.02, 0.97, 1.01, 0.99, 1.03},
                       {"", 1, 2, 3, -1e-9, 0, 0, 1, 1, 1, 1}};
  return plan;
}

/// small_plan() without the codes of sides.
Plan without_codes(bool keys, bool values) {
  Plan plan = small_plan();
  for (LayerCodes& layer : plan.codes) {
    if (keys) layer.keys.clear();
    if (values) layer.values.clear();
  }
  if (keys && values) plan.codes.clear();
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

/// The file of a plan without the key or tensor named `without`, and with what `more` adds.
std::vector<std::byte> changed(std::string_view without, const std::function<void(gguf::Writer&)>& more = {},
                               const Plan& plan = small_plan()) {
  const auto bytes = serialize_plan(plan);
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

TEST(Plan, ComesBackWithoutCodesOfSides) {
  for (const Plan& plan : {without_codes(true, false), without_codes(false, true), without_codes(true, true)}) {
    const auto bytes = serialize_plan(plan);
    EXPECT_EQ(parse_plan(bytes, "p.gguf"), plan);
    EXPECT_LT(bytes.size(), serialize_plan(small_plan()).size());
  }
  Plan bare = without_codes(true, true);
  bare.certificates.clear();
  bare.corpus = {};
  bare.goal.clear();
  EXPECT_EQ(parse_plan(serialize_plan(bare), "p.gguf"), bare);
}

/// A plan of tiers: flex layouts of keys, the second layer in f16.
Plan plan_of_tiers() {
  Plan plan = without_codes(true, true);
  plan.model.heads = 2;
  plan.model.kv_heads = 1;
  plan.model.head_dim = plan.model.rope_dims = kFlexDims;
  const std::vector<float> mean(kFlexDims, 0.5F), moment(packed_size(kFlexDims), 2);
  plan.layers.assign(2, {mean, mean, mean, moment, moment, moment, 0, 0});
  PermutationFile& file = plan.layouts.emplace();
  file.layers = 2;
  file.kv_heads = 1;
  file.head_dim = kFlexDims;
  file.layer_map = {0, 1};
  file.permutations.resize(2 * kFlexDims);
  std::iota(file.permutations.begin(), file.permutations.begin() + kFlexDims, std::uint8_t{0});
  std::iota(file.permutations.rbegin(), file.permutations.rbegin() + kFlexDims, std::uint8_t{0});
  file.types = {{PermutationFile::kTypeFlex, 87.5F}, {PermutationFile::kTypeF16, 25}};
  file.layouts = {parse_flex_spec("flex:1:9:4:1:1"), std::nullopt};
  return plan;
}

TEST(Plan, LayoutsComeBack) {
  const Plan plan = plan_of_tiers();
  const auto bytes = serialize_plan(plan);
  EXPECT_EQ(parse_plan(bytes, "p.gguf"), plan);
  EXPECT_EQ(serialize_plan(parse_plan(bytes, "p.gguf")), bytes);
}

TEST(Plan, LayoutsThatDoNotFitAreNamed) {
  const auto expect = [](const std::function<void(Plan&)>& change, const std::string& message) {
    Plan plan = plan_of_tiers();
    change(plan);
    EXPECT_THAT([&] { serialize_plan(plan); }, testing::ThrowsMessage<Error>(HasSubstr(message)));
  };
  const std::string at = "plan: tensor kvant.plan.layouts: ";
  expect([](Plan& p) { p.layouts->layouts.clear(); }, at + "no layouts of layers");
  expect([](Plan& p) { p.layouts->layers = 1; }, at + "layers of another model");
  expect([](Plan& p) { p.layouts->layer_map.push_back(-1); }, at + "layers of another model");
  expect([](Plan& p) { p.layouts->layer_map = {1, 0}; }, at + "layers out of order");
  expect([](Plan& p) { p.layouts->kv_heads = 2; }, at + "heads of another model");
  expect([](Plan& p) { p.layouts->permutations[3] = 4; }, "plan: kvant.plan.layouts: ");
  expect(
      [](Plan& p) {
        const std::vector<Bf16> map(kFlexDims * kFlexDims, to_bf16(1));
        p.codes.assign(2, {{{map, map, {{kFlexDims, QuantizerKind::lm, 3, ScaleFormat::f16}}}}, {}});
      },
      at + "layouts beside codes of keys, expected one of them");
  const std::vector<float> values(8);
  const auto with = [&](gguf::TensorType type, std::size_t count) {
    const auto add = [&](gguf::Writer& w) {
      w.add("kvant.plan.layouts", type, {count}, std::as_bytes(std::span(values)).first(gguf::row_bytes(type, count)));
    };
    return refusal(changed("kvant.plan.layouts", add, plan_of_tiers()));
  };
  EXPECT_EQ(with(gguf::TensorType::f32, 8), "p.gguf: tensor kvant.plan.layouts: type F32, expected I8");
  EXPECT_THAT(with(gguf::TensorType::i8, 8),
              AllOf(StartsWith("p.gguf: tensor kvant.plan.layouts: "), HasSubstr("not a permutation file")));
}

TEST(Plan, EnergiesOfPairsAreSumsOfTheDiagonal) {
  const Plan plan = small_plan();  // pairs (0, 2) and (1, 3) of heads of 6 channels
  const std::vector<float>& m = plan.layers[0].q_moment;
  EXPECT_EQ(pair_energies(m, plan.model),
            (std::vector<float>{m[0] + m[5], m[2] + m[9], m[21] + m[21 + 5], m[21 + 2] + m[21 + 9]}));
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
  EXPECT_EQ(tried, 1u + 15u + 4u + 2u + 2u * 3u + 14u + 2u * (6u + 2u * 3u));
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
  EXPECT_EQ(refusal(with("blk.1.k_moment", T::f32, {6, 2}, 0)),
            "p.gguf: tensor blk.1.k_moment: shape [6,2], expected [21,2]");
  EXPECT_THAT(refusal(with("blk.0.v_mean", T::f16, {6, 2}, 0)),
              AllOf(StartsWith("p.gguf: tensor blk.0.v_mean: type "), HasSubstr("expected F32")));
  EXPECT_EQ(refusal(with("blk.0.q_moment", T::f32, {21, 2}, -1)),
            "p.gguf: tensor blk.0.q_moment: value 0 is -1, expected a finite number >= 0");
  EXPECT_EQ(refusal(with("blk.0.k_mean_rotated", T::f32, {6, 2}, std::numeric_limits<float>::infinity())),
            "p.gguf: tensor blk.0.k_mean_rotated: value 0 is inf, expected a finite number");
  EXPECT_EQ(refusal(with("blk.0.v_mean", T::f32, {6, 2}, std::numeric_limits<float>::quiet_NaN())),
            "p.gguf: tensor blk.0.v_mean: value 0 is nan, expected a finite number");
}

/// The file of small_plan() with other parts of head 1 of the values of layer 0.
std::vector<std::byte> with_parts(std::vector<std::int32_t> parts) {
  parts.resize(16);
  parts.insert(parts.begin(), {32, 1, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  return changed("blk.0.value_parts", [&](gguf::Writer& w) {
    w.add("blk.0.value_parts", gguf::TensorType::i32, {4, 4, 2}, std::as_bytes(std::span(parts)));
  });
}

TEST(Plan, BadPartsAreNamed) {
  EXPECT_EQ(parse_plan(with_parts({32, 0, 0, 0}), "p.gguf"), small_plan());
  const std::string name = "p.gguf: tensors blk.0.value_*: head 1: ";
  EXPECT_EQ(refusal(with_parts({})), name + "0 parts, expected 1 to 4");
  EXPECT_EQ(refusal(with_parts({0, 0, 0, 0, 32, 0, 2, 0})), name + "part 1 follows zeros");
  EXPECT_EQ(refusal(with_parts({64, 0, 2, 0})), name + "part 0: 64 dims, 32 are left");
  EXPECT_EQ(refusal(with_parts({16, 0, 2, 0, 16, 0, 2, 0})), name + "part 0: 16 dims, expected a multiple of 32");
  EXPECT_EQ(refusal(with_parts({0, 0, 2, 0})), name + "part 0: 0 dims, expected a multiple of 32");
  EXPECT_EQ(refusal(with_parts({32, 0, 2, 0, 0, 0, 2, 0})), name + "part 1: 0 dims, expected a multiple of 32");
  EXPECT_EQ(refusal(with_parts({-32, 0, 2, 0})), name + "part 0: dims -32, expected 0 to 1024");
  EXPECT_EQ(refusal(with_parts({32, 2, 2, 0})), name + "part 0: kind 2, expected 0 to 1");
  EXPECT_EQ(refusal(with_parts({32, 0, -1, 0})), name + "part 0: bits -1, expected 0 to 8");
  EXPECT_EQ(refusal(with_parts({32, 0, 7, 0})), name + "part 0: 7 bits, expected 0 or 1 to 6");
  EXPECT_EQ(refusal(with_parts({32, 1, 1, 0})), name + "part 0: 1 bits, expected 0 or 2 to 8");
  EXPECT_EQ(refusal(with_parts({32, 1, 2, 2})), name + "part 0: norm 2, expected 0 to 1");
}

TEST(Plan, BadMatricesAreNamed) {
  const auto with = [](gguf::TensorType type, std::vector<std::size_t> shape, std::size_t at, float value) {
    std::vector<Bf16> values(2 * 32 * 6 * 2);
    values[at] = to_bf16(value);
    const auto bytes = std::as_bytes(std::span(values));
    return changed("blk.1.key_inverse", [&](gguf::Writer& w) {
      std::size_t count = 1;
      for (const std::size_t n : shape) count *= n;
      w.add("blk.1.key_inverse", type, shape, bytes.first(gguf::row_bytes(type, count)));
    });
  };
  using T = gguf::TensorType;
  EXPECT_EQ(refusal(with(T::f16, {6, 32, 2}, 0, 1)), "p.gguf: tensor blk.1.key_inverse: type F16, expected BF16");
  EXPECT_EQ(refusal(with(T::bf16, {6, 6, 2}, 0, 1)),
            "p.gguf: tensor blk.1.key_inverse: shape [6,6,2], expected [6,32,2]");
  EXPECT_EQ(refusal(with(T::bf16, {6, 32, 2}, 7, std::numeric_limits<float>::infinity())),
            "p.gguf: tensors blk.1.key_*: head 0: inverse: value 7 is inf, expected a finite number");
  EXPECT_EQ(refusal(with(T::bf16, {6, 32, 2}, 32 * 6 + 38, 2)),
            "p.gguf: tensors blk.1.key_*: head 1: inverse: row 6 has 2, expected zeros from row 6 on");
}

TEST(Plan, BadResultsAreNamed) {
  const auto with = [](std::string key, auto value) {
    key = "kvant.plan." + key;
    return refusal(changed(key, [&](gguf::Writer& w) { w.set(key, value); }));
  };
  const std::string at = "p.gguf: metadata kvant.plan.";
  EXPECT_EQ(with("codes.keys", std::uint32_t{1}), at + "codes.keys: type u32, expected boolean");
  EXPECT_EQ(with("positions", std::uint64_t{1} << 31), at + "positions: 2147483648, expected at most 1073741824");
  EXPECT_EQ(with("recent", (std::uint64_t{1} << 20) + 1), at + "recent: 1048577, expected at most 1048576");
  EXPECT_EQ(with("trust", 1.5), at + "trust: 1.5, expected 0 to 1");
  EXPECT_EQ(with("predicted_kld", -0.5), at + "predicted_kld: -0.5, expected a finite number >= 0");
  EXPECT_EQ(with("goal", std::string_view(std::string(5000, 'x'))), at + "goal: 5000 bytes, expected at most 4096");
  EXPECT_THAT(with("k_type", std::string_view("lm9")), StartsWith(at + "k_type: 'lm9': cache type 'lm9': unknown"));
  EXPECT_EQ(with("v_type", std::string_view("plan,plan=x")), at + "v_type: 'plan,plan=x': it names another file");
  EXPECT_EQ(with("sensitivity.keys", std::vector<double>(3)), at + "sensitivity.keys: 3 items, expected 2");
  EXPECT_EQ(with("sensitivity.keys", std::vector<float>(2)),
            at + "sensitivity.keys: another type, expected array of f64");
  EXPECT_EQ(with("sensitivity.values", std::vector<double>{0, -1}),
            at + "sensitivity.values: -1, expected a finite number >= 0");
  EXPECT_EQ(with("certificate.corpus", std::vector<std::string_view>(3)), at + "certificate.hash: 2 items, expected 3");
  EXPECT_EQ(with("certificate.corpus", std::vector<std::string_view>(257)),
            at + "certificate.corpus: 257 items, expected at most 256");
  EXPECT_EQ(with("certificate.tokens", std::vector<std::uint64_t>(1)), at + "certificate.tokens: 1 items, expected 2");
  EXPECT_EQ(with("certificate.tokens", std::vector<std::int64_t>(2)),
            at + "certificate.tokens: another type, expected array of u64");
  EXPECT_EQ(with("certificate.top1", std::vector<double>{0, 1.25}), at + "certificate.top1: 1.25, expected 0 to 1");
  EXPECT_EQ(with("certificate.kld_mean", std::vector<double>{0, -HUGE_VAL}),
            at + "certificate.kld_mean: -inf, expected a finite number");
  EXPECT_EQ(with("certificate.ppl_ratio_hi", std::vector<double>{std::nan(""), 1}),
            at + "certificate.ppl_ratio_hi: nan, expected a finite number >= 0");
}

TEST(Plan, TruncatedAnywhereItIsRefused) {
  const auto bytes = serialize_plan(small_plan());
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
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
  expect([](Plan& p) { p.layers[1].k_moment[21 + 14] = -2; },
         "plan: tensor blk.1.k_moment: value 35 is -2, expected a finite number >= 0");
  expect([](Plan& p) { p.codes.pop_back(); }, "plan: codes of 1 layers, expected 2 or none");
  expect([](Plan& p) { p.codes[1].keys.clear(); }, "plan: tensors blk.1.key_*: 0 heads, expected 2");
  expect([](Plan& p) { p.codes[0].values.pop_back(); }, "plan: tensors blk.0.value_*: 1 heads, expected 2");
  expect([](Plan& p) { p.codes[1].values[1].parts[0].bits = 7; },
         "plan: tensors blk.1.value_*: head 1: part 0: 7 bits, expected 0 or 1 to 6");
  expect([](Plan& p) { p.codes.assign(2, {}); }, "plan: codes of 2 layers without heads");
  expect([](Plan& p) { p.k_type = "q4_0,plan=q"; },
         "plan: metadata kvant.plan.k_type: 'q4_0,plan=q': it names another file");
  expect([](Plan& p) { p.layers[1].v_sensitivity = -1; },
         "plan: metadata kvant.plan.sensitivity.values: -1, expected a finite number >= 0");
  expect([](Plan& p) { p.certificates[0].top1 = 1.5; },
         "plan: metadata kvant.plan.certificate.top1: 1.5, expected 0 to 1");
  expect([](Plan& p) { p.certificates[1].kld_error = std::nan(""); },
         "plan: metadata kvant.plan.certificate.kld_error: nan, expected a finite number >= 0");
  expect([](Plan& p) { p.certificates.resize(257); },
         "plan: metadata kvant.plan.certificate.corpus: 257 items, expected at most 256");
  expect([](Plan& p) { p.goal.resize(5000); }, "plan: metadata kvant.plan.goal: 5000 bytes, expected at most 4096");
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
