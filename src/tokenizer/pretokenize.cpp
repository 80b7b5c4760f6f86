#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/pretokenize.h"

#include <pcre2.h>

#include <array>
#include <cstdint>

#include "base/error.h"

namespace kvant::tokenizer {
namespace {

// White_Space of Unicode, for use inside [...]. PCRE2's \s also takes U+180E, which is none.
#define KVANT_SPACE R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
// The end of all patterns: runs of space, of which the last character goes to the word that follows.
#define KVANT_SPACE_RUNS "[" KVANT_SPACE "]+(?![^" KVANT_SPACE "])|[" KVANT_SPACE "]+"
#define KVANT_CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define KVANT_LETTERS_DIGITS_SYMBOLS(digits)                                            \
  "(?i:" KVANT_CONTRACTIONS R"()|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits "| ?[^" KVANT_SPACE \
  R"(\p{L}\p{N}]+[\r\n]*|[)" KVANT_SPACE R"(]*[\r\n]+|)" KVANT_SPACE_RUNS

constexpr std::string_view kQwen2 = KVANT_LETTERS_DIGITS_SYMBOLS(R"(\p{N})");
constexpr std::string_view kLlama3 = KVANT_LETTERS_DIGITS_SYMBOLS(R"(\p{N}{1,3})");
constexpr std::string_view kGpt2 =
    KVANT_CONTRACTIONS R"(| ?\p{L}+| ?\p{N}+| ?[^)" KVANT_SPACE R"(\p{L}\p{N}]+|)" KVANT_SPACE_RUNS;

#undef KVANT_LETTERS_DIGITS_SYMBOLS
#undef KVANT_CONTRACTIONS
#undef KVANT_SPACE_RUNS
#undef KVANT_SPACE

// Patterns and normalizers as in the tokenizer.json files of the models.
constexpr std::array<PreTokenizer, 7> kPreTokenizers{{
    {.name = "qwen2", .pattern = kQwen2, .nfc = true, .whole_words = false, .adds_bos = false},
    {.name = "deepseek-r1-qwen", .pattern = kQwen2, .nfc = true, .whole_words = false, .adds_bos = false},
    {.name = "llama-bpe", .pattern = kLlama3, .nfc = false, .whole_words = true, .adds_bos = true},
    {.name = "llama3", .pattern = kLlama3, .nfc = false, .whole_words = true, .adds_bos = true},
    {.name = "llama-v3", .pattern = kLlama3, .nfc = false, .whole_words = true, .adds_bos = true},
    {.name = "gpt-2", .pattern = kGpt2, .nfc = false, .whole_words = false, .adds_bos = false},
    {.name = "default", .pattern = kGpt2, .nfc = false, .whole_words = false, .adds_bos = false},
}};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept {
  for (const PreTokenizer& pre : kPreTokenizers) {
    if (pre.name == name) return &pre;
  }
  return nullptr;
}

std::string pre_tokenizer_names() {
  std::string names;
  for (const PreTokenizer& pre : kPreTokenizers) {
    if (!names.empty()) names += ", ";
    names += pre.name;
  }
  return names;
}

struct WordSplitter::Code {
  struct Free {
    void operator()(pcre2_code* compiled) const noexcept { pcre2_code_free(compiled); }
    void operator()(pcre2_match_context* limits) const noexcept { pcre2_match_context_free(limits); }
  };
  std::unique_ptr<pcre2_code, Free> code;
  std::unique_ptr<pcre2_match_context, Free> context;
};

WordSplitter::WordSplitter(std::string_view pattern) : code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                  &error, &offset, nullptr));
  KVANT_CHECK(code_->code, ErrorCode::invalid_argument, "word pattern: {} at {}", pcre2_message(error), offset);
  pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
  code_->context.reset(pcre2_match_context_create(nullptr));
  KVANT_CHECK(code_->context, ErrorCode::out_of_memory, "word pattern: no memory for a match context");
  pcre2_set_match_limit(code_->context.get(), UINT32_MAX);  // a long run of spaces counts every one of them
}

WordSplitter::WordSplitter(WordSplitter&&) noexcept = default;
WordSplitter& WordSplitter::operator=(WordSplitter&&) noexcept = default;
WordSplitter::~WordSplitter() = default;

void WordSplitter::Words::Free::operator()(void* match_data) const noexcept {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data));
}

WordSplitter::Words::Words(const WordSplitter& splitter, std::string_view text)
    : splitter_(&splitter), text_(text), match_data_(pcre2_match_data_create(1, nullptr)) {
  KVANT_CHECK(match_data_, ErrorCode::out_of_memory, "word pattern: no memory for match data");
}

std::string_view WordSplitter::Words::next() {
  if (at_ == text_.size()) return {};
  if (match_end_ <= at_) {
    auto* data = static_cast<pcre2_match_data*>(match_data_.get());
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(splitter_->code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), at_,
                         PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | options, data, splitter_->code_->context.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);  // which keeps its state on the heap
    KVANT_CHECK(result >= 0 || result == PCRE2_ERROR_NOMATCH, ErrorCode::out_of_memory,
                "splitting text into words at byte {}: {}", at_, pcre2_message(result));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    match_begin_ = result >= 0 ? range[0] : text_.size();
    match_end_ = result >= 0 ? range[1] : text_.size();
  }
  const std::size_t begin = at_;
  at_ = begin < match_begin_ ? match_begin_ : match_end_;
  return text_.substr(begin, at_ - begin);
}

}  // namespace kvant::tokenizer
