#pragma once
#include "base/view.h"
#include "cache/batch.h"

namespace kvant::model {

/// Sees what attention works on.
class Tap {
 public:
  virtual ~Tap() = default;

  /// Called for each layer of a forward pass before its keys and values are stored, on the thread that runs the pass;
  /// what it throws ends the pass. Channels are in NEOX order.
  /// q  [rows, heads * head_dim] after RoPE
  /// k  [rows, kv_heads * head_dim] before RoPE (after the norm of the heads where the model has one)
  /// v  [rows, kv_heads * head_dim]
  virtual void on_kv(int layer, const cache::Batch& batch, MatView<const float> q, MatView<const float> k,
                     MatView<const float> v) = 0;
};

}  // namespace kvant::model
