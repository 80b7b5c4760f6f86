#pragma once
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace kvant::eval {

/// A text cut into windows as llama-perplexity does: `context` tokens each, what is left at the end unused; in each,
/// the first token is replaced by BOS where the vocabulary adds one. The rows from context/2 on are scored, each
/// against the token that follows it, so the window's last token is only a target.
class Windows {
 public:
  /// chunks 0: all windows. `text` must outlive this object. Throws invalid_argument, naming both counts, when the text
  /// holds less than one window or context is below 3.
  Windows(const engine::Engine& engine, std::span<const engine::Token> text, std::size_t context, std::size_t chunks);

  std::size_t count() const noexcept { return count_; }
  std::size_t context() const noexcept { return context_; }
  std::size_t first_scored() const noexcept { return context_ / 2; }
  /// Scored rows of each window.
  std::size_t scored() const noexcept { return context_ - 1 - first_scored(); }
  std::vector<engine::Token> tokens(std::size_t window) const;

  /// The scored rows [first, last), cut so that the logits of one piece take at most kLogitBytes, or are those of 16
  /// rows where that is more.
  const std::vector<std::pair<std::size_t, std::size_t>>& pieces() const noexcept { return pieces_; }
  static constexpr std::size_t kLogitBytes = std::size_t{128} << 20;

 private:
  std::span<const engine::Token> text_;
  std::size_t context_, count_;
  engine::Token bos_ = -1;  ///< -1: windows keep their first token
  std::vector<std::pair<std::size_t, std::size_t>> pieces_;
};

}  // namespace kvant::eval
