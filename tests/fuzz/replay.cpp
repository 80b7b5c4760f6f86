/// Stands in for libFuzzer where it is not there: feeds each file of a corpus folder once to the fuzz target.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/file_io.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) try {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} CORPUS\n", argv[0]);
    return 2;
  }
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    const std::string bytes = kvant::read_text(entry.path());
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    ++files;
  }
  fmt::print("{} files\n", files);
  return files > 0 ? 0 : 1;
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
