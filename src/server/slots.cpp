#include "server/slots.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/mapped_file.h"
#include "cache/state_file.h"

namespace kvant::server {
namespace {

constexpr std::size_t kBlock = cache::KvCache::kBlockTokens;
/// End of the name of a file that a save needs for a while; its start is a dot, which no conversation has.
constexpr std::string_view kPart = ".part";

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

std::vector<Slots::Info> Slots::list() const {
  std::vector<Info> result;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& s = slots_[i];
    if (s.state != State::empty) result.push_back({static_cast<int>(i), s.state == State::running, s.tokens.size()});
  }
  return result;
}

const Slots::Slot& Slots::resting(int sequence) const {
  KVANT_CHECK(sequence >= 0 && static_cast<std::size_t>(sequence) < slots_.size(), ErrorCode::invalid_argument,
              "slot {}, expected 0 to {}", sequence, slots_.size() - 1);
  const Slot& found = slots_[static_cast<std::size_t>(sequence)];
  KVANT_CHECK(found.state != State::running, ErrorCode::invalid_argument, "slot {} is in use", sequence);
  return found;
}

std::size_t Slots::save(int sequence, const std::filesystem::path& path) const {
  const Slot& kept = resting(sequence);
  KVANT_CHECK(kept.state == State::kept, ErrorCode::invalid_argument, "slot {} holds no conversation", sequence);
  // The cache's own file becomes a section of this one, beside the tokens.
  const std::filesystem::path part = path.parent_path() / fmt::format(".{}{}", path.filename().string(), kPart);
  struct Removal {
    const std::filesystem::path& file;
    ~Removal() {
      std::error_code ignored;
      std::filesystem::remove(file, ignored);
    }
  } const removal{part};
  cache_->save(part, sequence);
  const MappedFile cache(part);
  cache::StateWriter file(path);
  file.section(std::as_bytes(std::span(kept.tokens)));
  file.section(cache.bytes());
  file.finish();
  return kept.tokens.size();
}

std::size_t Slots::restore(int sequence, const std::filesystem::path& path, std::size_t vocabulary) {
  resting(sequence);
  const std::string name = path.string();
  const MappedFile bytes(path);
  cache::StateReader file(bytes.bytes(), name);
  const auto saved = file.section("tokens");
  const auto cache = file.section("cache");
  file.finish();
  std::vector<Token> tokens(saved.size() / sizeof(Token));
  std::memcpy(tokens.data(), saved.data(), tokens.size() * sizeof(Token));
  const auto known = [&](Token t) { return t >= 0 && static_cast<std::size_t>(t) < vocabulary; };
  KVANT_CHECK(!tokens.empty() && saved.size() % sizeof(Token) == 0 && std::all_of(tokens.begin(), tokens.end(), known),
              ErrorCode::format, "{}: not the tokens of a conversation with this model", name);
  load(sequence, cache, name);
  Slot& restored = slot(sequence);
  restored = {State::kept, std::move(tokens), 0, ++clock_};
  const bool whole = restored.tokens.size() == cache_->length(sequence), fits = whole && reserve(sequence);
  const std::size_t length = cache_->length(sequence), count = restored.tokens.size();
  if (!fits) {
    cache_->truncate(sequence, 0);
    restored = {};
  }
  KVANT_CHECK(whole, ErrorCode::format, "{}: {} tokens, but {} in the cache", name, count, length);
  KVANT_CHECK(fits, ErrorCode::out_of_memory, "{}: running answers may need the blocks that it takes", name);
  return count;
}

/// Loads a sequence, for whose blocks kept conversations give way.
void Slots::load(int sequence, std::span<const std::byte> bytes, const std::string& name) {
  for (;;) {
    try {
      cache_->load(bytes, name, sequence);
      return;
    } catch (const Error& e) {
      const int victim = e.code() == ErrorCode::out_of_memory ? oldest(sequence) : -1;
      if (victim < 0) throw;
      evict(victim);
    }
  }
}

std::size_t Slots::kept() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::kept; }));
}

void remove_leftovers(const std::filesystem::path& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.') && name.ends_with(kPart)) std::filesystem::remove(entry.path(), error);
  }
  KVANT_CHECK(!error, ErrorCode::io, "{}: {}", folder.string(), error.message());
}

}  // namespace kvant::server
