#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace kvant::tokenizer {

/// What tokenizer.ggml.pre stands for: how text is prepared and cut into words before byte-level BPE.
struct PreTokenizer {
  std::string_view name;     ///< as in the file
  std::string_view pattern;  ///< the words; PCRE2 syntax with UTF and UCP, \s is written out as Unicode's White_Space
  bool nfc;                  ///< whether text is brought to normalization form C first
  bool whole_words;          ///< whether a word that is itself a token is taken without merging
  bool adds_bos;             ///< whether texts start with BOS where the file does not say
};

/// The pre-tokenizer of that name, or nullptr.
const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept;
/// Names of all of them, separated by ", ".
std::string pre_tokenizer_names();

/// Cuts text into words with a compiled pattern. Immutable; safe from several threads.
class WordSplitter {
 public:
  explicit WordSplitter(std::string_view pattern);
  WordSplitter(WordSplitter&&) noexcept;
  WordSplitter& operator=(WordSplitter&&) noexcept;
  ~WordSplitter();

  /// Walks over the words of one text, which must be valid UTF-8. The words joined give the text back: what the
  /// pattern leaves out is a word of its own.
  class Words {
   public:
    Words(const WordSplitter& splitter, std::string_view text);
    /// The next word; empty at the end.
    std::string_view next();

   private:
    struct Free {
      void operator()(void* match_data) const noexcept;
    };
    const WordSplitter* splitter_;
    std::string_view text_;
    std::size_t at_ = 0;           // where the next word starts
    std::size_t match_begin_ = 0;  // the last match, where it has not been handed out yet
    std::size_t match_end_ = 0;
    std::unique_ptr<void, Free> match_data_;
  };

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace kvant::tokenizer
