#include "cache/memory.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>

namespace kvant::cache {
namespace {

namespace fs = std::filesystem;

/// A folder that stands for "/".
class AvailableMemory : public testing::Test {
 protected:
  fs::path root = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
  void SetUp() override { fs::remove_all(root); }
  void TearDown() override { fs::remove_all(root); }
  void write(const fs::path& file, const std::string& text) const {
    fs::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
};

TEST_F(AvailableMemory, IsWhatTheKernelSays) {
  EXPECT_EQ(available_memory(root), std::numeric_limits<std::size_t>::max());
  write("proc/meminfo", "MemTotal:       24583364 kB\nMemFree: 5 kB\nMemAvailable:   1000 kB\nBuffers: 3 kB\n");
  EXPECT_EQ(available_memory(root), 1024000u);
}

TEST_F(AvailableMemory, IsNoMoreThanTheControlGroupLeaves) {
  write("proc/meminfo", "MemAvailable: 1000 kB\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  write("sys/fs/cgroup/memory.current", "600000\n");
  EXPECT_EQ(available_memory(root), 1024000u);
  write("sys/fs/cgroup/memory.max", "900000\n");
  EXPECT_EQ(available_memory(root), 300000u);
  write("sys/fs/cgroup/memory.stat", "anon 100000\ninactive_file 400000\nactive_file 50000\n");
  EXPECT_EQ(available_memory(root), 750000u);
  write("sys/fs/cgroup/memory.current", "2000000\n");
  EXPECT_EQ(available_memory(root), 0u);
}

TEST_F(AvailableMemory, KnowsVersionOneGroups) {
  write("proc/meminfo", "MemAvailable: 1000 kB\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
  EXPECT_EQ(available_memory(root), 1024000u);
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
  EXPECT_EQ(available_memory(root), 4000u);
}

TEST(Memory, IsZeroedAndCostsNothingUntilTouched) {
  Memory memory(std::size_t{1} << 34);  // 16 GiB, of which two pages get touched
  EXPECT_EQ(memory.bytes(), std::size_t{1} << 34);
  EXPECT_EQ(memory.data()[memory.bytes() - 1], std::byte{0});
  Memory moved = std::move(memory);
  moved.data()[5] = std::byte{7};
  memory = Memory(1);
  EXPECT_GE(memory.bytes(), 1u);
  EXPECT_EQ(moved.data()[5], std::byte{7});
}

}  // namespace
}  // namespace kvant::cache
