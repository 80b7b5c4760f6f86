#include <fmt/format.h>

#include <filesystem>

#include "plan_fixture.h"

// Writes what this version makes of the fixtures, for a new version of a format. Files that are in the repository stay
// as they are: they are what older versions wrote.
int main(int argc, char** argv) try {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} FOLDER\n", argv[0]);
    return 2;
  }
  kvant::codec::write_plan(std::filesystem::path(argv[1]) / "plan-1.gguf", kvant::compat::plan_fixture());
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
