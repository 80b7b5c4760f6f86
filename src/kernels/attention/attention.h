#pragma once
#include <array>
#include <cstddef>
#include <limits>
#include <span>

#include "base/cpu.h"
#include "gguf/types.h"
#include "kernels/registry.h"

/// Attention over pages of stored keys and values. A page holds 64 tokens of one layer and KV head, a vector of
/// gguf::row_bytes(type, dims) bytes each, where dims is a multiple of 32. Rows are query vectors: the query heads that
/// share the KV head, of one or several tokens. Scoring depends on how keys are stored, mixing on how values are; a
/// softmax that knows neither joins them, over a few pages at once; what rows saw in different stretches is then merged
/// (Dao et al., "FlashAttention", 2022, algorithm 1).
///
/// Each row's result has the same bits whatever other rows stand beside it: every sum has a fixed order per tier.
/// All kernels are noexcept and allocate nothing.
namespace kvant::kernels {

/// Tokens of a page.
constexpr std::size_t kPageTokens = 64;

/// Scores are computed for this many keys at a time.
constexpr std::size_t kScoreTokens = 4;

/// Memory that will be read next; the kernel starts to load it on its way.
struct Upcoming {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  const std::byte* beyond = nullptr;  ///< as many bytes that will be read after those, or null
};
inline constexpr Upcoming kNothing{};

/// logits[r][t] = sum_i q[r][i] * decode(keys[t])[i]   (r < rows, t < tokens); products and sums in f32.
struct ScoreArgs {
  const float* q;         ///< [rows][dims]
  std::size_t rows;       ///< >= 1
  std::size_t dims;       ///< multiple of 32
  const std::byte* keys;  ///< `tokens` of them; memory up to a multiple of kScoreTokens is read
  std::size_t tokens;     ///< 1 to 64
  float* logits;          ///< [rows][64]; undefined from `tokens` on
  const Upcoming& next = kNothing;
};

/// What a row has seen: the softmax over all of it is sum of exp(logit - max) * value, divided by `sum`.
struct SoftmaxState {
  float max = -std::numeric_limits<float>::infinity();  ///< of the scaled logits; minus infinity: nothing yet
  float sum = 0;                                        ///< of exp(logit - max)
};

/// The softmax of each row over consecutive pages: x = scale * logit, max the greatest, weight = exp(x - max), sum the
/// weights'. Tokens that a row does not see get weight 0.
struct SoftmaxArgs {
  std::size_t rows;
  std::size_t pages;           ///< >= 1
  float scale;                 ///< > 0
  const std::size_t* visible;  ///< [rows] tokens of the pages that the row sees, 0 to 64 * pages
  float* logits;               ///< [pages][rows][64] in: logits, out: weights
  SoftmaxState* states;        ///< [rows] written
};

/// out[r][i] += sum_t weights[r][t] * decode(values[t])[i]   (t < tokens, in this order), f32.
struct MixArgs {
  const float* weights;     ///< [rows][64]
  std::size_t rows;         ///< >= 1
  std::size_t dims;         ///< multiple of 32
  const std::byte* values;  ///< one page
  std::size_t tokens;       ///< 1 to 64; the rest is not read
  float* out;               ///< [rows][dims]
  const Upcoming& next = kNothing;
};

/// The kernels of one stored type.
struct TypeKernels {
  gguf::TensorType type;
  /// Decodes `count` consecutive values (a multiple of 32) into f32.
  void (*decode)(const std::byte* data, std::size_t count, float* out) noexcept;
  void (*score)(const ScoreArgs&) noexcept;
  void (*mix)(const MixArgs&) noexcept;
};

/// All attention kernels of one tier.
struct AttentionKernels {
  /// f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0
  std::array<TypeKernels, 8> types;
  void (*softmax)(const SoftmaxArgs&) noexcept;
  /// Joins what a row saw in two disjoint stretches: total becomes both. Either may have seen nothing.
  void (*merge)(SoftmaxState& total, float* total_out, const SoftmaxState& part, const float* part_out,
                std::size_t dims) noexcept;

  /// Throws unsupported for a type that caches do not store.
  const TypeKernels& of(gguf::TensorType type) const;
};

/// The kernels of all tiers, the most capable first.
std::span<const Implementation<const AttentionKernels*>> attention_implementations() noexcept;
/// The kernels for an instruction set.
const AttentionKernels& attention(Isa isa) noexcept;

}  // namespace kvant::kernels
