#pragma once
#include <cstddef>
#include <span>
#include <string>

#include "base/progress.h"
#include "codec/plan.h"
#include "engine/engine.h"

namespace kvant::calib {

struct CollectOptions {
  std::string corpus;         ///< what the text is called in the plan
  std::size_t tokens = 8192;  ///< to look at, in whole windows
  std::size_t context = 512;  ///< tokens of a window
  ProgressSink progress = {};
};

/// A plan with the statistics of a text: its first `tokens` tokens run through the model in windows of `context`; in
/// each, the first token is replaced by BOS where the vocabulary adds one. Throws invalid_argument, naming both counts,
/// when the text or `tokens` holds less than that; format, naming the model's file and the layer, when activations are
/// not finite.
codec::Plan collect(engine::Engine& engine, std::span<const engine::Token> text, const CollectOptions& options);

}  // namespace kvant::calib
