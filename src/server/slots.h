#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "tokenizer/tokenizer.h"

namespace kvant::server {

using tokenizer::Token;

/// The sequences of a cache and their tokens: those of running answers, and
/// conversations that are kept in case they go on. Prompts share what they have
/// in common with any of them. Every running sequence has the blocks reserved
/// that it may come to need; kept conversations give way for that, the one that
/// was used longest ago first.
class Slots {
 public:
  /// Keeps a reference to the cache. running: how many answers run at a time;
  /// the cache's other sequences are for kept conversations, so it has more.
  Slots(cache::KvCache& cache, std::size_t running);

  struct Place {
    int sequence;
    std::size_t cached;  ///< tokens of the prompt that the sequence holds
  };
  /// A sequence for a prompt (not empty), of which at least the last token is
  /// left to compute, and for an answer up to `length` tokens in all. Nothing
  /// when that has to wait: for another answer's end, or for a running prompt
  /// that is about to compute a part of this one.
  std::optional<Place> take(std::span<const Token> prompt, std::size_t length);
  /// The tokens of a running sequence: its prompt, and what was appended.
  std::vector<Token>& tokens(int sequence) { return slot(sequence).tokens; }
  /// Ends the use of a sequence and keeps what the cache holds of it.
  void give_back(int sequence);

  struct Info {
    int sequence;
    bool running;
    std::size_t tokens;
  };
  /// All sequences that are not empty.
  std::vector<Info> list() const;
  /// Writes a kept conversation to a file, whole or not at all; returns its number of tokens. Throws invalid_argument
  /// when the sequence is running or empty; io.
  std::size_t save(int sequence, const std::filesystem::path& path) const;
  /// Makes a saved conversation a kept one of this sequence, for whose sake others give way; returns its number of
  /// tokens. Throws invalid_argument when the sequence is running, and what KvCache::load throws; then the sequence is
  /// empty or as it was. vocabulary: tokens that there are.
  std::size_t restore(int sequence, const std::filesystem::path& path, std::size_t vocabulary);

  std::size_t running() const noexcept { return running_; }
  /// Conversations that are kept.
  std::size_t kept() const noexcept;
  /// Conversations that gave way so far.
  std::size_t evicted() const noexcept { return evicted_; }

 private:
  enum class State { empty, kept, running };
  struct Slot {
    State state = State::empty;
    std::vector<Token> tokens = {};
    std::size_t reserved = 0;  ///< tokens that a running sequence may grow to
    std::uint64_t last_use = 0;
  };
  struct Match {
    int sequence = -1;
    std::size_t now = 0;   ///< tokens in common that the cache holds
    bool to_come = false;  ///< a running sequence will soon hold a block more of them
  };
  void load(int sequence, std::span<const std::byte> bytes, const std::string& name);
  /// Throws unless the sequence is there and not running.
  const Slot& resting(int sequence) const;
  Slot& slot(int sequence) { return slots_[static_cast<std::size_t>(sequence)]; }
  Match match(std::span<const Token> prompt) const;
  /// A sequence that starts with what was found.
  int start(const Match& match);
  /// The kept conversation that was used longest ago, but for one; -1 where
  /// there is none.
  int oldest(int but) const;
  void evict(int sequence);
  /// Evicts as long as running sequences may need more blocks than there are;
  /// whether they have enough then.
  bool reserve(int newest);

  cache::KvCache* cache_;
  std::size_t most_running_, running_ = 0, evicted_ = 0;
  std::vector<Slot> slots_;
  std::uint64_t clock_ = 0;  ///< uses so far
};

/// Removes from a folder what saves left that were interrupted. Throws io.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace kvant::server
