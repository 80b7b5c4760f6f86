// The attention kernels over a tier's vectors. Included inside the namespace and target region of each tier.
#include "kernels/attention/decode.h"

namespace {

/// Rows of a register tile at most.
constexpr std::size_t kScoreRows = F32::kRegisters < 16 ? 2 : 6;
constexpr std::size_t kMixRows = F32::kRegisters < 16 ? 2 : 8;

/// How many vectors (4, 2 or 1) each of `rows` rows may sum into, so that all sums stay in registers beside as many
/// operands of one kind and one of the other.
constexpr std::size_t tile_width(std::size_t rows) {
  for (std::size_t width : {kScoreTokens, kScoreTokens / 2}) {
    if (rows * width + width + 1 <= F32::kRegisters) return width;
  }
  return 1;
}

/// Covers all rows by tiles of nearly equal size; table[n - 1](args, first) computes n rows.
template <class Args, std::size_t max>
void for_row_tiles(const std::array<void (*)(const Args&, std::size_t) noexcept, max>& table,
                   const Args& args) noexcept {
  std::size_t tiles = (args.rows + max - 1) / max;
  for (std::size_t first = 0; first < args.rows; --tiles) {
    const std::size_t rows = (args.rows - first + tiles - 1) / tiles;
    table[rows - 1](args, first);
    first += rows;
  }
}

constexpr std::size_t kLine = 64;  // bytes of a cache line

/// Starts to load lines [first, last) of `next`.
[[gnu::always_inline]] inline void prefetch(const Upcoming& next, std::size_t first, std::size_t last) noexcept {
  for (std::size_t i = first; i < std::min(last, next.bytes / kLine); ++i)
    __builtin_prefetch(next.data + i * kLine, 0, 2);
}

/// logits[r][t] = the sum of the lanes of sums[r][t]
template <std::size_t rows, std::size_t tokens>
[[gnu::always_inline]] inline void store_sums(const F32 (&sums)[rows][tokens], float* logits) noexcept {
  constexpr std::size_t kStep = 4 / tokens;  // rows that one sum4 covers
  constexpr std::size_t kLast = rows - 1;
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; r += kStep) {
    float* to = logits + r * kPageTokens;
    if constexpr (tokens == 4) {
      sum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3], to);
      continue;
    }
    float out[4];
    sum4(sums[r][0], sums[std::min(r + 1 / tokens, kLast)][1 % tokens], sums[std::min(r + 2 / tokens, kLast)][0],
         sums[std::min(r + 3 / tokens, kLast)][3 % tokens], out);
    KVANT_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      if (r + i / tokens < rows) to[i / tokens * kPageTokens + i % tokens] = out[i];
    }
  }
}

template <TensorType type, std::size_t rows>
void score_rows(const ScoreArgs& a, std::size_t first_row) noexcept {
  constexpr std::size_t kTokens = tile_width(rows);
  const std::size_t ahead = first_row == 0 ? a.next.bytes / kLine * kTokens / kPageTokens : 0;
  const std::size_t row_bytes = a.dims / kBlock * Block<type>::kBytes;
  const float* q = a.q + first_row * a.dims;
  float* logits = a.logits + first_row * kPageTokens;
  for (std::size_t t0 = 0; t0 < a.tokens; t0 += kTokens) {
    const std::byte* keys = a.keys + t0 * row_bytes;
    prefetch(a.next, t0 / kTokens * ahead, (t0 / kTokens + 1) * ahead);
    F32 sums[rows][kTokens];
    KVANT_UNROLL
    for (auto& row : sums) {
      KVANT_UNROLL
      for (F32& s : row) s = zero();
    }
    for (std::size_t b = 0; b < a.dims / kBlock; ++b) {
      KVANT_UNROLL
      for (std::size_t c = 0; c < kBlock / kLanes; ++c) {
        F32 k[kTokens];
        KVANT_UNROLL
        for (std::size_t t = 0; t < kTokens; ++t) {
          k[t] = Block<type>(keys + t * row_bytes + b * Block<type>::kBytes).get(c);
        }
        KVANT_UNROLL
        for (std::size_t r = 0; r < rows; ++r) {
          const F32 x = in_register(load(q + r * a.dims + b * kBlock + c * kLanes));
          KVANT_UNROLL
          for (std::size_t t = 0; t < kTokens; ++t) sums[r][t] = fma(x, k[t], sums[r][t]);
        }
      }
    }
    store_sums<rows, kTokens>(sums, logits + t0);
  }
}

/// One tile of the mix: `width` vectors of the output from vector `c0` of block `b` on.
template <TensorType type, std::size_t rows, std::size_t width>
void mix_columns(const MixArgs& a, std::size_t first_row, std::size_t b, std::size_t c0) noexcept {
  const std::size_t row_bytes = a.dims / kBlock * Block<type>::kBytes;
  const float* weights = a.weights + first_row * kPageTokens;
  float* out = a.out + first_row * a.dims + b * kBlock + c0 * kLanes;
  F32 sums[rows][width];
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < width; ++c) sums[r][c] = load(out + r * a.dims + c * kLanes);
  }
  const std::byte* values = a.values + b * Block<type>::kBytes;
  for (std::size_t t = 0; t < a.tokens; ++t, values += row_bytes) {
    const Block<type> block(values);
    if (c0 == 0 && first_row == 0) prefetch(a.next, b * kPageTokens + t, b * kPageTokens + t + 1);
    F32 v[width];
    KVANT_UNROLL
    for (std::size_t c = 0; c < width; ++c) v[c] = block.get(c0 + c);
    KVANT_UNROLL
    for (std::size_t r = 0; r < rows; ++r) {
      const F32 w = broadcast(weights[r * kPageTokens + t]);
      KVANT_UNROLL
      for (std::size_t c = 0; c < width; ++c) sums[r][c] = fma(w, v[c], sums[r][c]);
    }
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < width; ++c) store(out + r * a.dims + c * kLanes, sums[r][c]);
  }
}

