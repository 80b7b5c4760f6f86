#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/answer.h"

namespace kvant::server {

/// How an answer came to its end.
enum class Finish {
  stop,       ///< an end token or a stop string
  length,     ///< as many tokens as were asked for, or as the context holds
  cancelled,  ///< whoever asked has gone, or the server stops
  timed_out,  ///< it took longer than a request may
  failed      ///< an error, in Ending::error
};

/// The last that is heard of an answer.
struct Ending {
  Finish finish = Finish::stop;
  std::string error = {};
  std::size_t prompt_tokens = 0;
  std::size_t cached_tokens = 0;  ///< of the prompt, that were in the cache already
  std::size_t generated_tokens = 0;
  double prefill_seconds = 0;  ///< from the start of the work to the first token, waiting in the queue left out
  double decode_seconds = 0;   ///< from the first token to the last
};

/// Hands the answers to one request from the scheduler to the thread that sends them. A request has one or more
/// answers ("choices"); each is pieces and then an ending.
class Reply {
 public:
  explicit Reply(std::size_t choices) : pieces_(choices), endings_(choices), ended_(choices) {}
  std::size_t choices() const noexcept { return pieces_.size(); }

  // The side that reads.

  struct Event {
    std::size_t choice;
    std::variant<Piece, Ending> what;
  };
  /// The next that came, choices in turn; pieces of one choice that wait are joined. Waits at most so long; nothing
  /// when nothing came or all has been read.
  std::optional<Event> next(std::chrono::milliseconds wait);
  /// Whether every ending has been read.
  bool done() const;
  /// Nobody reads any more: the scheduler ends what still runs.
  void cancel();

  // The side of the scheduler. None of these waits.

  void push(std::size_t choice, Piece piece);
  void end(std::size_t choice, Ending ending);
  bool cancelled() const;
  /// Whether the reader is so far behind that no more should be made for it now.
  bool full() const;

  /// Bytes of unread text from which on it is full.
  static constexpr std::size_t kFullBytes = 64 * 1024;

 private:
  std::optional<Event> take();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::optional<Piece>> pieces_;
  std::vector<std::optional<Ending>> endings_;
  std::vector<char> ended_;  ///< whether the ending has been read
  std::size_t turn_ = 0;     ///< the choice to look at first
  std::size_t bytes_ = 0;
  bool cancelled_ = false;
};

}  // namespace kvant::server
