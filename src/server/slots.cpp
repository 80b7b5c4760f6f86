#include "server/slots.h"

#include <algorithm>
#include <utility>

namespace kvant::server {
namespace {

std::size_t common_prefix(std::span<const Token> a, std::span<const Token> b) {
  const auto [end, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

Slots::Slots(cache::KvCache& cache) : cache_(&cache), slots_(static_cast<std::size_t>(cache.config().sequences)) {}

std::optional<Slots::Place> Slots::take(std::span<const Token> prompt) {
  const std::span<const Token> reusable = prompt.first(prompt.size() - 1);
  Slot* best = nullptr;
  std::size_t cached = 0;
  for (Slot& slot : slots_) {
    if (slot.used) continue;
    // A prompt that shares but the opening of a conversation does not end that conversation.
    std::size_t shared = common_prefix(slot.tokens, reusable);
    if (2 * shared < slot.tokens.size()) shared = 0;
    if (best == nullptr || shared > cached || (shared == cached && slot.last_use < best->last_use)) {
      best = &slot;
      cached = shared;
    }
  }
  if (best == nullptr) return std::nullopt;
  const auto sequence = static_cast<int>(best - slots_.data());
  cache_->truncate(sequence, cached);
  best->used = true;
  best->tokens.clear();
  ++in_use_;
  return Place{sequence, cached};
}

void Slots::give_back(int sequence, std::vector<Token> tokens) {
  Slot& slot = slots_[static_cast<std::size_t>(sequence)];
  tokens.resize(std::min(tokens.size(), cache_->length(sequence)));
  slot = {false, std::move(tokens), ++clock_};
  --in_use_;
}

std::size_t Slots::idle() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.used && !s.tokens.empty(); }));
}

}  // namespace kvant::server
