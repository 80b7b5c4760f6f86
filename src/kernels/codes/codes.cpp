#include "kernels/codes/codes.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/codes/common.h"
#include "kernels/simd/target.h"

namespace kvant::kernels {
namespace {

/// values = q / unit in whole numbers, unit = max |q| / largest. Returns the unit.
float quantize_group(const float* q, std::size_t count, int largest, std::int8_t* values, std::int32_t& sum) {
  float peak = 0;
  for (std::size_t i = 0; i < count; ++i) peak = std::max(peak, std::abs(q[i]));
  sum = 0;
  if (peak < kNegligible) {
    std::fill_n(values, count, std::int8_t{0});
    return 0;
  }
  const auto most = static_cast<float>(largest);
  const float unit = peak / most, factor = most / peak;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t value = nearest_whole(q[i] * factor);
    values[i] = static_cast<std::int8_t>(value);
    sum += value;
  }
  return unit;
}

/// What whole numbers leave of q. The product is exact in double, so that it is the same whether or not a compiler
/// fuses it.
void take_out(const std::int8_t* values, float unit, std::size_t count, float* q) {
  for (std::size_t i = 0; i < count; ++i) {
    q[i] = static_cast<float>(static_cast<double>(q[i]) - static_cast<double>(unit) * values[i]);
  }
}

}  // namespace

CodeTable make_code_table(const codec::Quantizer& quantizer) {
  const auto& levels = quantizer.levels;
  CodeTable table;
  table.bits = quantizer.bits;
  KVANT_CHECK(table.bits >= 1 && table.bits <= 8 && levels.size() == std::size_t{1} << table.bits,
              ErrorCode::invalid_argument, "code table: {} levels of {} bits", levels.size(), table.bits);
  if (table.bits > 6) {
    KVANT_CHECK(quantizer.kind == codec::QuantizerKind::uni, ErrorCode::unsupported,
                "code table: {} bits of lm, expected at most 6", table.bits);
    table.step = 2;
    table.offset = -levels[0];
    return table;
  }
  table.offset = kTableOffset;
  for (std::size_t i = 0; i < 64; ++i) {
    table.bytes[i] = static_cast<std::uint8_t>(levels[i % levels.size()] + table.offset);
  }
  return table;
}

void quantize_query(const CodedPages& pages, const float* q, int planes, int largest, std::int8_t* values, float* units,
                    std::int32_t* sums) noexcept {
  const std::size_t dims = pages.layout.padded_dims(), groups = pages.layout.groups();
  for (Group group = group_at(pages, 0); group.count > 0; group = group_at(pages, group.first + group.count)) {
    float rest[kMaxCodedDims];
    const float* from = q + group.first;
    for (std::size_t p = 0; p < static_cast<std::size_t>(planes); ++p) {
      if (p == 1) {
        std::copy_n(from, group.count, rest);
        take_out(values + group.first, units[group.index], group.count, rest);
        from = rest;
      }
      units[p * groups + group.index] =
          quantize_group(from, group.count, largest, values + p * dims + group.first, sums[p * groups + group.index]);
    }
  }
}

#define KVANT_KERNELS(tier)        \
  namespace tier {                 \
  extern const CodeKernels kCodes; \
  }
#include "kernels/codes/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<const CodeKernels*>> code_implementations() noexcept {
  static constexpr Implementation<const CodeKernels*> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::kCodes},
#include "kernels/codes/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

const CodeKernels& code_kernels(Isa isa) noexcept { return *pick(code_implementations(), isa).function; }

}  // namespace kvant::kernels
