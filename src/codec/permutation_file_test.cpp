#include "codec/permutation_file.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace kvant::codec {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Bytes = std::vector<std::byte>;

/// A file of random permutations with `layers` layers and, in front, one layer of the model without keys.
PermutationFile example(std::size_t layers, std::size_t kv_heads, std::size_t head_dim) {
  PermutationFile file;
  file.layers = layers;
  file.kv_heads = kv_heads;
  file.head_dim = head_dim;
  file.pre_rope = true;
  file.layer_map.push_back(-1);
  for (std::size_t i = 0; i < layers; ++i) file.layer_map.push_back(static_cast<std::int32_t>(i));
  Random random(3);
  for (std::size_t row = 0; row < layers * kv_heads; ++row) {
    std::vector<std::uint8_t> permutation(head_dim);
    std::iota(permutation.begin(), permutation.end(), std::uint8_t{0});
    for (std::size_t i = head_dim; i-- > 1;) std::swap(permutation[i], permutation[random.below(i + 1)]);
    file.permutations.insert(file.permutations.end(), permutation.begin(), permutation.end());
  }
  return file;
}

/// The same with types and layouts: f16 in layer 0, split or not in the others.
PermutationFile flex_example(std::size_t layers) {
  PermutationFile file = example(layers, 2, 128);
  for (std::size_t i = 0; i < layers; ++i) {
    file.types.push_back({i == 0 ? PermutationFile::kTypeF16 : PermutationFile::kTypeFlex, static_cast<float>(i)});
    file.layouts.push_back(std::nullopt);
    if (i > 0) file.layouts.back() = parse_flex_spec(i % 2 == 0 ? "flex:0:6:0:0:0" : "flex:1:9:4:1:1");
  }
  return file;
}

std::string message_of(std::span<const std::byte> bytes, ErrorCode code = ErrorCode::format) {
  try {
    parse_permutation_file(bytes, "perms.bin");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_THAT(e.what(), StartsWith("perms.bin: "));
    return e.what();
  }
  return "accepted";
}

/// The message after `value` is written at `offset`.
template <class T>
std::string patched(Bytes bytes, std::size_t offset, T value, ErrorCode code = ErrorCode::format) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
  return message_of(bytes, code);
}

TEST(PermutationFile, HasTheSizeOfThePublishedExample) {
  PermutationFile file = flex_example(28);
  file.layer_map.erase(file.layer_map.begin());
  EXPECT_EQ(serialize_permutation_file(file, "f").size(), 7772U);
}

TEST(PermutationFile, BytesOfASmallFile) {
  PermutationFile file;
  file.layers = 1;
  file.kv_heads = 1;
  file.head_dim = 3;
  file.layer_map = {-1, 0};
  file.permutations = {2, 0, 1};
  file.types = {{8, 50.0F}};
  const unsigned expected[] = {0x45, 0x50, 0x51, 0x54, 1,    0, 0, 0, 1, 0,   0,   0,   1,   0, 0, 0,    3,   0, 0,
                               0,    0,    0,    0,    0,    2, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0,    0,   2, 0,
                               1,    0x54, 0x4c, 0x51, 0x54, 1, 0, 0, 0, 8,   0,   0,   0,   0, 0, 0x48, 0x42};
  Bytes bytes;
  for (const unsigned value : expected) bytes.push_back(static_cast<std::byte>(value));
  EXPECT_EQ(serialize_permutation_file(file, "f"), bytes);
}

TEST(PermutationFile, RoundTrip) {
  PermutationFile with_types = example(4, 2, 64);
  with_types.types = {{8, 10.0F}, {62, 100.0F}, {1, 0.0F}, {50, 99.5F}};
  for (const PermutationFile& file : {example(3, 2, 128), example(1, 1, 256), with_types, flex_example(5)}) {
    const Bytes bytes = serialize_permutation_file(file, "f");
    const PermutationFile read = parse_permutation_file(bytes, "f");
    EXPECT_EQ(read.layers, file.layers);
    EXPECT_EQ(read.kv_heads, file.kv_heads);
    EXPECT_EQ(read.head_dim, file.head_dim);
    EXPECT_EQ(read.pre_rope, file.pre_rope);
    EXPECT_EQ(read.layer_map, file.layer_map);
    EXPECT_EQ(read.permutations, file.permutations);
    EXPECT_EQ(read.layouts, file.layouts);
    ASSERT_EQ(read.types.size(), file.types.size());
    for (std::size_t i = 0; i < file.types.size(); ++i) {
      EXPECT_EQ(read.types[i].type, file.types[i].type);
      EXPECT_EQ(read.types[i].outlier_percent, file.types[i].outlier_percent);
    }
    EXPECT_EQ(serialize_permutation_file(read, "f"), bytes);
  }
}

