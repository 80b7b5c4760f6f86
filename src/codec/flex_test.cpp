#include "codec/flex.h"

#include <gmock/gmock.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <numeric>
#include <sstream>

#include "base/error.h"
#include "base/file_io.h"
#include "base/random.h"
#include "codec/codebook.h"

namespace kvant::codec {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::IsEmpty;
using Vector = std::vector<float>;

/// The inputs of the golden vectors: a 32-bit linear congruential generator.
Vector draws(std::uint32_t state, bool outliers) {
  Vector x(kFlexDims);
  for (std::size_t i = 0; i < kFlexDims; ++i) {
    state = state * 1664525 + 1013904223;
    const float draw = static_cast<float>(static_cast<std::int32_t>(state)) / 2147483648.0F;
    x[i] = draw * (outliers && i % 4 == 1 ? 8 : 1);
  }
  return x;
}

FlexChannels golden_channels() {
  std::vector<std::uint8_t> permutation;
  for (unsigned first : {1U, 0U, 2U, 3U}) {
    for (unsigned i = first; i < kFlexDims; i += 4) permutation.push_back(static_cast<std::uint8_t>(i));
  }
  return make_flex_channels(permutation);
}

/// One golden block. Where the file has two, the second has the signs in the basis that the decoder expects.
struct Golden {
  std::string spec;
  bool inexact_table = false;  ///< coded with a table of the earlier system that is not optimal
  double relative_error = 0, dot_rotated = 0, dot_decoded = 0;
  double decoded[4] = {};
  std::vector<std::vector<std::byte>> blocks;
};

std::vector<std::byte> bytes_of(std::string_view hex) {
  std::vector<std::byte> bytes(hex.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    unsigned value = 0;
    std::from_chars(hex.data() + 2 * i, hex.data() + 2 * i + 2, value, 16);
    bytes[i] = static_cast<std::byte>(value);
  }
  return bytes;
}

double number_after(const std::string& line, std::string_view name) {
  const std::size_t at = line.find(name);
  return at == std::string::npos ? NAN : std::stod(line.substr(at + name.size()));
}

std::filesystem::path golden_file() {
  const char* data = std::getenv("KVANT_DATA");
  const std::filesystem::path base = data != nullptr ? data : KVANT_SOURCE_DIR "/../shared/data";
  return base / "../reference/golden-vectors.txt";
}

/// The flex blocks of the file; the other formats of the earlier system are not supported.
std::vector<Golden> read_golden() {
  std::vector<Golden> all;
  std::istringstream file(read_text(golden_file().string()));
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flex ")) {
      Golden golden;
      golden.spec = "flex:" + line.substr(5, line.find(' ', 5) - 5);
      golden.inexact_table = line.find("[T]") != std::string::npos;
      golden.relative_error = number_after(line, "relL2=");
      golden.dot_rotated = number_after(line, "dot_vec=");
      golden.dot_decoded = number_after(line, "dot_deq=");
      std::istringstream values(line.substr(line.find("deq[0..3]=") + 10));
      for (double& value : golden.decoded) values >> value;
      all.push_back(golden);
      inside = true;
    } else if (!line.starts_with("  ")) {
      inside = false;
    } else if (inside && line.find_first_not_of("0123456789abcdef", 2) == std::string::npos) {
      all.back().blocks.push_back(bytes_of(std::string_view(line).substr(2)));
    }
  }
  return all;
}

double relative_error(const Vector& x, const std::vector<double>& decoded) {
  double error = 0, norm2 = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (x[i] - decoded[i]) * (x[i] - decoded[i]);
    norm2 += double{x[i]} * x[i];
  }
  return std::sqrt(error / norm2);
}

TEST(Flex, BlocksAreThoseOfTheEarlierSystem) {
  if (!std::filesystem::exists(golden_file())) GTEST_SKIP() << "missing: " << golden_file();
  const std::vector<Golden> all = read_golden();
  ASSERT_EQ(all.size(), 9U);
  const Vector x = draws(12345, true);
  std::size_t exact = 0;
  for (const Golden& golden : all) {
    SCOPED_TRACE(golden.spec);
    ASSERT_THAT(golden.blocks, testing::SizeIs(AnyOf(1, 2)));
    const FlexCodec codec(parse_flex_spec(golden.spec));
    ASSERT_EQ(codec.bytes(), golden.blocks.back().size());
    std::vector<std::byte> block(codec.bytes(), std::byte{0xff});
    ASSERT_TRUE(codec.encode(x, golden_channels(), block));
    if (golden.inexact_table) {
      // A code moves by one where a value lies between the two systems' thresholds; the residual's magnitude and few of
      // its signs go with it. The norms do not depend on the table.
      const std::vector<std::byte>& theirs = golden.blocks.back();
      EXPECT_TRUE(std::equal(block.begin(), block.begin() + 4, theirs.begin()));
      std::size_t differing = 0;
      for (std::size_t i = 0; i < block.size(); ++i) differing += block[i] != theirs[i] ? 1 : 0;
      EXPECT_LE(differing, golden.spec == "flex:1:10:5:1:0" ? 1U : 8U);
      std::vector<double> decoded(kFlexDims);
      codec.decode(block, golden_channels(), decoded);
      EXPECT_NEAR(relative_error(x, decoded), golden.relative_error, 0.01 * golden.relative_error);
    } else {
      EXPECT_EQ(block, golden.blocks.back());
      ++exact;
    }
  }
  EXPECT_EQ(exact, 7U);
}

