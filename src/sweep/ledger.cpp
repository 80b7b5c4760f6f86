#include "sweep/ledger.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "sweep/owner.h"

namespace kvant::sweep {
namespace {

constexpr auto kBeat = std::chrono::seconds(Database::kExpirySeconds / 4);

}  // namespace

DatabaseLedger::DatabaseLedger(const std::string& path, std::unordered_map<std::string, std::size_t> weights)
    : owner_(process_owner()), weights_(std::move(weights)), database_(path) {
  const auto finished = database_.finished();
  for (const auto& [unit, weight] : weights_) {
    if (finished.contains(unit)) settle(std::span(&unit, 1));
  }
  life_ = std::thread([this] { show_life(); });
}

DatabaseLedger::~DatabaseLedger() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  close_.notify_all();
  life_.join();
  try {
    database_.release(owner_);
  } catch (const Error&) {  // claims of a process that has ended count for nothing
  }
}

void DatabaseLedger::show_life() {
  std::unique_lock lock(mutex_);
  while (!close_.wait_for(lock, kBeat, [this] { return closing_; })) {
    try {
      database_.beat(owner_);
    } catch (const Error&) {  // a claim that is lost is only work done twice; add() tells of a disk that is full
    }
  }
}

/// Counts each unit once.
void DatabaseLedger::settle(std::span<const std::string> units) {
  for (const std::string& unit : units) {
    const auto known = weights_.find(unit);
    if (known != weights_.end() && settled_.insert(unit).second) settled_weight_ += known->second;
  }
}

Claimed DatabaseLedger::claim(std::span<const std::string> units, std::size_t most) {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> wanted, failed;
  for (const std::string& unit : units) (failed_.contains(unit) ? failed : wanted).push_back(unit);
  Claimed claimed = database_.claim(wanted, most, owner_, is_dead);
  settle(claimed.settled);
  claimed.settled.insert(claimed.settled.end(), failed.begin(), failed.end());
  return claimed;
}

void DatabaseLedger::add(const Findings& findings, std::span<const std::string> units) {
  const std::lock_guard lock(mutex_);
  database_.add(findings, units);
  tally_.added += findings.cells.size();
  settle(units);
}

void DatabaseLedger::fail(std::span<const std::string> units, std::string_view why) {
  const std::lock_guard lock(mutex_);
  failed_.insert(units.begin(), units.end());
  tally_.failed += units.size();
  const auto& known = tally_.failures;
  if (std::find(known.begin(), known.end(), why) == known.end()) tally_.failures.emplace_back(why);
  settle(units);
}

std::size_t DatabaseLedger::settled_weight() const {
  const std::lock_guard lock(mutex_);
  return settled_weight_;
}

Tally DatabaseLedger::tally() const {
  const std::lock_guard lock(mutex_);
  return tally_;
}

}  // namespace kvant::sweep
