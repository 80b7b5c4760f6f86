#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "eval/logits_file.h"

// Takes arbitrary bytes for a logits file and reads all of it. Anything but a kvant::Error or log-probabilities is a
// finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::eval;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const LogitsShape shape = parse_logits_shape(bytes, size, "fuzz");
    if (shape.file_bytes() != size) std::abort();
    std::vector<std::int32_t> tokens(shape.tokens());
    std::memcpy(tokens.data(), data + LogitsShape::kHeaderBytes, 4 * tokens.size());
    check_logits_tokens(tokens, shape, "fuzz");
    std::vector<float> log_probability(shape.vocabulary);
    for (std::size_t r = 0; r < shape.rows(); ++r) {
      const auto row = bytes.subspan(shape.head_bytes() + r * shape.row_bytes(), shape.row_bytes());
      decode_logits_row(row, log_probability, "fuzz", r);
      for (const float log_p : log_probability) {
        if (!(log_p <= 1)) std::abort();
      }
    }
  } catch (const kvant::Error&) {
  }
  return 0;
}
