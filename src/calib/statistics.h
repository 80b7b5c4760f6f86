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
  /// The statistics of all layers. Energies are divided by the number of tokens.
  std::vector<codec::LayerStatistics> result() const;

 private:
  /// Moments of one layer.
  struct Layer {
    std::size_t tokens = 0;
    std::vector<double> k_mean, k_mean_rotated, v_mean;  ///< [kv_heads * head_dim]
    std::vector<double> k_squares;                       ///< of deviations from the mean, [kv_heads * pairs]
    std::vector<double> q_squares;                       ///< [kv_heads * pairs]
  };
  struct HeadBatch;

  void add_head(Layer& layer, std::size_t head, const HeadBatch& batch) const;

  const model::ModelConfig& config_;
  ThreadPool& pool_;
  std::size_t pairs_;
  std::vector<Layer> layers_;
};

}  // namespace kvant::calib
