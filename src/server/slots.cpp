#include "server/slots.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace kvant::server {
namespace {

constexpr std::size_t kBlock = cache::KvCache::kBlockTokens;

std::size_t common_prefix(std::span<const Token> a, std::span<const Token> b) {
  const auto [end, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

Slots::Slots(cache::KvCache& cache, std::size_t running)
    : cache_(&cache), most_running_(running), slots_(static_cast<std::size_t>(cache.config().sequences)) {
  KVANT_CHECK(slots_.size() > running, ErrorCode::invalid_argument,
              "a cache of {} sequences for {} running answers, expected more", slots_.size(), running);
}

std::optional<Slots::Place> Slots::take(std::span<const Token> prompt, std::size_t length) {
  if (running_ == most_running_) return std::nullopt;
  const Match found = match(prompt.first(prompt.size() - 1));
  if (found.to_come) return std::nullopt;
  const int sequence = start(found);
  Slot& taken = slot(sequence);
  taken = {State::running, {prompt.begin(), prompt.end()}, length, ++clock_};
  ++running_;
  if (!reserve(sequence)) {  // it waits for others to end; what it held can be
                             // found again
    taken.tokens.resize(found.now);
    taken.state = found.now > 0 ? State::kept : State::empty;
    --running_;
    return std::nullopt;
  }
  return Place{sequence, found.now};
}

void Slots::give_back(int sequence) {
  Slot& ended = slot(sequence);
  ended.tokens.resize(std::min(ended.tokens.size(), cache_->length(sequence)));
  ended.state = ended.tokens.empty() ? State::empty : State::kept;
  ended.last_use = ++clock_;
  --running_;
}

Slots::Match Slots::match(std::span<const Token> prompt) const {
  Match best;
  std::size_t to_come = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const std::size_t common = common_prefix(slots_[i].tokens, prompt);
    const std::size_t now = std::min(common, cache_->length(static_cast<int>(i)));
    // Of equal ones the one that is used up: a kept conversation that the
    // prompt continues.
    const auto rest = [&](int s) { return slots_[static_cast<std::size_t>(s)].tokens.size(); };
    if (now > best.now || (now > 0 && now == best.now && rest(static_cast<int>(i)) < rest(best.sequence))) {
      best.sequence = static_cast<int>(i);
      best.now = now;
    }
    if (slots_[i].state == State::running) to_come = std::max(to_come, common);
  }
  best.to_come = to_come >= best.now + kBlock;
  return best;
}

int Slots::start(const Match& found) {
  // A kept conversation that goes on, or whose end was all but in common, is
  // not kept twice.
  if (found.sequence >= 0 && slot(found.sequence).state == State::kept &&
      slot(found.sequence).tokens.size() < found.now + kBlock) {
    cache_->truncate(found.sequence, found.now);
    return found.sequence;
  }
  const auto empty = std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::empty; });
  int sequence = static_cast<int>(empty - slots_.begin());
  if (empty == slots_.end()) {
    // There are more sequences than running ones, so another one is kept,
    // unless it is the one in common.
    sequence = oldest(found.sequence);
    if (sequence < 0) {
      cache_->truncate(found.sequence, found.now);
      return found.sequence;
    }
    evict(sequence);
  }
  if (found.sequence >= 0) cache_->fork(found.sequence, sequence, found.now);
  return sequence;
}

int Slots::oldest(int but) const {
  int best = -1;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].state != State::kept || static_cast<int>(i) == but) continue;
    if (best < 0 || slots_[i].last_use < slots_[static_cast<std::size_t>(best)].last_use) best = static_cast<int>(i);
  }
  return best;
}

void Slots::evict(int sequence) {
  cache_->truncate(sequence, 0);
  slot(sequence) = {};
  ++evicted_;
}

bool Slots::reserve(int newest) {
  for (;;) {
    std::size_t needed = 0;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].state == State::running) needed += cache_->blocks_needed(static_cast<int>(i), slots_[i].reserved);
    }
    if (needed <= cache_->free_blocks()) return true;
    const int victim = oldest(newest);
    if (victim < 0) return false;
    evict(victim);
  }
}

std::size_t Slots::kept() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::kept; }));
}

}  // namespace kvant::server