TEST(Flex, DecodesBlocksOfTheEarlierSystem) {
  if (!std::filesystem::exists(golden_file())) GTEST_SKIP() << "missing: " << golden_file();
  const Vector x = draws(12345, true), q = draws(54321, false);
  EXPECT_NEAR(std::inner_product(x.begin(), x.end(), q.begin(), 0.0), 8.312203, 1e-5);
  for (const Golden& golden : read_golden()) {
    if (golden.inexact_table) continue;
    SCOPED_TRACE(golden.spec);
    const FlexCodec codec(parse_flex_spec(golden.spec));
    std::vector<double> decoded(kFlexDims), rotated(kFlexDims);
    codec.decode(golden.blocks.front(), golden_channels(), decoded);
    codec.decode_rotated(golden.blocks.front(), rotated);
    Vector rotated_query(kFlexDims);
    codec.rotate(q, golden_channels(), rotated_query);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(decoded[i], golden.decoded[i], 1e-6);
    EXPECT_NEAR(relative_error(x, decoded), golden.relative_error, 1e-6);
    EXPECT_NEAR(std::inner_product(q.begin(), q.end(), decoded.begin(), 0.0), golden.dot_decoded, 1e-5);
    EXPECT_NEAR(std::inner_product(rotated_query.begin(), rotated_query.end(), rotated.begin(), 0.0),
                golden.dot_rotated, 1e-5);
  }
}

/// Mean relative squared error over random directions of 128 dims.
double distortion(const std::string& spec) {
  const FlexCodec codec(parse_flex_spec(spec));
  Random random(31);
  Vector x(kFlexDims);
  std::vector<double> decoded(kFlexDims);
  std::vector<std::byte> block(codec.bytes());
  constexpr int kVectors = 3000;
  double sum = 0;
  for (int v = 0; v < kVectors; ++v) {
    for (float& value : x) value = static_cast<float>(random.normal());
    EXPECT_TRUE(codec.encode(x, golden_channels(), block));
    codec.decode(block, golden_channels(), decoded);
    sum += std::pow(relative_error(x, decoded), 2);
  }
  return sum / kVectors;
}

TEST(Flex, DistortionIsTheTheorys) {
  for (const int bits : {1, 3, 5, 6}) {
    EXPECT_NEAR(distortion("flex:0:" + std::to_string(bits) + ":0:0:0") / solve_codebook(128, bits).distortion, 1,
                0.01);
  }
  // A quarter of the energy lies in the 32, three quarters in the 96.
  const double split = solve_codebook(32, 5).distortion / 4 + solve_codebook(96, 4).distortion * 3 / 4;
  EXPECT_NEAR(distortion("flex:1:5:4:0:0") / split, 1, 0.01);
}

// Measured with the earlier system on the same distribution: 2.84e-2 and 2.03e-3 at 3 and 5 bits with its sign term,
// 1.18e-2 and 8.4e-4 with the best step.
TEST(Flex, SignTermInBothForms) {
  EXPECT_NEAR(distortion("flex:0:3:0:1:0"), 2.84e-2, 0.01 * 2.84e-2);
  EXPECT_NEAR(distortion("flexfix:0:3:0:1:0"), 1.18e-2, 0.01 * 1.18e-2);
  EXPECT_NEAR(distortion("flex:0:5:0:1:0"), 2.03e-3, 0.01 * 2.03e-3);
  EXPECT_NEAR(distortion("flexfix:0:5:0:1:0"), 8.4e-4, 0.015 * 8.4e-4);  // two digits are known
  const double plain = distortion("flex:1:4:3:0:0");
  EXPECT_LT(distortion("flexfix:1:4:3:1:1"), 0.4 * plain);
  EXPECT_GT(distortion("flex:1:4:3:1:1"), 0.6 * plain);
}

