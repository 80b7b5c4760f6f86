#include "eval/haystack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"

namespace kvant::eval {
namespace {

using tokenizer::Token;

constexpr std::string_view kSpace = " \t\n\r\f\v";
/// Of what comes before a place, so that a long run of white space costs no more.
constexpr std::size_t kLookBack = 32;
/// Marks that end a sentence, and those that may follow them: in UTF-8, written as bytes.
constexpr std::array<std::string_view, 9> kEnds = {
    ".",
    "!",
    "?",
    "\xe3\x80\x82",  // ideographic full stop
    "\xef\xbc\x81",  // fullwidth exclamation mark
    "\xef\xbc\x9f",  // fullwidth question mark
    "\xd8\x9f",      // Arabic question mark
    "\xdb\x94",      // Arabic full stop
    "\xe0\xa5\xa4",  // danda
};
constexpr std::array<std::string_view, 7> kClosing = {
    "\"",           "'", ")", "]",
    "\xe2\x80\x99",  // right single quotation mark
    "\xe2\x80\x9d",  // right double quotation mark
    "\xe3\x80\x8d",  // right corner bracket
};

/// What may be put between two texts, of which the second holds a byte at least.
Cut cut_between(std::string_view before, std::string_view after) {
  if (before.empty()) return Cut::sentence;
  if ((static_cast<unsigned char>(after.front()) & 0xc0) == 0x80) return Cut::none;
  before.remove_prefix(before.size() - std::min(before.size(), kLookBack));
  bool space = kSpace.find(after.front()) != kSpace.npos;
  for (; !before.empty() && kSpace.find(before.back()) != kSpace.npos; before.remove_suffix(1)) {
    if (before.back() == '\n') return Cut::sentence;
    space = true;
  }
  const auto is_end_of = [&](std::string_view mark) { return before.ends_with(mark); };
  for (auto mark = std::ranges::find_if(kClosing, is_end_of); mark != kClosing.end();) {
    before.remove_suffix(mark->size());
    mark = std::ranges::find_if(kClosing, is_end_of);
  }
  for (const std::string_view mark : kEnds) {
    // A full stop of one byte may stand within a word or a number; the others do not.
    if (is_end_of(mark) && (space || mark.size() > 1)) return Cut::sentence;
  }
  return space ? Cut::word : Cut::character;
}

}  // namespace

Haystack::Haystack(const tokenizer::Tokenizer& tokenizer, std::string_view text, std::string name)
    : tokenizer_(tokenizer), name_(std::move(name)), tokens_(tokenizer.encode(text, false)) {
  std::string before;
  cuts_.reserve(tokens_.size() + 1);
  for (const Token token : tokens_) {
    const std::string_view piece = tokenizer.piece(token, true);
    cuts_.push_back(piece.empty() ? Cut::none : cut_between(before, piece));
    before += piece;
    if (before.size() > 64 * kLookBack) before.erase(0, before.size() - kLookBack);
  }
  cuts_.push_back(Cut::sentence);
}

std::vector<Token> Haystack::encode_inside(std::string_view text) const {
  const bool spaced = text.starts_with('\n') || tokenizer_.space_prefix();
  return tokenizer_.encode(spaced ? std::string(text) : " " + std::string(text), true);
}

std::size_t Haystack::draw_excerpt(std::size_t length, Random& random) const {
  const std::size_t starts = tokens_.size() - length + 1, drawn = random.below(starts);
  for (const Cut cut : {Cut::sentence, Cut::word, Cut::character}) {
    for (std::size_t i = 0; i < starts; ++i) {
      const std::size_t start = (drawn + i) % starts;
      if (cuts_[start] >= cut && cuts_[start + length] >= cut) return start;
    }
  }
  fail(ErrorCode::invalid_argument, "{}: has no {} tokens that begin and end with whole characters", name_, length);
}

std::size_t Haystack::place(std::size_t first, std::size_t length, double depth) const {
  const auto target = static_cast<std::size_t>(std::llround(depth * static_cast<double>(length)));
  for (const Cut cut : {Cut::sentence, Cut::word, Cut::character}) {
    const std::size_t reach = cut == Cut::character ? length : std::min(kReach, length);
    for (std::size_t distance = 0; distance <= reach; ++distance) {
      for (const std::size_t at : {target - distance, target + distance}) {  // below 0 it wraps beyond the length
        if (at <= length && (at == 0 || at == length || cuts_[first + at] >= cut)) return at;
      }
    }
  }
  return length;  // not reached: the ends are always good
}

std::vector<Token> Haystack::prompt(std::size_t length, std::span<const Needle> needles,
                                    std::span<const Token> question, Random& random) const {
  const bool bos = tokenizer_.add_bos();
  std::size_t rest = question.size() + (bos ? 1 : 0);
  for (const Needle& needle : needles) rest += needle.tokens.size();
  KVANT_CHECK(rest < length, ErrorCode::invalid_argument,
              "{}: a prompt of {} tokens has no room for it, since what is hidden and asked takes {}", name_, length,
              rest);
  const std::size_t excerpt = length - rest;
  KVANT_CHECK(excerpt <= tokens_.size(), ErrorCode::invalid_argument, "{}: has {} tokens, {} are needed", name_,
              tokens_.size(), excerpt);
  const std::size_t first = draw_excerpt(excerpt, random);

  std::vector<std::pair<std::size_t, const Needle*>> places;
  for (const Needle& needle : needles) places.emplace_back(place(first, excerpt, needle.depth), &needle);
  std::ranges::stable_sort(places, {}, &std::pair<std::size_t, const Needle*>::first);

  std::vector<Token> prompt;
  prompt.reserve(length);
  if (bos) prompt.push_back(tokenizer_.bos());
  std::size_t done = 0;
  const auto add_text = [&](std::size_t end) {
    const auto part = std::span(tokens_).subspan(first + done, end - done);
    prompt.insert(prompt.end(), part.begin(), part.end());
    done = end;
  };
  for (const auto& [at, needle] : places) {
    add_text(at);
    prompt.insert(prompt.end(), needle->tokens.begin(), needle->tokens.end());
  }
  add_text(excerpt);
  prompt.insert(prompt.end(), question.begin(), question.end());
  return prompt;
}

}  // namespace kvant::eval
