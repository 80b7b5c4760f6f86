#include "server/answer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace kvant::server {
namespace {

/// Length of the longest end of `text` that is the start, not the whole, of `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.ends_with(stop.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

Answer::Answer(const tokenizer::Tokenizer& tokenizer, std::vector<std::string> stops, bool text_start)
    : decoder_(tokenizer, text_start), stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    KVANT_CHECK(!stop.empty(), ErrorCode::invalid_argument, "a stop string is empty");
  }
}

Piece Answer::push(Token token) { return release(decide(decoder_.push(token), false)); }

Piece Answer::push(Token token, engine::LogProbabilities probabilities) {
  const std::size_t begin = decoded_;
  const std::string text = decoder_.push(token);
  waiting_.push_back({begin, begin + text.size(), std::move(probabilities)});
  return release(decide(text, false));
}

Piece Answer::finish() {
  Piece piece = release(decide(decoder_.finish(), true));
  if (!stopped_) {  // tokens without text at the very end
    for (Waiting& w : waiting_) piece.tokens.push_back(std::move(w.probabilities));
  }
  waiting_.clear();
  return piece;
}

std::string Answer::decide(std::string_view text, bool last) {
  decoded_ += text.size();
  if (stopped_) return {};
  held_ += text;
  std::size_t begin = held_.size(), end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
      begin = at;
      end = at + stop.size();
    }
  }
  stopped_ = end != std::string::npos;
  std::size_t keep = 0;
  if (!stopped_ && !last) {
    for (const std::string& stop : stops_) keep = std::max(keep, overlap(held_, stop));
  }
  std::string out = held_.substr(0, stopped_ ? begin : held_.size() - keep);
  held_.erase(0, stopped_ ? held_.size() : out.size());
  return out;
}

Piece Answer::release(std::string text) {
  out_ += text.size();
  Piece piece{std::move(text), {}};
  // A token goes out with the last byte of its text; one that the stop string cuts counts where some of it is out.
  const auto done = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const Waiting& w) { return stopped_ ? w.begin >= out_ : w.end > out_; });
  for (auto w = waiting_.begin(); w != done; ++w) piece.tokens.push_back(std::move(w->probabilities));
  waiting_.erase(waiting_.begin(), stopped_ ? waiting_.end() : done);
  return piece;
}

}  // namespace kvant::server