TEST(Flex, SizesAreThePublishedOnes) {
  const std::pair<const char*, std::size_t> sizes[] = {
      {"flex:1:9:4:1:1", 108},  {"flex:1:9:4:0:0", 88}, {"flex:1:9:3:1:0", 82}, {"flex:1:10:5:1:0", 110},
      {"flex:1:10:5:1:1", 124}, {"flex:1:8:3:1:0", 78}, {"flex:1:5:4:1:0", 78}, {"flex:0:4:0:0:0", 66},
      {"flex:0:10:0:0:0", 162}, {"flex:0:5:0:1:0", 100}};
  for (const auto& [text, bytes] : sizes) EXPECT_EQ(flex_bytes(parse_flex_spec(text)), bytes) << text;
}

TEST(Flex, TextFormsRoundTrip) {
  for (const char* text : {"flex:1:9:4:1:1", "flex:0:6:0:0:0", "flexfix:1:10:8:0:1", "flex:0:1:8:0:1"}) {
    EXPECT_EQ(to_string(parse_flex_spec(text)), text);
  }
  const auto message = [](const char* text) -> std::string {
    try {
      parse_flex_spec(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(message("flex:2:9:4:1:1"), HasSubstr("S is '2', expected 0 to 1"));
  EXPECT_THAT(message("flex:1:11:4:1:1"), HasSubstr("H is '11', expected 1 to 10"));
  EXPECT_THAT(message("flex:1:0:4:1:1"), HasSubstr("H is '0'"));
  EXPECT_THAT(message("flex:1:9:0:1:1"), HasSubstr("L is '0', expected 1 to 8"));
  EXPECT_THAT(message("flex:0:9:9:1:1"), HasSubstr("L is '9', expected 0 to 8"));
  EXPECT_THAT(message("flex:1:9:4:2:1"), HasSubstr("JH is '2'"));
  EXPECT_THAT(message("flex:1:9:4:1:"), HasSubstr("JL is ''"));
  EXPECT_THAT(message("flex:1:9:4:1:1x"), HasSubstr("JL is '1x'"));
  EXPECT_THAT(message("flex:1:9:4:1"), HasSubstr("expected 5 fields"));
  EXPECT_THAT(message("flex:1:9:4:1:1:0"), HasSubstr("expected 5 fields"));
  EXPECT_THAT(message("flexx:1:9:4:1:1"), HasSubstr("expected flex:S:H:L:JH:JL or flexfix:"));
  EXPECT_THROW(FlexCodec(FlexSpec{true, 12, 4, false, false, false}), Error);
}

TEST(Flex, ZerosLargeValuesAndNonsense) {
  for (const char* text : {"flex:1:9:4:1:1", "flex:0:5:0:1:0", "flexfix:1:5:4:1:1"}) {
    const FlexCodec codec(parse_flex_spec(text));
    std::vector<std::byte> block(codec.bytes());
    std::vector<double> decoded(kFlexDims);
    ASSERT_TRUE(codec.encode(Vector(kFlexDims, 0), golden_channels(), block));
    codec.decode(block, golden_channels(), decoded);
    EXPECT_THAT(decoded, testing::Each(0.0));

    ASSERT_TRUE(codec.encode(Vector(kFlexDims, 1e6F), golden_channels(), block));
    codec.decode(block, golden_channels(), decoded);
    EXPECT_THAT(decoded, testing::Each(testing::Truly([](double v) { return std::isfinite(v); })));

    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38F}) {
      for (const std::size_t at : {0U, 1U, 127U}) {
        Vector x(kFlexDims, 1);
        x[at] = bad;
        EXPECT_FALSE(codec.encode(x, golden_channels(), block));
      }
    }
  }
}

TEST(Flex, ChannelsAreSortedWithinTheirPart) {
  std::vector<std::uint8_t> permutation(kFlexDims);
  std::iota(permutation.rbegin(), permutation.rend(), std::uint8_t{0});  // 127 .. 0: the outliers are 96..127
  const FlexChannels channels = make_flex_channels(permutation);
  EXPECT_EQ(channels.order[0], 96);
  EXPECT_EQ(channels.order[31], 127);
  EXPECT_EQ(channels.order[32], 0);
  EXPECT_EQ(channels.order[127], 95);
  permutation[5] = permutation[6];
  EXPECT_THROW(make_flex_channels(permutation), Error);
  permutation[5] = 128;
  EXPECT_THROW(make_flex_channels(permutation), Error);
  permutation.pop_back();
  EXPECT_THROW(make_flex_channels(permutation), Error);
}

}  // namespace
}  // namespace kvant::codec
