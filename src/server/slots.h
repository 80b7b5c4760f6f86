#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "tokenizer/tokenizer.h"

namespace kvant::server {

using tokenizer::Token;

/// The sequences of a cache: which are in use, and what the others still hold of earlier conversations. A prompt goes
/// on where it begins like one of those; else it takes the place of the one that was used longest ago.
class Slots {
 public:
  /// Keeps a reference to the cache.
  explicit Slots(cache::KvCache& cache);

  struct Place {
    int sequence;
    std::size_t cached;  ///< tokens of the prompt that the sequence holds; the rest of what it held is gone
  };
  /// A sequence for a prompt (not empty), of which at least the last token is left to compute. Nothing when all are in
  /// use.
  std::optional<Place> take(std::span<const Token> prompt);
  /// Ends the use of a sequence and keeps what the cache holds of these tokens, which are its own.
  void give_back(int sequence, std::vector<Token> tokens);

  std::size_t in_use() const noexcept { return in_use_; }
  /// Sequences that hold an earlier conversation.
  std::size_t idle() const noexcept;

 private:
  struct Slot {
    bool used = false;
    std::vector<Token> tokens = {};  ///< what an idle sequence holds
    std::uint64_t last_use = 0;
  };
  cache::KvCache* cache_;
  std::vector<Slot> slots_;
  std::size_t in_use_ = 0;
  std::uint64_t clock_ = 0;  ///< uses so far
};

}  // namespace kvant::server
