#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "codec/plan.h"

// Parses arbitrary bytes as a plan; what is accepted is written and read again, and must be the same. Anything but that
// or a kvant::Error is a finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::codec;
  Plan plan;
  try {
    plan = parse_plan(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  } catch (const kvant::Error&) {
    return 0;
  }
  check_fits(plan, "fuzz.gguf", plan.model);
  const auto bytes = serialize_plan(plan);
  if (parse_plan(bytes, "again.gguf") != plan) std::abort();
  return 0;
}