template <TensorType type, std::size_t rows>
void mix_rows(const MixArgs& a, std::size_t first_row) noexcept {
  constexpr std::size_t kWidth = std::min(tile_width(rows), kBlock / kLanes);
  for (std::size_t b = 0; b < a.dims / kBlock; ++b) {
    for (std::size_t c = 0; c < kBlock / kLanes; c += kWidth) mix_columns<type, rows, kWidth>(a, first_row, b, c);
  }
}

template <TensorType type, std::size_t... i>
void score_any(const ScoreArgs& a, std::index_sequence<i...>) noexcept {
  for_row_tiles<ScoreArgs, kScoreRows>({score_rows<type, i + 1>...}, a);
}
template <TensorType type>
void score(const ScoreArgs& a) noexcept {
  score_any<type>(a, std::make_index_sequence<kScoreRows>{});
}

template <TensorType type, std::size_t... i>
void mix_any(const MixArgs& a, std::index_sequence<i...>) noexcept {
  for_row_tiles<MixArgs, kMixRows>({mix_rows<type, i + 1>...}, a);
}
template <TensorType type>
void mix(const MixArgs& a) noexcept {
  mix_any<type>(a, std::make_index_sequence<kMixRows>{});
}

float exp_of(float x) noexcept {
  float lanes[kLanes];
  store(lanes, exp(broadcast(x)));
  return lanes[0];
}

constexpr float kNothing = -std::numeric_limits<float>::infinity();
/// Vectors of a page that are looked at side by side, as each sum or maximum waits for the one before.
constexpr std::size_t kLook = std::min<std::size_t>(4, kPageTokens / kLanes);

/// One row's logits in consecutive pages.
struct SoftmaxRow {
  float* first;
  std::size_t stride, pages;  ///< from a page to the next; how many
  float scale;

  void hide_from(std::size_t token) const noexcept {
    for (std::size_t p = token / kPageTokens; p < pages; ++p, token = p * kPageTokens) {
      std::fill(first + p * stride + token % kPageTokens, first + p * stride + kPageTokens, kNothing);
    }
  }

  float greatest() const noexcept {
    F32 most[kLook];
    for (F32& m : most) m = broadcast(kNothing);
    for (std::size_t p = 0; p < pages; ++p) {
      for (std::size_t t = 0; t < kPageTokens; t += kLook * kLanes) {
        const float* logits = first + p * stride + t;
        KVANT_UNROLL
        for (std::size_t i = 0; i < kLook; ++i) most[i] = max(most[i], load(logits + i * kLanes));
      }
    }
    for (std::size_t i = 1; i < kLook; ++i) most[0] = max(most[0], most[i]);
    return max(most[0]) * scale;
  }

  /// Turns logits into weights. Returns their sum.
  float weigh(float maximum) const noexcept {
    // Without a maximum there is nothing to see: any shift leaves weights of 0.
    const F32 shift = broadcast(maximum == kNothing ? 0.0F : -maximum);
    F32 totals[kLook];
    for (F32& t : totals) t = zero();
    for (std::size_t p = 0; p < pages; ++p) {
      for (std::size_t t = 0; t < kPageTokens; t += kLook * kLanes) {
        float* logits = first + p * stride + t;
        KVANT_UNROLL
        for (std::size_t i = 0; i < kLook; ++i) {
          const F32 weight = exp(fma(load(logits + i * kLanes), broadcast(scale), shift));
          store(logits + i * kLanes, weight);
          totals[i] = totals[i] + weight;
        }
      }
    }
    for (std::size_t i = 1; i < kLook; ++i) totals[0] = totals[0] + totals[i];
    return sum(totals[0]);
  }
};

void softmax(const SoftmaxArgs& a) noexcept {
  for (std::size_t r = 0; r < a.rows; ++r) {
    const SoftmaxRow row{a.logits + r * kPageTokens, a.rows * kPageTokens, a.pages, a.scale};
    row.hide_from(a.visible[r]);
    const float maximum = row.greatest();
    a.states[r] = {maximum, row.weigh(maximum)};
  }
}

void merge(SoftmaxState& total, float* total_out, const SoftmaxState& part, const float* part_out,
           std::size_t dims) noexcept {
  if (part.sum == 0) return;  // saw nothing: its maximum is minus infinity
  if (total.sum == 0) {
    total = part;
    std::copy(part_out, part_out + dims, total_out);
    return;
  }
  const float new_max = std::max(total.max, part.max);
  const float less = exp_of(std::min(total.max, part.max) - new_max);  // the other's factor is 1
  const float keep = total.max == new_max ? 1 : less, take = part.max == new_max ? 1 : less;
  total.sum = total.sum * keep + part.sum * take;
  total.max = new_max;
  for (std::size_t i = 0; i < dims; i += kLanes) {
    store(total_out + i, fma(load(part_out + i), broadcast(take), load(total_out + i) * broadcast(keep)));
  }
}

template <TensorType type>
constexpr TypeKernels kernels_of() {
  return {type, decode<type>, score<type>, mix<type>};
}

}  // namespace

constinit const AttentionKernels kAttention{
    {kernels_of<TensorType::f32>(), kernels_of<TensorType::f16>(), kernels_of<TensorType::bf16>(),
     kernels_of<TensorType::q8_0>(), kernels_of<TensorType::q5_1>(), kernels_of<TensorType::q5_0>(),
     kernels_of<TensorType::q4_1>(), kernels_of<TensorType::q4_0>()},
    softmax,
    merge,
};
