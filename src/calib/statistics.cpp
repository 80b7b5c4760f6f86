#include "calib/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace kvant::calib {
namespace {

/// Mean of each column.
std::vector<double> column_means(MatView<const float> x) {
  std::vector<double> mean(x.cols);
  for (std::size_t r = 0; r < x.rows; ++r) {
    for (std::size_t c = 0; c < x.cols; ++c) mean[c] += x.row(r)[c];
  }
  for (double& m : mean) m /= static_cast<double>(x.rows);
  return mean;
}

/// The columns of one head.
MatView<const float> head_of(MatView<const float> x, std::size_t head, std::size_t head_dim) {
  return {x.data + head * head_dim, x.rows, head_dim, x.stride};
}

/// Moves a mean over `before` tokens towards that of `added` further ones.
void merge(double* mean, const std::vector<double>& added_mean, double before, double added) {
  for (std::size_t c = 0; c < added_mean.size(); ++c) mean[c] += (added_mean[c] - mean[c]) * (added / (before + added));
}

/// Mean of the keys rotated by their positions' angles, [rows][pairs][2].
std::vector<double> rotated_means(MatView<const float> k, const float* angles, std::size_t pairs) {
  std::vector<double> mean(k.cols);
  for (std::size_t r = 0; r < k.rows; ++r) {
    const auto key = k.row(r);
    for (std::size_t j = 0; j < pairs; ++j) {
      const double cosine = angles[2 * (r * pairs + j)], sine = angles[2 * (r * pairs + j) + 1];
      mean[j] += key[j] * cosine - key[j + pairs] * sine;
      mean[j + pairs] += key[j] * sine + key[j + pairs] * cosine;
    }
    for (std::size_t c = 2 * pairs; c < k.cols; ++c) mean[c] += key[c];
  }
  for (double& m : mean) m /= static_cast<double>(k.rows);
  return mean;
}

bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); });
}

std::vector<float> to_floats(const std::vector<double>& values, double divisor = 1) {
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<float>(values[i] / divisor);
  return out;
}

}  // namespace

/// What one KV head gets of a batch.
struct Statistics::HeadBatch {
  MatView<const float> q;  ///< [rows, group * head_dim]
  MatView<const float> k, v;
  const float* angles;
};

Statistics::Statistics(const model::ModelConfig& config, ThreadPool& pool)
    : config_(config), pool_(pool), pairs_(config.rope.dims / 2), layers_(static_cast<std::size_t>(config.layers)) {
  const std::size_t pairs = static_cast<std::size_t>(config.kv_heads) * pairs_;
  for (Layer& layer : layers_) {
    for (auto* mean : {&layer.k_mean, &layer.k_mean_rotated, &layer.v_mean}) mean->resize(config.kv_size());
    for (auto* squares : {&layer.k_squares, &layer.q_squares}) squares->resize(pairs);
  }
}

void Statistics::on_kv(int index, const cache::Batch& batch, MatView<const float> q, MatView<const float> k,
                       MatView<const float> v) {
  if (batch.rows == 0) return;
  Layer& layer = layers_[static_cast<std::size_t>(index)];
  const std::size_t d = config_.head_dim, group = static_cast<std::size_t>(config_.heads / config_.kv_heads);
  pool_.run(static_cast<std::size_t>(config_.kv_heads), [&](std::size_t head, int) {
    add_head(layer, head, {head_of(q, head, group * d), head_of(k, head, d), head_of(v, head, d), batch.rope});
  });
  layer.tokens += batch.rows;
  const auto check = [&](const std::vector<double>& values, std::string_view what) {
    KVANT_CHECK(all_finite(values), ErrorCode::format, "layer {}: the {} are not finite", index, what);
  };
  check(layer.k_squares, "keys");
  check(layer.k_mean, "keys");
  check(layer.v_mean, "values");
  check(layer.q_squares, "queries");
}

void Statistics::add_head(Layer& layer, std::size_t head, const HeadBatch& batch) const {
  const std::size_t d = config_.head_dim, rows = batch.k.rows, first_channel = head * d, first_pair = head * pairs_;
  const auto before = static_cast<double>(layer.tokens), added = static_cast<double>(rows);

  const std::vector<double> mean = column_means(batch.k);
  for (std::size_t j = 0; j < pairs_; ++j) {
    double squares = 0;
    for (const std::size_t c : {j, j + pairs_}) {
      for (std::size_t r = 0; r < rows; ++r) squares += std::pow(batch.k.row(r)[c] - mean[c], 2);
      const double shift = mean[c] - layer.k_mean[first_channel + c];
      squares += shift * shift * (before * added / (before + added));
    }
    layer.k_squares[first_pair + j] += squares;
  }
  merge(&layer.k_mean[first_channel], mean, before, added);
  merge(&layer.k_mean_rotated[first_channel], rotated_means(batch.k, batch.angles, pairs_), before, added);
  merge(&layer.v_mean[first_channel], column_means(batch.v), before, added);

  for (std::size_t r = 0; r < rows; ++r) {
    const auto queries = batch.q.row(r);
    for (std::size_t at = 0; at < queries.size(); at += d) {
      for (std::size_t j = 0; j < pairs_; ++j) {
        const double re = queries[at + j], im = queries[at + j + pairs_];
        layer.q_squares[first_pair + j] += re * re + im * im;
      }
    }
  }
}

std::size_t Statistics::tokens() const {
  std::size_t fewest = layers_.front().tokens;
  for (const Layer& layer : layers_) fewest = std::min(fewest, layer.tokens);
  return fewest;
}

std::vector<codec::LayerStatistics> Statistics::result() const {
  std::vector<codec::LayerStatistics> all;
  for (const Layer& layer : layers_) {
    const double n = static_cast<double>(std::max<std::size_t>(1, layer.tokens));
    all.push_back({to_floats(layer.k_mean), to_floats(layer.k_mean_rotated), to_floats(layer.v_mean),
                   to_floats(layer.k_squares, n), to_floats(layer.q_squares, n)});
  }
  return all;
}

}  // namespace kvant::calib
