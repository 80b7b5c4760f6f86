#pragma once
#include <string>
#include <vector>

#include "codec/spec.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::app {

/// Error over spread above which a cache type is unsafe. With the model of this repository perplexity grows by about
/// 0.85 % times the square of the ratio (measured: 0.24 % at 0.53, 14 % at 4.2, 57 % at 8.4), so by some 3 % at 2.
constexpr double kUnsafeRatio = 2;

/// How large the constant part of the keys is against the part that carries information, and what that means for
/// cache types whose step follows the largest value of a block.
///
/// A key before RoPE is W x + b. A b-bit type with blocks of 32 values has steps of max / 2^(b-1) and so an error of
/// step / sqrt(12) (rms); RoPE turns the bias of a pair into either of its channels, so the block's maximum is that of
/// the pairs' magnitudes. The spread of a channel is taken from the weights: x is RMS-normalized, so with uncorrelated
/// inputs it is the norm of the channel's row of W times the gain of the norm.
struct KeyBias {
  struct Head {
    int layer = 0, head = 0;
    double norm = 0;     ///< of the head's bias
    double largest = 0;  ///< largest magnitude of a RoPE pair of it
    double spread = 0;   ///< rms over the head's channels
  };
  struct Verdict {
    codec::CacheSpec spec;
    int layer = 0, head = 0;  ///< where the error is worst
    double ratio = 0;         ///< error over spread there, rms over the head
    bool unsafe() const { return ratio > kUnsafeRatio; }
  };
  std::vector<Head> heads;        ///< by layer, then head; empty for a model without K bias
  std::vector<Verdict> verdicts;  ///< for q8_0 to q4_0; empty likewise
};

KeyBias analyse_key_bias(const model::ModelConfig& config, const model::Weights& weights);

/// Bar chart per layer and head, the verdicts and how they are reached, for 100 columns.
std::string key_bias_text(const KeyBias& bias, bool colour);

}  // namespace kvant::app
