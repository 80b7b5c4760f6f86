#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kvant {

/// Instruction-set tiers, least capable first within an architecture.
/// avx2   AVX2 + FMA + F16C
/// avx512 F, BW, DQ, VL, VBMI, VNNI (Ice Lake, Zen 4 and later; AVX-VNNI is never assumed)
/// neon   ASIMD + dotprod + fp16
enum class Isa { scalar, avx2, avx512, neon };

std::string_view name(Isa isa) noexcept;

/// The tiers that this processor runs, least capable first; always starts with scalar.
std::vector<Isa> supported_isas();

/// The most capable supported tier, capped by the environment variable KVANT_ISA (scalar, avx2, avx512 or neon).
/// Throws invalid_argument when the variable names an unknown tier or one that this processor lacks.
Isa active_isa();

/// Whether code of tier `tier` may run where `active` was chosen (scalar always may).
bool includes(Isa active, Isa tier) noexcept;

/// Whether the processor has AVX512-BF16 dot products (probed apart from the tiers; only meaningful with avx512).
bool has_avx512_bf16() noexcept;

/// Number of processors that this process may run on.
int available_threads();

/// The processor's name as the system reports it.
std::string cpu_name();

}  // namespace kvant
