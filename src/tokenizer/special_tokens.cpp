#include "tokenizer/special_tokens.h"

#include <algorithm>
#include <functional>

namespace kvant::tokenizer {
namespace {

std::vector<Token> special_ids(const Vocab& vocab) {
  std::vector<Token> ids;
  for (std::size_t i = 0; i < vocab.size(); ++i) {
    const auto id = static_cast<Token>(i);
    if (vocab.is_special(id) && !vocab.bytes(id).empty()) ids.push_back(id);
  }
  return ids;
}

}  // namespace

SpecialTokens::SpecialTokens(const Vocab& vocab) : vocab_(&vocab), index_(0) {
  const auto ids = special_ids(vocab);
  index_ = TextIndex(ids.size());
  for (const Token id : ids) {
    const std::string_view text = vocab.bytes(id);
    if (find(text) >= 0) continue;
    index_.insert(text, id);
    lengths_[static_cast<std::uint8_t>(text[0])].push_back(text.size());
  }
  for (auto& lengths : lengths_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

SpecialTokens::Match SpecialTokens::next(std::string_view text, std::size_t from, bool parse_special) const noexcept {
  for (std::size_t at = from; at < text.size(); ++at) {
    for (const std::size_t length : lengths_[static_cast<std::uint8_t>(text[at])]) {
      if (length > text.size() - at) continue;
      const Token id = find(text.substr(at, length));
      if (id >= 0 && (parse_special || vocab_->type(id) == TokenType::user_defined)) return {at, id};
    }
  }
  return {text.size(), -1};
}

Token SpecialTokens::find(std::string_view text) const noexcept {
  return index_.find(text, [this](Token id) { return vocab_->bytes(id); });
}

}  // namespace kvant::tokenizer
