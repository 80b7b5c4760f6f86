#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/cpu.h"
#include "base/file_io.h"
#include "base/half.h"
#include "base/mapped_file.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "base/utf8.h"

namespace kvant {
namespace {

TEST(Half, EveryF16RoundTrips) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 h{static_cast<std::uint16_t>(bits)};
    const float f = to_float(h);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(to_float(to_f16(f))));
    } else {
      ASSERT_EQ(to_f16(f).bits, h.bits) << bits;
    }
  }
}

TEST(Half, F16RoundsToNearestEven) {
  EXPECT_EQ(to_f16(1.0f + 0x1p-11f).bits, to_f16(1.0f).bits);          // tie to even
  EXPECT_EQ(to_f16(1.0f + 3 * 0x1p-11f).bits, to_f16(1.0f).bits + 2);  // tie to even, upwards
  EXPECT_EQ(to_f16(1.0f + 0x1.2p-11f).bits, to_f16(1.0f).bits + 1);    // above the tie
  EXPECT_EQ(to_f16(65519.0f).bits, to_f16(65504.0f).bits);             // largest that does not overflow
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7c00);                            // rounds to infinity
  EXPECT_EQ(to_f16(0x1p-25f).bits, 0);                                 // tie to even: zero
  EXPECT_EQ(to_f16(0x1.8p-24f).bits, 2);                               // subnormal tie
  EXPECT_EQ(to_f16(-std::numeric_limits<float>::infinity()).bits, 0xfc00);
}

TEST(Half, F16IsNearestOverRandomFloats) {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const float f = static_cast<float>(random.normal() * std::exp(8 * random.normal()));
    const F16 h = to_f16(f);
    const double error = std::abs(static_cast<double>(f) - static_cast<double>(to_float(h)));
    for (int step : {-1, 1}) {
      const F16 other{static_cast<std::uint16_t>(h.bits + step)};
      const double other_value = static_cast<double>(to_float(other));
      if (std::isfinite(other_value) && std::isfinite(to_float(h))) {
        EXPECT_LE(error, std::abs(static_cast<double>(f) - other_value)) << f;
      }
    }
  }
}

TEST(Half, Bf16RoundsToNearestEven) {
  EXPECT_EQ(to_bf16(1.0f + 0x1p-8f).bits, to_bf16(1.0f).bits);
  EXPECT_EQ(to_bf16(1.0f + 3 * 0x1p-8f).bits, to_bf16(1.0f).bits + 2);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Random, SameSequenceEverywhere) {
  Random random(42);  // splitmix64(42) then xoshiro256**: values of the published reference code
  EXPECT_EQ(random.next(), 1546998764402558742u);
  EXPECT_EQ(random.next(), 6990951692964543102u);
}

TEST(Random, NormalHasUnitVariance) {
  Random random(7);
  double sum = 0;
  double squares = 0;
  constexpr int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
}

