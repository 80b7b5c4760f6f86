/// Trained models against golden data made elsewhere: tests/golden/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "integration/test_models.h"

namespace kvant::integration {
namespace {

using kernels::Precision;

template <class T>
std::vector<T> tensor_values(const gguf::File& file, std::string_view name) {
  const gguf::Tensor& tensor = file.tensor(name);
  std::vector<T> values(tensor.values());
  if (tensor.data.size() != values.size() * sizeof(T)) throw std::runtime_error("golden tensor of another type");
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

std::int32_t argmax(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

class Stories : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = data_file(std::string("gguf/stories260K.") + GetParam() + "-f32.gguf");
    const auto golden = data_file("reference/stories260K_greedy_expected.json");
    KVANT_REQUIRE_FILE(model_);
    KVANT_REQUIRE_FILE(golden);
    std::ifstream file(golden);
    expected_ = nlohmann::json::parse(file).at("greedy_ids").get<std::vector<std::int32_t>>();
    ASSERT_EQ(expected_.size(), 201u) << "BOS and 200 steps";
  }

  /// Runs `check` for every instruction set, thread count and precision.
  template <class Check>
  void everywhere(Check&& check) {
    for (const Isa isa : supported_isas()) {
      for (const int threads : {1, 2}) {
        for (const Precision precision : {Precision::reference, Precision::fast}) {
          SCOPED_TRACE(std::string(name(isa)) + (precision == Precision::fast ? " fast " : " reference ") +
                       std::to_string(threads) + " threads");
          LoadedModel loaded(gguf::File::open(model_), {isa, threads, precision});
          check(loaded, precision);
        }
      }
    }
  }

  std::filesystem::path model_;
  std::vector<std::int32_t> expected_;
};

TEST_P(Stories, GreedyDecodingGivesTheExpectedText) {
  everywhere([&](LoadedModel& loaded, Precision) {
    cache::KvCache cache = loaded.make_cache(expected_.size());
    std::vector<std::int32_t> tokens{expected_[0]};
    while (tokens.size() < expected_.size()) {
      tokens.push_back(argmax(loaded.forward(cache, std::span(tokens).last(1), 1)));
    }
    EXPECT_EQ(tokens, expected_);
  });
}

/// In reference precision exactly. Fast precision reads a prompt in bf16 where the processor can: 2^-9 of logits around
/// 10 is 0.02 for each rounding, so a token whose runner-up is that near may swap with it.
TEST_P(Stories, OnePassOverTheTextPredictsEachNextToken) {
  everywhere([&](LoadedModel& loaded, Precision precision) {
    const float tolerance = precision == Precision::fast ? 0.1f : 0.0f;
    const auto logits = loaded.logits(expected_);
    for (std::size_t i = 0; i + 1 < expected_.size(); ++i) {
      const auto row = std::span(logits).subspan(i * loaded.config.vocabulary, loaded.config.vocabulary);
      EXPECT_GE(row[static_cast<std::size_t>(expected_[i + 1])], *std::max_element(row.begin(), row.end()) - tolerance)
          << "after token " << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(, Stories, testing::Values("qwen2", "llama"),
                         [](const auto& architecture) { return std::string(architecture.param); });

struct Difference {
  double largest = 0;
  double relative_rms = 0;
};

/// Logits of a stand-in file against the golden ones of the F32 file.
Difference golden_difference(const std::filesystem::path& path, const LoadedModel::Options& options) {
  const gguf::File golden = gguf::File::open(own_model("standin-a.golden.gguf"));
  const auto tokens = tensor_values<std::int32_t>(golden, "tokens");
  const auto positions = tensor_values<std::int32_t>(golden, "positions");
  const auto expected = tensor_values<float>(golden, "logits");
  LoadedModel loaded(gguf::File::open(path), options);
  const auto logits = loaded.logits(tokens);
  const std::size_t vocabulary = loaded.config.vocabulary;
  Difference difference;
  double sum = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto row = static_cast<std::size_t>(positions[i / vocabulary]);
    const double d = static_cast<double>(logits[row * vocabulary + i % vocabulary]) - expected[i];
    if (!(std::abs(d) <= difference.largest)) difference.largest = std::abs(d);
    sum += d * d;
    norm += static_cast<double>(expected[i]) * expected[i];
  }
  difference.relative_rms = std::sqrt(sum / norm);
  return difference;
}

TEST(StandIn, LogitsOfTheF32FileEqualTheGoldenOnes) {
  const auto path = data_file("../models/standin-a-f32.gguf");
  KVANT_REQUIRE_FILE(path);
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    const Difference d = golden_difference(path, {.isa = isa});
    std::printf("%s: largest difference %.3g, relative %.3g\n", std::string(name(isa)).c_str(), d.largest,
                d.relative_rms);
    EXPECT_LT(d.largest, 1e-3);
  }
}

/// q8_0 weights are off by a uniform error of one step = largest of 32 / 127: 0.5 % of the norm (largest of 32 normal
/// values: 2.1 deviations; 2.1 / 127 / sqrt(12)). 6 layers with four products in series each and the head add 25 such
/// errors to a residual stream: at most 0.5 % * sqrt(25) = 2.5 %; less than a tenth of one error would mean that the
/// weights were not quantized at all.
TEST(StandIn, LogitsOfTheQ8FileAreNearTheGoldenOnes) {
  for (const Precision precision : {Precision::reference, Precision::fast}) {
    const Difference d = golden_difference(own_model("standin-a-q8_0.gguf"), {.precision = precision});
    std::printf("largest difference %.3g, relative %.3g\n", d.largest, d.relative_rms);
    EXPECT_LT(d.relative_rms, precision == Precision::fast ? 0.025 * std::sqrt(2) : 0.025);
    EXPECT_GT(d.relative_rms, 0.0005);
  }
}

}  // namespace
}  // namespace kvant::integration
