#include "plan_fixture.h"

namespace kvant::compat {
namespace {

using codec::QuantizerKind;
using codec::ScaleFormat;

constexpr std::size_t kLayers = 2, kDims = 40, kCodedDims = 64;

/// Eighths from -2 to 2 that go on where the last call stopped.
class Numbers {
 public:
  float next() { return static_cast<float>(static_cast<int>(count_++ * 13 % 33) - 16) / 8; }
  std::vector<float> vector(std::size_t size) {
    std::vector<float> values(size);
    for (float& x : values) x = next();
    return values;
  }
  /// With a diagonal above zero.
  std::vector<float> moment() {
    std::vector<float> values = vector(codec::packed_size(kDims));
    for (std::size_t i = 0; i < kDims; ++i) values[codec::packed_size(i + 1) - 1] = 64 + next();
    return values;
  }
  std::vector<Bf16> matrix() {
    std::vector<Bf16> values(kCodedDims * kDims);
    for (std::size_t i = 0; i < kDims * kDims; ++i) values[i] = to_bf16(next());
    return values;
  }

 private:
  std::size_t count_ = 0;
};

}  // namespace

codec::Plan plan_fixture() {
  codec::Plan plan;
  plan.model = {.architecture = "qwen2",
                .layers = kLayers,
                .embedding = 64,
                .heads = 2,
                .kv_heads = 1,
                .head_dim = kDims,
                .rope_dims = kDims,
                .rope_base = 1e6,
                .rope_scaling = "yarn",
                .rope_factor = 4,
                .rope_original_context = 32768,
                .rope_attention_factor = 1.125,
                .rope_details = 0x0123456789abcdef,
                .key_biases = 0xfedcba9876543210,
                .attention_shapes = 0x8000000000000001};
  plan.corpus = {"text.txt", 0xfeedfacecafebeef, 8192, 512};
  Numbers numbers;
  for (std::size_t layer = 0; layer < kLayers; ++layer) {
    codec::LayerStatistics s;
    for (auto* mean : {&s.k_mean, &s.k_mean_rotated, &s.v_mean}) *mean = numbers.vector(kDims);
    for (auto* moment : {&s.k_moment, &s.q_moment, &s.v_moment}) *moment = numbers.moment();
    s.k_sensitivity = layer == 0 ? 0.375 : 0;
    s.v_sensitivity = layer == 0 ? 0x1p-40 : 3;
    plan.layers.push_back(std::move(s));
    codec::LayerCodes codes;
    const ScaleFormat norm = layer == 0 ? ScaleFormat::f16 : ScaleFormat::log8;
    const std::vector<codec::CodePart> keys = {{32, QuantizerKind::lm, layer == 0 ? 4 : 2, norm},
                                               {32, QuantizerKind::uni, layer == 0 ? 2 : 0, norm}};
    const std::vector<codec::CodePart> values = {{64, QuantizerKind::uni, 8, norm}};
    codes.keys.push_back({numbers.matrix(), numbers.matrix(), keys});
    codes.values.push_back({numbers.matrix(), numbers.matrix(), values});
    plan.codes.push_back(std::move(codes));
  }
  plan.k_type = "lm4,anchor=none";
  plan.v_type = "q8_0";
  plan.goal = "--bits 3";
  plan.positions = 1024;
  plan.recent = 16;
  plan.trust = 0.5;
  plan.predicted_kld = 0.015625;
  plan.certificates = {{.corpus = "text.txt, the tail",
                        .hash = 0xffffffffffffffff,
                        .context = 512,
                        .tokens = 2048,
                        .kld_mean = 0.01171875,
                        .kld_error = 0x1p-12,
                        .kld_p99 = 0.25,
                        .top1 = 0.96875,
                        .ppl_ratio = 1.0078125,
                        .ppl_ratio_lo = 1.00390625,
                        .ppl_ratio_hi = 1.01171875}};
  return plan;
}

}  // namespace kvant::compat
