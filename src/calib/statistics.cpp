#include "calib/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "codec/lanes.h"

namespace kvant::calib {
namespace {

/// Rows that are worked on at a time: their deviations stay in the cache.
constexpr std::size_t kMostRows = 128;
/// Channels of a panel. Deviations are kept as [panels][rows][4], the last panel padded with zeros.
constexpr std::size_t kPanel = 4;
using Two [[gnu::vector_size(16)]] = double;

/// The place of a row's channel in panels.
std::size_t in_panels(std::size_t row, std::size_t channel, std::size_t rows) {
  return (channel / kPanel * rows + row) * kPanel + channel % kPanel;
}

/// Calls use(channel, value) for each channel of one head of a row after RoPE, of the key k before it.
template <class Use>
void rotate(const float* k, std::size_t dims, const float* angles, std::size_t pairs, Use&& use) {
  for (std::size_t j = 0; j < pairs; ++j) {
    const double re = k[j], im = k[j + pairs], cosine = angles[2 * j], sine = angles[2 * j + 1];
    use(j, re * cosine - im * sine);
    use(j + pairs, re * sine + im * cosine);
  }
  for (std::size_t c = 2 * pairs; c < dims; ++c) use(c, static_cast<double>(k[c]));
}

/// shift = means of columns [first, first + dims) less the mean so far; their deviations into panels.
void centre(MatView<const float> x, std::size_t first, std::size_t dims, const double* mean, double* shift,
            double* panels) {
  std::vector<double> sums(dims);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float* row = x.row(r).data() + first;
    for (std::size_t c = 0; c < dims; ++c) sums[c] += row[c];
  }
  for (double& s : sums) s /= static_cast<double>(x.rows);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float* row = x.row(r).data() + first;
    for (std::size_t c = 0; c < dims; ++c) panels[in_panels(r, c, x.rows)] = row[c] - sums[c];
  }
  for (std::size_t c = 0; c < dims; ++c) shift[c] = sums[c] - mean[c];
}

/// out[i][j] += the sum over rows of a_i * b_j, rows in order, of two panels.
void add_tile(const double* a, const double* b, std::size_t rows, double out[kPanel][kPanel]) {
  Two sums[kPanel][2] = {};
  for (std::size_t r = 0; r < rows; ++r, a += kPanel, b += kPanel) {
    const Two b0 = codec::load<Two>(b), b1 = codec::load<Two>(b + 2);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kPanel; ++i) {
      const Two factor = {a[i], a[i]};
      sums[i][0] += factor * b0;
      sums[i][1] += factor * b1;
    }
  }
  for (std::size_t i = 0; i < kPanel; ++i) {
    for (std::size_t j = 0; j < kPanel; ++j) out[i][j] += sums[i][j / 2][j % 2];
  }
}

void merge(std::vector<double>& mean, const std::vector<double>& shift, double share) {
  for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += shift[c] * share;
}

std::vector<float> to_floats(const std::vector<double>& values, double divisor = 1) {
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<float>(values[i] / divisor);
  return out;
}

}  // namespace

Statistics::Statistics(const model::ModelConfig& config, ThreadPool& pool)
    : config_(config),
      pool_(pool),
      heads_(static_cast<std::size_t>(config.kv_heads)),
      group_(static_cast<std::size_t>(config.heads / config.kv_heads)),
      pairs_(config.rope.dims / 2),
      panels_((config.head_dim + kPanel - 1) / kPanel),
      unscale_(std::pow(kernels::rope_frequencies(config.rope).magnitude, -2)),
      layers_(static_cast<std::size_t>(config.layers)) {
  for (Layer& layer : layers_) {
    for (auto* mean : {&layer.k_mean, &layer.k_mean_rotated, &layer.v_mean}) mean->resize(config.kv_size());
    for (auto* moment : {&layer.k_moment, &layer.q_moment, &layer.v_moment}) {
      moment->resize(heads_ * codec::packed_size(config.head_dim));
    }
  }
}

void Statistics::on_kv(int index, const cache::Batch& batch, MatView<const float> q, MatView<const float> k,
                       MatView<const float> v) {
  Layer& layer = layers_[static_cast<std::size_t>(index)];
  Rows rows;
  for (auto* shift : {&rows.k_shift, &rows.rotated_shift, &rows.v_shift}) shift->resize(config_.kv_size());
  rows.columns.resize(heads_ * (group_ + 2) * panels_ * kPanel * std::min(batch.rows, kMostRows));
  for (std::size_t first = 0; first < batch.rows; first += kMostRows) {
    const std::size_t count = std::min(kMostRows, batch.rows - first);
    rows.q = q.rows_from(first, count);
    rows.k = k.rows_from(first, count);
    rows.v = v.rows_from(first, count);
    rows.angles = batch.rope + 2 * pairs_ * first;
    add_rows(layer, rows);
  }
  const auto check = [&](const std::vector<double>& moment, std::string_view what) {
    for (std::size_t head = 0; head < heads_; ++head) {
      for (std::size_t c = 0; c < config_.head_dim; ++c) {
        const std::size_t diagonal = head * codec::packed_size(config_.head_dim) + codec::packed_size(c + 1) - 1;
        KVANT_CHECK(std::isfinite(moment[diagonal]), ErrorCode::format, "layer {}: the {} are not finite", index, what);
      }
    }
  };
  check(layer.k_moment, "keys");
  check(layer.v_moment, "values");
  check(layer.q_moment, "queries");
}