TEST(PermutationFile, WritesAndReadsFiles) {
  const auto path = std::filesystem::path(testing::TempDir()) / "kvant_permutation_file_test.bin";
  const PermutationFile file = flex_example(3);
  write_permutation_file(path, file);
  const PermutationFile read = read_permutation_file(path);
  EXPECT_EQ(read.layouts, file.layouts);
  EXPECT_EQ(make_flex_channels(read.permutation(2, 1)).order, make_flex_channels(file.permutation(2, 1)).order);
  std::filesystem::remove(path);
  EXPECT_THROW(read_permutation_file(path), Error);
}

TEST(PermutationFile, WrongFieldsAreNamed) {
  const Bytes good = serialize_permutation_file(flex_example(3), "f");
  const std::size_t map = 28, permutations = map + 16, types = permutations + 3 * 2 * 128, layouts = types + 8 + 24;
  EXPECT_THAT(patched(good, 0, 0x46554747U),
              HasSubstr("magic: 0x46554747, expected 0x54515045: not a permutation file"));
  EXPECT_THAT(patched(good, 4, 3U, ErrorCode::unsupported), HasSubstr("header version: 3, expected 1"));
  EXPECT_THAT(patched(good, 8, 0U), HasSubstr("0 layers with keys, but the model has 4"));
  EXPECT_THAT(patched(good, 8, 0xffffffffU), HasSubstr("permutations"));
  EXPECT_THAT(patched(good, 12, 0U), HasSubstr("no KV heads"));
  EXPECT_THAT(patched(good, 16, 0U), HasSubstr("head_dim 0, expected 1 to 256"));
  EXPECT_THAT(patched(good, 20, 2U), HasSubstr("pre_rope: 2, expected 0 or 1"));
  EXPECT_THAT(patched(good, 24, 0x40000000U), HasSubstr("layer map: 4294967296 bytes at offset 28"));
  EXPECT_THAT(patched(good, map + 4, 1), HasSubstr("layer 1 of the model maps to 1, expected 0 or -1"));
  EXPECT_THAT(patched(good, map + 12, -1), HasSubstr("maps 2 layers, but the file has 3"));
  EXPECT_THAT(patched(good, permutations + 300, std::uint8_t{128}),
              HasSubstr("layer 1, head 0: channel 128 is out of range"));
  EXPECT_THAT(patched(good, permutations + 300, std::to_integer<std::uint8_t>(good[permutations + 301])),
              HasSubstr("is there twice"));
  EXPECT_THAT(patched(good, types, 1U), HasSubstr("types: magic 0x00000001, expected 0x54514c54"));
  EXPECT_THAT(patched(good, types + 4, 4U), HasSubstr("types: 4 entries, but the file has 3 layers"));
  EXPECT_THAT(patched(good, types + 8, 71), HasSubstr("layer 0: type 71, expected 0 to 70"));
  EXPECT_THAT(patched(good, types + 8, 70), HasSubstr("layer 0: type 70 without a layout"));
  EXPECT_THAT(patched(good, types + 12, 1), HasSubstr("layer 1: type 1 with a layout"));
  EXPECT_THAT(patched(good, types + 8, 8), HasSubstr("layer 0: type 8 where the layout says f16"));
  EXPECT_THAT(patched(good, types + 20, NAN), HasSubstr("layer 0: nan percent"));
  EXPECT_THAT(patched(good, types + 20, 101.0F), HasSubstr("layer 0: 101 percent"));
  EXPECT_THAT(patched(good, layouts, 0U), HasSubstr("layouts: magic 0x00000000"));
  const std::size_t record = layouts + 8 + 8;  // of layer 1: 1, 9, 4, 0, 1, 1, 108
  const auto field = [&](std::size_t at, int value, ErrorCode code = ErrorCode::format) {
    return patched(good, record + at, static_cast<std::int8_t>(value), code);
  };
  EXPECT_THAT(field(0, 2), HasSubstr("layout split: 2, expected 0 to 1"));
  EXPECT_THAT(field(1, 11), HasSubstr("layout high bits: 11, expected 0 to 10"));
  EXPECT_THAT(field(2, -1), HasSubstr("layout low bits: 255, expected 0 to 8"));
  EXPECT_THAT(field(3, 3, ErrorCode::unsupported), HasSubstr("layout residual bits: 3, expected 0"));
  EXPECT_THAT(field(4, 7), HasSubstr("layout high signs: 7"));
  EXPECT_THAT(field(5, 0), HasSubstr("layout block bytes: 108, expected 94"));
  EXPECT_THAT(field(6, 107), HasSubstr("layout block bytes: 107, expected 108"));
  EXPECT_THAT(patched(good, layouts + 8, std::int8_t{1}), HasSubstr("layout high bits: 0, but other fields are not"));
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_THAT(message_of(longer), HasSubstr("end: 1 bytes too many"));
}

