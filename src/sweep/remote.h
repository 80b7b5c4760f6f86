#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/ledger.h"

namespace kvant::sweep {

/// A call of a ledger, for a process that has none.
struct Request {
  enum class What : std::uint8_t { claim, add, fail, end };
  What what = What::claim;
  std::vector<std::string> units;
  std::size_t most = 0;  ///< claim
  Findings findings;     ///< add
  std::string text;      ///< fail: why; end: what went wrong, or nothing
};

/// What came of it.
struct Reply {
  Claimed claimed;
  bool stop = false;  ///< the sweep has been stopped
  std::string error;  ///< what the ledger threw; empty: nothing
};

/// As bytes. Unpacking throws format for what packing has not made.
std::vector<std::uint8_t> pack(const Request& request);
std::vector<std::uint8_t> pack(const Reply& reply);
Request unpack_request(std::span<const std::uint8_t> bytes);
Reply unpack_reply(std::span<const std::uint8_t> bytes);

/// Does what a request asks for.
Reply answer(Ledger& ledger, const Request& request);

/// A ledger in another process. Members throw io with what the other one threw, and cancelled when the sweep has been
/// stopped.
class RemoteLedger final : public Ledger {
 public:
  /// ask() brings a request there and the reply back.
  explicit RemoteLedger(std::function<Reply(const Request&)> ask) : ask_(std::move(ask)) {}

  Claimed claim(std::span<const std::string> units, std::size_t most) override;
  void add(const Findings& findings, std::span<const std::string> units) override;
  void fail(std::span<const std::string> units, std::string_view why) override;
  std::size_t settled_weight() const override { return 0; }

 private:
  Reply checked(const Request& request) const;

  std::function<Reply(const Request&)> ask_;
};

}  // namespace kvant::sweep
