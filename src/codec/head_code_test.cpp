#include "codec/head_code.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "base/error.h"
#include "codec/page_layout.h"

namespace kvant::codec {
namespace {

constexpr QuantizerKind kLm = QuantizerKind::lm, kUni = QuantizerKind::uni;
constexpr ScaleFormat kF16 = ScaleFormat::f16, kLog8 = ScaleFormat::log8;

TEST(HeadCode, DimsAreRoundedUpToBlocks) {
  EXPECT_EQ(coded_dims(2), 32u);
  EXPECT_EQ(coded_dims(64), 64u);
  EXPECT_EQ(coded_dims(80), 96u);
}

TEST(HeadCode, BytesOfAPartAreThoseOfItsPage) {
  for (const std::size_t dims : {32, 64, 128, 256}) {
    for (const int bits : {1, 2, 3, 4, 5, 6}) {
      for (const ScaleFormat norm : {kF16, kLog8}) {
        const CodePart part{dims, kLm, bits, norm};
        EXPECT_EQ(page_bytes({&part, 1}), PageLayout(PageSide::key, dims, bits, 1, norm).bytes());
      }
    }
  }
}

TEST(HeadCode, BytesAreSummedOverParts) {
  const std::vector<CodePart> parts = {{64, kLm, 4, kF16}, {32, kUni, 2, kLog8}, {32, kLm, 0, kF16}};
  EXPECT_EQ(page_bytes(parts), 64u * (32 + 2) + 64 * (8 + 1));
  EXPECT_DOUBLE_EQ(bits_per_value(parts, 128), 8.0 * (34 + 9) / 128);
  EXPECT_DOUBLE_EQ(bits_per_value(parts, 120), 8.0 * (34 + 9) / 120);
  const std::vector<CodePart> cut = {{96, kLm, 2, kF16}, {480, kLm, 1, kLog8}};  // 64 + 32; 256 + 128 + 64 + 32
  EXPECT_EQ(page_bytes(cut), 64u * (24 + 2 * 2) + 64 * (60 + 4));
  EXPECT_EQ(page_bytes({}), 0u);
}

HeadCode sound_code() {
  HeadCode code{std::vector<Bf16>(64 * 40), std::vector<Bf16>(64 * 40), {{32, kLm, 4, kF16}, {32, kUni, 8, kLog8}}};
  for (std::size_t i = 0; i < 40; ++i) code.transform[i * 41] = code.inverse[i * 41] = to_bf16(1);
  return code;
}

TEST(HeadCode, SoundOnesPass) {
  HeadCode code = sound_code();
  EXPECT_NO_THROW(check_head_code(code, 40, "code"));
  code.parts = {{64, kUni, 0, kF16}};
  EXPECT_NO_THROW(check_head_code(code, 40, "code"));
}

TEST(HeadCode, WrongOnesAreNamed) {
  const auto expect = [](const std::function<void(HeadCode&)>& change, const std::string& what) {
    HeadCode code = sound_code();
    change(code);
    EXPECT_THAT([&] { check_head_code(code, 40, "p: head 3"); }, testing::ThrowsMessage<Error>("p: head 3: " + what));
  };
  expect([](HeadCode& c) { c.transform.pop_back(); }, "transform of 2559 values, expected 2560");
  expect([](HeadCode& c) { c.inverse.clear(); }, "inverse of 0 values, expected 2560");
  expect([](HeadCode& c) { c.inverse[5] = to_bf16(std::numeric_limits<float>::quiet_NaN()); },
         "inverse: value 5 is nan, expected a finite number");
  expect([](HeadCode& c) { c.transform[1643] = to_bf16(-2); },
         "transform: row 41 has -2, expected zeros from row 40 on");
  expect([](HeadCode& c) { c.parts.clear(); }, "0 parts, expected 1 to 4");
  expect([](HeadCode& c) { c.parts.assign(5, {32, kLm, 1, kF16}); }, "5 parts, expected 1 to 4");
  expect([](HeadCode& c) { c.parts.pop_back(); }, "parts of 32 dims, expected 64");
  expect([](HeadCode& c) { c.parts[1].dims = 64; }, "part 1: 64 dims, 32 are left");
  expect([](HeadCode& c) { c.parts[0].dims = 48; }, "part 0: 48 dims, expected a multiple of 32");
  expect([](HeadCode& c) { c.parts[0].dims = 0; }, "part 0: 0 dims, expected a multiple of 32");
  expect([](HeadCode& c) { c.parts[0].bits = 7; }, "part 0: 7 bits, expected 0 or 1 to 6");
  expect([](HeadCode& c) { c.parts[1].bits = 1; }, "part 1: 1 bits, expected 0 or 2 to 8");
  expect([](HeadCode& c) { c.parts[1].bits = -1; }, "part 1: -1 bits, expected 0 or 2 to 8");
  expect([](HeadCode& c) { c.parts[1].kind = static_cast<QuantizerKind>(2); }, "part 1: kind 2, expected 0 or 1");
  expect([](HeadCode& c) { c.parts[1].norm = static_cast<ScaleFormat>(9); }, "part 1: norm 9, expected 0 or 1");
}

}  // namespace
}  // namespace kvant::codec