TEST(Utf8, SequenceLengths) {
  EXPECT_EQ(utf8_sequence_length("a"), 1u);
  EXPECT_EQ(utf8_sequence_length("\xc3\xa4"), 2u);
  EXPECT_EQ(utf8_sequence_length("\xe2\x82\xac"), 3u);
  EXPECT_EQ(utf8_sequence_length("\xf0\x9f\x98\x80"), 4u);
  for (const char* bad : {"", "\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "\xc3"}) {
    EXPECT_EQ(utf8_sequence_length(bad), 0u) << printable(bad);
  }
}

TEST(Utf8, CompletePrefixStopsBeforeAnOpenSequence) {
  EXPECT_EQ(utf8_complete_prefix("ab\xf0\x9f\x98"), 2u);
  EXPECT_EQ(utf8_complete_prefix("ab\xf0\x9f\x98\x80"), 6u);
  EXPECT_EQ(utf8_complete_prefix("ab\x80"), 3u);      // never becomes valid
  EXPECT_EQ(utf8_complete_prefix("ab\xe0\x80"), 4u);  // overlong: never becomes valid
  EXPECT_EQ(utf8_complete_prefix(""), 0u);
}

TEST(Error, PrintableHidesControlBytes) {
  EXPECT_EQ(printable("a\nb\xff"), "a\\x0ab\\xff");
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

TEST(Checked, OverflowIsAnError) {
  EXPECT_EQ(checked_mul(6, 7, "x"), 42u);
  EXPECT_THROW(checked_mul(std::size_t{1} << 40, std::size_t{1} << 40, "x"), Error);
  EXPECT_THROW(checked_add(~std::size_t{0}, 1, "x"), Error);
}

TEST(Cpu, EnvironmentCapsTheTier) {
  const char* before = std::getenv("KVANT_ISA");
  const std::string saved = before == nullptr ? "" : before;
  for (Isa isa : supported_isas()) {
    ::setenv("KVANT_ISA", std::string(name(isa)).c_str(), 1);
    EXPECT_EQ(active_isa(), isa);
  }
  ::setenv("KVANT_ISA", "sse9", 1);
  EXPECT_THROW(active_isa(), Error);
  ::unsetenv("KVANT_ISA");
  EXPECT_EQ(active_isa(), supported_isas().back());
  if (!saved.empty()) ::setenv("KVANT_ISA", saved.c_str(), 1);
}

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (std::size_t count : {0u, 1u, 3u, 1000u}) {
      std::vector<std::atomic<int>> hits(count);
      pool.run(count, [&](std::size_t i, int thread) {
        EXPECT_LT(thread, threads);
        hits[i].fetch_add(1);
      });
      for (auto& h : hits) EXPECT_EQ(h.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortRuns) {
  ThreadPool pool(3);
  std::atomic<std::size_t> sum{0};
  for (int i = 0; i < 5000; ++i) pool.run(4, [&](std::size_t k, int) { sum.fetch_add(k); });
  EXPECT_EQ(sum.load(), 5000u * 6);
}

TEST(ThreadPool, FirstExceptionIsRethrownAndThePoolSurvives) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run(100, [](std::size_t i, int) { KVANT_CHECK(i != 7, ErrorCode::io, "seven"); }), Error);
  std::atomic<int> hits{0};
  pool.run(10, [&](std::size_t, int) { ++hits; });
  EXPECT_EQ(hits.load(), 10);
}

TEST(ThreadPool, RangesCoverTheCount) {
  ThreadPool pool(2);
  std::vector<int> hits(103);
  pool.for_ranges(hits.size(), 10, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t i = begin; i < end; ++i) ++hits[i];
  });
  EXPECT_THAT(hits, testing::Each(1));
}

TEST(AlignedBuffer, IsAlignedAndRefusesOverflow) {
  AlignedBuffer<float> buffer(5);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
  EXPECT_EQ(buffer.size_bytes(), 20u);
  EXPECT_THROW(AlignedBuffer<float>(~std::size_t{0} / 2), Error);
}

class FileIo : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / ("kvant_file_io_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(FileIo, CommitReplacesAndAbandonLeavesNothing) {
  const auto path = folder_ / "a.txt";
  {
    AtomicFile file(path);
    file.write("old");
    file.commit();
  }
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_EQ(read_text(path.string()), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(FileIo, ErrorsNameThePath) {
  try {
    AtomicFile file(folder_ / "no" / "such");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::io);
    EXPECT_THAT(e.what(), testing::HasSubstr("such"));
  }
  EXPECT_THROW(read_text((folder_ / "absent").string()), Error);
  EXPECT_THROW(read_text(folder_.string()), Error);
  EXPECT_THROW(MappedFile{folder_ / "absent"}, Error);
  EXPECT_THROW(MappedFile{folder_}, Error);
}

TEST_F(FileIo, MapsAFileAndAnEmptyOne) {
  AtomicFile(folder_ / "empty").commit();
  EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
  AtomicFile file(folder_ / "four");
  file.write("1234");
  file.commit();
  MappedFile map(folder_ / "four");
  MappedFile moved = std::move(map);
  EXPECT_EQ(moved.bytes().size(), 4u);
  EXPECT_EQ(moved.bytes()[2], std::byte{'3'});
}

}  // namespace
}  // namespace kvant
