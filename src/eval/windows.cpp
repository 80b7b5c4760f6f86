#include "eval/windows.h"

#include <algorithm>

#include "base/error.h"

namespace kvant::eval {

Windows::Windows(const engine::Engine& engine, std::span<const engine::Token> text, std::size_t context,
                 std::size_t chunks)
    : text_(text), context_(context) {
  KVANT_CHECK(context >= 3, ErrorCode::invalid_argument, "a context of {} tokens is too short, at least 3 are needed",
              context);
  KVANT_CHECK(text.size() >= context, ErrorCode::invalid_argument, "the text has {} tokens, less than one window of {}",
              text.size(), context);
  const std::size_t available = text.size() / context;
  count_ = chunks == 0 ? available : std::min(chunks, available);
  if (engine.tokenizer().add_bos()) bos_ = engine.tokenizer().bos();

  const std::size_t most = std::clamp<std::size_t>(kLogitBytes / (sizeof(float) * engine.config().vocabulary), 16,
                                                   model::Transformer::kMaxRows);
  const std::size_t pieces = (scored() + most - 1) / most;
  for (std::size_t i = 0; i < pieces; ++i) {
    pieces_.emplace_back(first_scored() + scored() * i / pieces, first_scored() + scored() * (i + 1) / pieces);
  }
}

std::vector<engine::Token> Windows::tokens(std::size_t window) const {
  const auto source = text_.subspan(window * context_, context_);
  std::vector<engine::Token> tokens(source.begin(), source.end());
  if (bos_ >= 0) tokens.front() = bos_;
  return tokens;
}

}  // namespace kvant::eval
