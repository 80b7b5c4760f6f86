#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kvant {

/// Instruction-set tiers, least capable first within an architecture.
/// avx2     AVX2 + FMA + F16C
/// avxvnni  avx2 with AVX-VNNI (Alder Lake, Zen 5 and later; no part of avx512, which Zen 4 has without it)
/// avx512   F, BW, DQ, VL, VBMI, VNNI (Ice Lake, Zen 4 and later)
/// amx      avx512 with BF16, and the matrix registers with products of bf16 and int8 (Sapphire Rapids and later)
/// neon     ASIMD + dotprod + fp16
enum class Isa { scalar, avx2, avxvnni, avx512, amx, neon };

std::string_view name(Isa isa) noexcept;

/// The tiers that this processor runs, least capable first; always starts with scalar. amx is among them when the
/// system lets this process use the matrix registers, which is asked for by the first call.
std::vector<Isa> supported_isas();

/// The most capable supported tier, capped by the environment variable KVANT_ISA (scalar, avx2, avxvnni,
/// avx512, amx or neon). Throws invalid_argument when the variable names an unknown tier or one that this processor
/// lacks.
Isa active_isa();

/// Whether code of tier `tier` may run where `active` was chosen (scalar always may).
bool includes(Isa active, Isa tier) noexcept;

/// Whether the processor has AVX512-BF16 dot products (probed apart from the tiers; only meaningful with avx512).
bool has_avx512_bf16() noexcept;

/// Whether a core reads memory faster from several places in turn than from one. An Intel server core waits for its 12
/// line fill buffers, and only the prefetcher of its L2 cache, which follows each 4-KiB page by itself, reads more at
/// once: measured on Ice Lake 1 place 19.1, 4 places 22.4, 8 places 24.3 GB/s (two threads), on Sapphire Rapids 28 and
/// 32.5; on Zen 4 four are slower than one.
bool reads_faster_in_streams() noexcept;

/// Number of processors that this process may run on.
int available_threads();

/// The processor's name as the system reports it.
std::string cpu_name();

}  // namespace kvant