void Statistics::add_rows(Layer& layer, Rows& rows) const {
  pool_.run(heads_ * (group_ + 2),
            [&](std::size_t i, int) { prepare(layer, i / (group_ + 2), i % (group_ + 2), rows); });
  // The longest tasks, those of the last panels, first.
  pool_.run(heads_ * panels_,
            [&](std::size_t i, int) { add_products(layer, i % heads_, panels_ - 1 - i / heads_, rows); });
  const auto before = static_cast<double>(layer.tokens), added = static_cast<double>(rows.k.rows);
  merge(layer.k_mean, rows.k_shift, added / (before + added));
  merge(layer.k_mean_rotated, rows.rotated_shift, added / (before + added));
  merge(layer.v_mean, rows.v_shift, added / (before + added));
  layer.tokens += rows.k.rows;
}

/// Fills the columns of a KV head's keys (which 0), values (1) or a query head.
void Statistics::prepare(const Layer& layer, std::size_t head, std::size_t which, Rows& rows) const {
  const std::size_t d = config_.head_dim, count = rows.k.rows, first = head * d;
  double* columns = rows.columns.data() + (head * (group_ + 2) + which) * panels_ * kPanel * count;
  for (std::size_t c = d; c < panels_ * kPanel; ++c) {
    for (std::size_t r = 0; r < count; ++r) columns[in_panels(r, c, count)] = 0;
  }
  if (which == 1) {
    centre(rows.v, first, d, &layer.v_mean[first], &rows.v_shift[first], columns);
  } else if (which >= 2) {
    turn_back(rows, (head * group_ + which - 2) * d, columns);
  } else {
    centre(rows.k, first, d, &layer.k_mean[first], &rows.k_shift[first], columns);
    std::vector<double> sums(d);
    for (std::size_t r = 0; r < count; ++r) {
      rotate(rows.k.row(r).data() + first, d, rows.angles + 2 * pairs_ * r, pairs_,
             [&](std::size_t c, double value) { sums[c] += value; });
    }
    for (std::size_t c = 0; c < d; ++c) {
      rows.rotated_shift[first + c] = sums[c] / static_cast<double>(count) - layer.k_mean_rotated[first + c];
    }
  }
}

/// The columns of a query head as they were before RoPE.
void Statistics::turn_back(const Rows& rows, std::size_t first_channel, double* columns) const {
  const std::size_t count = rows.q.rows;
  for (std::size_t r = 0; r < count; ++r) {
    const float* q = rows.q.row(r).data() + first_channel;
    const float* angles = rows.angles + 2 * pairs_ * r;
    for (std::size_t j = 0; j < pairs_; ++j) {
      const double re = q[j], im = q[j + pairs_], cosine = angles[2 * j], sine = angles[2 * j + 1];
      columns[in_panels(r, j, count)] = (re * cosine + im * sine) * unscale_;
      columns[in_panels(r, j + pairs_, count)] = (im * cosine - re * sine) * unscale_;
    }
    for (std::size_t c = 2 * pairs_; c < config_.head_dim; ++c) columns[in_panels(r, c, count)] = q[c];
  }
}

/// Adds the rows' part to the moments of a panel of channels with all channels up to it.
void Statistics::add_products(Layer& layer, std::size_t head, std::size_t panel, const Rows& rows) const {
  const std::size_t d = config_.head_dim, count = rows.k.rows, size = panels_ * kPanel * count;
  const auto before = static_cast<double>(layer.tokens), added = static_cast<double>(count);
  const double weight = before * added / (before + added);
  const double* const columns = rows.columns.data() + head * (group_ + 2) * size;

  for (std::size_t other = 0; other <= panel; ++other) {
    const auto add = [&](std::size_t first, std::size_t blocks, const double* shift, std::vector<double>& moment) {
      double tile[kPanel][kPanel] = {};
      for (const double* x = columns + first * size; blocks > 0; --blocks, x += size) {
        add_tile(x + panel * kPanel * count, x + other * kPanel * count, count, tile);
      }
      double* const packed = moment.data() + head * codec::packed_size(d);
      for (std::size_t i = panel * kPanel; i < std::min(d, (panel + 1) * kPanel); ++i) {
        for (std::size_t j = other * kPanel; j < std::min(i + 1, (other + 1) * kPanel); ++j) {
          const double shifts = shift == nullptr ? 0 : shift[i] * shift[j] * weight;
          packed[codec::packed_size(i) + j] += tile[i % kPanel][j % kPanel] + shifts;
        }
      }
    };
    add(0, 1, &rows.k_shift[head * d], layer.k_moment);
    add(1, 1, &rows.v_shift[head * d], layer.v_moment);
    add(2, group_, nullptr, layer.q_moment);
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
                   to_floats(layer.k_moment, n), to_floats(layer.q_moment, n), to_floats(layer.v_moment, n)});
  }
  return all;
}

}  // namespace kvant::calib
