#pragma once
#include <span>
#include <string_view>

#include "base/cpu.h"

namespace kvant::kernels {

/// One implementation of a kernel. A family lists its implementations in kernels.inc, the most capable tier first; the
/// dispatcher, the tests and the benchmarks all walk that one list.
template <class Function>
struct Implementation {
  std::string_view name;  ///< "<op>/<type>/<isa>", as tests and benchmarks print it
  Isa isa;
  Function function;
};

/// The first listed implementation that may run where `isa` was chosen. Every list ends with a scalar one.
template <class Function>
const Implementation<Function>& pick(std::span<const Implementation<Function>> list, Isa isa) {
  for (const auto& i : list) {
    if (includes(isa, i.isa)) return i;
  }
  return list.back();
}

}  // namespace kvant::kernels
