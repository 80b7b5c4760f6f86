#pragma once
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "sweep/database.h"

namespace kvant::sweep {

/// Who works on what, and where results go.
class Ledger {
 public:
  Ledger() = default;
  virtual ~Ledger() = default;
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  /// As Database::claim; units that have failed are settled too.
  virtual Claimed claim(std::span<const std::string> units, std::size_t most) = 0;
  /// As Database::add.
  virtual void add(const Findings& findings, std::span<const std::string> units) = 0;
  /// Says that these units, claimed before, cannot be done, and why.
  virtual void fail(std::span<const std::string> units, std::string_view why) = 0;
  /// Weight of all units that are known to be settled, as far as this ledger knows.
  virtual std::size_t settled_weight() const = 0;
};

/// What has become of the units of a sweep.
struct Tally {
  std::size_t added = 0;              ///< finished through the ledger
  std::size_t failed = 0;             ///< units that could not be done
  std::vector<std::string> failures;  ///< why, in the order of their occurrence, each once
};

/// The ledger of the process that has the database open. Its claims are those of process_owner(); a thread of its own
/// shows that the process lives, and the destructor gives back what is still claimed. May be used by several threads.
class DatabaseLedger final : public Ledger {
 public:
  /// `weights` has all units of the sweep.
  DatabaseLedger(const std::string& path, std::unordered_map<std::string, std::size_t> weights);
  ~DatabaseLedger() override;

  Claimed claim(std::span<const std::string> units, std::size_t most) override;
  void add(const Findings& findings, std::span<const std::string> units) override;
  void fail(std::span<const std::string> units, std::string_view why) override;
  std::size_t settled_weight() const override;
  Tally tally() const;

 private:
  void settle(std::span<const std::string> units);
  void show_life();

  std::string owner_;
  std::unordered_map<std::string, std::size_t> weights_;
  mutable std::mutex mutex_;  ///< guards all below
  Database database_;
  std::unordered_set<std::string> settled_, failed_;
  std::size_t settled_weight_ = 0;
  Tally tally_;
  bool closing_ = false;
  std::condition_variable close_;
  std::thread life_;
};

}  // namespace kvant::sweep
