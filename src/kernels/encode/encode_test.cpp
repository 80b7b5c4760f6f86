#include "kernels/encode/encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "gguf/blocks.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kBlock = gguf::kBlock;

/// Blocks that are easy to get wrong: ties of the rounding and of the extreme value, zeros of either sign, constants,
/// numbers so small that scales are subnormal or have no inverse, and large ones.
std::vector<float> blocks(float limit) {
  Random random(7);
  std::vector<float> x;
  const auto add = [&](auto f) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      const double value = f(i);
      x.push_back(static_cast<float>(std::abs(value) <= static_cast<double>(limit) ? value : 0));
    }
  };
  for (double scale : {1.0, 1e-3, 300.0, 6e4, 1e-7, 1e-20, 1e-37, 1e-39, 1e-42, 1e-45, 5e5, 8e6, 1e30}) {
    for (int repeat = 0; repeat < 50; ++repeat) add([&](std::size_t) { return scale * random.normal(); });
    for (double extreme :
         {127.0, -127.0, 15.0, -8.0, 8.0, -16.0, 16.0, 31.0}) {  // all codes end in a half, or just beside it
      add([&](std::size_t i) {
        return scale * (i == 5 ? extreme : std::floor((random.uniform() - 0.5) * std::abs(extreme)) + 0.5);
      });
      add([&](std::size_t i) {
        const double half = std::floor((random.uniform() - 0.5) * std::abs(extreme)) + 0.5;
        return scale * (i == 9 ? extreme : half * (1 + (std::floor(random.uniform() * 3) - 1) * 0x1p-24));
      });
    }
    add([&](std::size_t i) { return i % 3 == 0 ? scale : -scale; });
    add([&](std::size_t i) { return i % 3 == 2 ? scale : -scale; });
    add([&](std::size_t) { return scale; });
    add([&](std::size_t) { return -scale; });
    add([&](std::size_t i) { return i == 17 ? scale : 0; });
    add([&](std::size_t i) { return i == 31 ? -scale : -0.0; });
    add([&](std::size_t i) { return i % 2 == 0 ? 0.0 : -0.0; });
    add([&](std::size_t i) { return i % 2 == 1 ? scale : -0.0; });
  }
  add([](std::size_t) { return 0.0; });
  add([](std::size_t) { return -0.0; });
  add([&](std::size_t i) { return static_cast<double>(i % 2 == 0 ? limit : -limit); });
  return x;
}

TEST(Encode, BytesEqualTheReferenceOnEveryTier) {
  for (const auto& tier : encode_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const Encoders::Entry& e : tier.function->types) {
      const std::vector<float> x = blocks(largest_storable(e.type));
      const std::size_t bytes = gguf::row_bytes(e.type, kBlock);
      std::vector<std::byte> expected(bytes), got(bytes);
      for (std::size_t i = 0; i < x.size(); i += kBlock) {
        gguf::quantize(e.type, {&x[i], kBlock}, expected.data());
        ASSERT_TRUE(e.encode(&x[i], kBlock, got.data())) << tier.name << ' ' << gguf::info(e.type).name << ' ' << i;
        ASSERT_EQ(got, expected) << tier.name << ' ' << gguf::info(e.type).name << " block " << i / kBlock << " from "
                                 << x[i];
      }
      std::vector<std::byte> row(gguf::row_bytes(e.type, x.size())), row_expected(row.size());
      gguf::quantize(e.type, x, row_expected.data());
      ASSERT_TRUE(e.encode(x.data(), x.size(), row.data()));
      EXPECT_EQ(row, row_expected) << tier.name << ' ' << gguf::info(e.type).name;
    }
  }
}

TEST(Encode, RefusesWhatCannotBeStored) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& tier : encode_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const Encoders::Entry& e : tier.function->types) {
      std::vector<std::byte> out(gguf::row_bytes(e.type, 2 * kBlock));
      const float limit = largest_storable(e.type);
      for (std::size_t at : {0U, 13U, 31U, 32U, 63U}) {
        std::vector<float> x(2 * kBlock, 0.5F);
        for (float bad : {infinity, -infinity, std::nanf(""), -std::nanf(""), std::nextafter(limit, infinity),
                          -std::nextafter(limit, infinity)}) {
          x[at] = bad;
          EXPECT_FALSE(e.encode(x.data(), x.size(), out.data())) << tier.name << ' ' << gguf::info(e.type).name << bad;
        }
        for (float largest : {limit, -limit}) {
          x[at] = largest;
          std::vector<float> back(x.size());
          EXPECT_TRUE(e.encode(x.data(), x.size(), out.data())) << tier.name << ' ' << gguf::info(e.type).name;
          gguf::dequantize(e.type, out.data(), back);
          for (float v : back) EXPECT_TRUE(std::isfinite(v)) << tier.name << ' ' << gguf::info(e.type).name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
