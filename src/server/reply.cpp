#include "server/reply.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kvant::server {
namespace {

/// About what a token's probabilities take when written out.
constexpr std::size_t kBytesOfEntry = 64;

std::size_t bytes(const Piece& piece) {
  std::size_t entries = 0;
  for (const auto& token : piece.tokens) entries += 1 + token.top.size();
  return piece.text.size() + entries * kBytesOfEntry;
}

}  // namespace

std::optional<Reply::Event> Reply::take() {
  for (std::size_t n = 0; n < pieces_.size(); ++n) {
    const std::size_t i = (turn_ + n) % pieces_.size();
    if (pieces_[i]) {
      Event event{i, std::move(*pieces_[i])};
      pieces_[i].reset();
      bytes_ -= bytes(std::get<Piece>(event.what));
      turn_ = i + 1;
      return event;
    }
    if (endings_[i] && ended_[i] == 0) {
      ended_[i] = 1;
      return Event{i, *endings_[i]};
    }
  }
  return std::nullopt;
}

std::optional<Reply::Event> Reply::next(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  std::optional<Event> event;
  changed_.wait_for(lock, wait, [&] { return (event = take()).has_value(); });
  return event;
}

bool Reply::done() const {
  const std::scoped_lock lock(mutex_);
  return std::all_of(ended_.begin(), ended_.end(), [](char ended) { return ended != 0; });
}

void Reply::cancel() {
  const std::scoped_lock lock(mutex_);
  cancelled_ = true;
}

void Reply::push(std::size_t choice, Piece piece) {
  if (piece.text.empty() && piece.tokens.empty()) return;
  {
    const std::scoped_lock lock(mutex_);
    bytes_ += bytes(piece);
    std::optional<Piece>& waiting = pieces_[choice];
    if (waiting) {
      waiting->text += piece.text;
      std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(waiting->tokens));
    } else {
      waiting = std::move(piece);
    }
  }
  changed_.notify_one();
}

void Reply::end(std::size_t choice, Ending ending) {
  {
    const std::scoped_lock lock(mutex_);
    endings_[choice] = std::move(ending);
  }
  changed_.notify_one();
}

bool Reply::cancelled() const {
  const std::scoped_lock lock(mutex_);
  return cancelled_;
}

bool Reply::full() const {
  const std::scoped_lock lock(mutex_);
  return bytes_ >= kFullBytes;
}

}  // namespace kvant::server
