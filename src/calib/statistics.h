#pragma once
#include <cstddef>
#include <vector>

#include "base/thread_pool.h"
#include "codec/plan.h"
#include "model/config.h"
#include "model/tap.h"

namespace kvant::calib {

/// Streams the keys, queries and values of a model into the statistics of a plan. Sums are kept in double about the
/// mean so far and merged batch by batch (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
/// computing sample variances", 1979), so that deviations are not lost beside a large mean. Results do not depend on
/// the number of threads.
class Statistics final : public model::Tap {
 public:
  /// config and pool must outlive this object.
  Statistics(const model::ModelConfig& config, ThreadPool& pool);

  /// Adds the rows of a batch to a layer. Throws format, naming the layer, when a value is not finite.
  void on_kv(int layer, const cache::Batch& batch, MatView<const float> q, MatView<const float> k,
             MatView<const float> v) override;

  /// Rows that every layer has seen.
  std::size_t tokens() const;
  /// The statistics of all layers. Moments are divided by the number of tokens.
  std::vector<codec::LayerStatistics> result() const;

 private:
  /// Sums over the tokens of one layer.
  struct Layer {
    std::size_t tokens = 0;
    std::vector<double> k_mean, k_mean_rotated, v_mean;  ///< [kv_heads * head_dim]
    std::vector<double> k_moment, q_moment, v_moment;    ///< [kv_heads][packed]
  };
  /// Rows of a batch that are worked on at a time, with what is known of them.
  struct Rows {
    MatView<const float> q, k, v;
    const float* angles;
    std::vector<double> k_shift, rotated_shift, v_shift;  ///< their mean less the mean so far, [kv_heads * head_dim]
    /// Deviations of k and v and each query head before RoPE, [kv_heads * (group + 2)][columns].
    std::vector<double> columns;
  };

  void add_rows(Layer& layer, Rows& rows) const;
  void prepare(const Layer& layer, std::size_t head, std::size_t which, Rows& rows) const;
  void turn_back(const Rows& rows, std::size_t first_channel, double* columns) const;
  void add_products(Layer& layer, std::size_t head, std::size_t panel, const Rows& rows) const;

  const model::ModelConfig& config_;
  ThreadPool& pool_;
  std::size_t heads_, group_, pairs_, panels_;
  double unscale_;  ///< what turning by the negative angles leaves of a rotated vector's scale
  std::vector<Layer> layers_;
};

}  // namespace kvant::calib
