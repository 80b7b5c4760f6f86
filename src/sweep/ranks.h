#pragma once
#include <functional>
#include <memory>

#include "sweep/ledger.h"

namespace kvant::sweep {

/// The processes that mpirun has started together, of which only rank 0 has the database. One alone where the build is
/// without MPI (CMake's KVANT_MPI) or nobody has started several. At most one object in a process.
class Ranks {
 public:
  /// Throws unsupported when MPI cannot be used beside threads.
  Ranks();
  /// On rank 0, waits for the others to end.
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int count() const noexcept;
  bool first() const noexcept;  ///< whether this is rank 0

  /// On rank 0: calls work(), which returns whether it was not stopped, while `ledger` serves the other ranks, until
  /// all of them have ended; they are stopped when work() was. Throws what work() throws, else the first error of
  /// another rank, with its number.
  bool serve(Ledger& ledger, const std::function<bool()>& work);
  /// On the other ranks: calls work() with a ledger that is the one of rank 0. Errors go there as well.
  void join(const std::function<void(Ledger& ledger)>& work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::sweep
