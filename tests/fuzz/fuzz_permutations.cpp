#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "codec/permutation_file.h"

// Parses arbitrary bytes as a permutation file; what is accepted is written again and must give the same bytes.
// Anything but that or a kvant::Error is a finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::codec;
  const auto bytes = std::as_bytes(std::span(data, size));
  PermutationFile file;
  try {
    file = parse_permutation_file(bytes, "fuzz.perm");
  } catch (const kvant::Error&) {
    return 0;
  }
  if (!std::ranges::equal(serialize_permutation_file(file, "fuzz.perm"), bytes)) std::abort();
  for (std::size_t layer = 0; layer < file.layers; ++layer) {
    for (std::size_t head = 0; head < file.kv_heads; ++head) {
      for (const std::uint8_t channel : file.permutation(layer, head)) {
        if (channel >= file.head_dim) std::abort();
      }
    }
  }
  return 0;
}
