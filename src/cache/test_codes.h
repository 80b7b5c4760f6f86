#pragma once
#include <cmath>
#include <vector>

#include "base/random.h"
#include "cache/constants.h"
#include "codec/head_code.h"

/// Codes of heads for tests and benchmarks.
namespace kvant::cache {

using MatrixOfDoubles = std::vector<std::vector<double>>;

/// By elimination, with the largest pivots first.
inline MatrixOfDoubles inverse_of(MatrixOfDoubles a) {
  const std::size_t n = a.size();
  for (std::size_t i = 0; i < n; ++i) {
    a[i].resize(2 * n);
    a[i][n + i] = 1;
  }
  for (std::size_t c = 0; c < n; ++c) {
    std::size_t pivot = c;
    for (std::size_t r = c; r < n; ++r) {
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    }
    std::swap(a[c], a[pivot]);
    for (std::size_t r = 0; r < n; ++r) {
      const double factor = r == c ? 1 - 1 / a[c][c] : a[r][c] / a[c][c];
      for (std::size_t j = c; factor != 0 && j < 2 * n; ++j) a[r][j] -= factor * a[c][j];
    }
  }
  for (auto& row : a) row.erase(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(n));
  return a;
}

/// T is the identity, or (seed > 0) near a diagonal matrix of factors from about 1/2 to 2; U its transposed inverse.
inline codec::HeadCode make_head_code(std::size_t head_dim, std::vector<codec::CodePart> parts, std::uint64_t seed) {
  Random random(seed);
  codec::HeadCode code;
  code.parts = std::move(parts);
  code.transform.resize(codec::coded_dims(head_dim) * head_dim);
  code.inverse.resize(code.transform.size());
  MatrixOfDoubles t(head_dim, std::vector<double>(head_dim));
  for (std::size_t i = 0; i < head_dim; ++i) {
    const double factor = seed == 0 ? 1 : std::exp2(2 * random.uniform() - 1);
    for (std::size_t j = 0; j < head_dim; ++j) {
      const double mixed = seed == 0 ? 0 : 0.3 * random.normal() / std::sqrt(static_cast<double>(head_dim));
      const Bf16 rounded = to_bf16(static_cast<float>(factor * ((i == j ? 1 : 0) + mixed)));
      code.transform[i * head_dim + j] = rounded;
      t[i][j] = to_float(rounded);
    }
  }
  const MatrixOfDoubles inverse = inverse_of(t);
  for (std::size_t i = 0; i < head_dim; ++i) {
    for (std::size_t j = 0; j < head_dim; ++j)
      code.inverse[i * head_dim + j] = to_bf16(static_cast<float>(inverse[j][i]));
  }
  return code;
}

}  // namespace kvant::cache
