#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "sweep/grid.h"

// Takes arbitrary bytes for a sweep's grid file. Anything but a kvant::Error or a grid within its limits is a finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::sweep;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    // Its own folder holds no files that a grid could name; these two stand for the models and texts.
    const Grid grid = parse_grid(text, "fuzz", "fuzz-of-grid", {{KVANT_FUZZ_FILE}, {KVANT_FUZZ_FILE}});
    if (grid.contexts.empty() || grid.caches.empty() || grid.kinds.empty() || grid.together == 0) std::abort();
    for (const std::size_t context : grid.contexts) {
      if (context < 3) std::abort();
    }
  } catch (const kvant::Error&) {
  }
  return 0;
}