TEST(PermutationFile, FlexNeedsItsHeadDim) {
  PermutationFile file = example(1, 1, 64);
  file.types = {{PermutationFile::kTypeFlex, 1.0F}};
  EXPECT_THROW(serialize_permutation_file(file, "f"), Error);
  file.layouts = {parse_flex_spec("flex:0:6:0:0:0")};
  EXPECT_THROW(serialize_permutation_file(file, "f"), Error);
  file = flex_example(2);
  file.layouts[1]->least_squares_step = true;
  EXPECT_THROW(serialize_permutation_file(file, "f"), Error);
  file = flex_example(2);
  file.types.clear();
  EXPECT_THROW(serialize_permutation_file(file, "f"), Error);
}

TEST(PermutationFile, TruncatedFilesAreRefused) {
  const Bytes good = serialize_permutation_file(flex_example(3), "f");
  const std::size_t ends_of_sections[] = {28 + 16 + 3 * 2 * 128, 28 + 16 + 3 * 2 * 128 + 8 + 24};
  for (std::size_t size = 0; size < good.size(); ++size) {
    const std::string message = message_of(std::span(good).first(size));
    // The file may end before its optional sections, but types that name layouts need them.
    if (size == ends_of_sections[0]) {
      EXPECT_EQ(message, "accepted");
    } else if (size == ends_of_sections[1]) {
      EXPECT_THAT(message, HasSubstr("without a layout"));
    } else {
      EXPECT_THAT(message, HasSubstr("but the file ends after")) << size;
    }
  }
}

/// Random damage: either refused with an error, or accepted as a file that has exactly these bytes.
TEST(PermutationFile, DamagedFilesAreRefusedOrUnderstood) {
  const Bytes good = serialize_permutation_file(flex_example(3), "f");
  Random random(17);
  std::size_t refused = 0, accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    Bytes bytes = good;
    // Half of the damage goes to the parts outside the permutations.
    const std::size_t rest = good.size() - 3 * 2 * 128;
    for (std::uint64_t flips = 1 + random.below(3); flips > 0; --flips) {
      std::size_t at = random.below(random.below(2) == 0 ? rest : good.size());
      if (at >= 44 && random.below(2) == 0) at = good.size() - 1 - at % (rest - 44);
      bytes[at] ^= static_cast<std::byte>(1U << random.below(8));
    }
    try {
      const PermutationFile file = parse_permutation_file(bytes, "f");
      ASSERT_EQ(serialize_permutation_file(file, "f"), bytes);
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10'000U);
  EXPECT_GT(accepted, 10U);  // flips in the percentages and in pre_rope
}

TEST(PermutationFile, OtherModelsAreRefused) {
  const PermutationFile file = flex_example(27);
  check_fits_model(file, "p", 28, 2, 128);
  const auto message = [&](std::size_t layers, std::size_t heads, std::size_t dim) -> std::string {
    try {
      check_fits_model(file, "perms.bin", layers, heads, dim);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message(36, 2, 128), "perms.bin: model layers 28, but the model has 36");
  EXPECT_EQ(message(28, 4, 128), "perms.bin: kv_heads 2, but the model has 4");
  EXPECT_EQ(message(28, 2, 64), "perms.bin: head_dim 128, but the model has 64");
}

}  // namespace
}  // namespace kvant::codec
