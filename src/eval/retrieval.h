#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "eval/cache_pair.h"
#include "eval/haystack.h"
#include "eval/metrics.h"

namespace kvant::eval {

/// What is hidden in a text and asked for after it. A key is a place ("harbour in Dublin"), a value a number of four
/// digits, written apart ("8 0 4 0"): most vocabularies then have a token for each digit.
struct RetrievalOptions {
  std::size_t context = 512;                             ///< tokens of text, needles, question and answer together
  std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};  ///< of the needle that is asked for
  std::vector<std::size_t> keys = {1};  ///< keys that are hidden, of which one is asked for; at most kMostKeys
  std::size_t values = 1;               ///< of each key, each in a needle of its own; all are asked for
  std::size_t trials = 20;              ///< of each depth and number of keys
  std::uint64_t seed = 1;
  /// A needle, with {key} and {value}, and the question, with {key}; {count} is the number of values there. Special
  /// tokens may be written out. The question empty: kQuestion, or kQuestions where there are several values.
  std::string needle{kNeedle}, question = {};
  std::vector<CachePair> caches = {};
  /// Counts tokens fed to the model, of all caches together.
  ProgressSink progress = {};

  static constexpr std::string_view kNeedle = "The code of the {key} is {value}.";
  static constexpr std::string_view kQuestion = "Question: what is the code of the {key}? Answer:";
  static constexpr std::string_view kQuestions = "Question: what are the {count} codes of the {key}? Answer:";
  static constexpr std::size_t kMostKeys = 240, kMostValues = 16, kMostTrials = std::size_t{1} << 20;
  static constexpr std::size_t kAnswerTokens = 24;  ///< room for the answer, of each value
};

/// The question, which may be a default one.
std::string_view question_of(const RetrievalOptions& options);

/// What one cache found of the needles of one depth among so many keys.
struct RetrievalCell {
  std::size_t keys = 0;
  double depth = 0;
  std::size_t trials = 0, found = 0;
  Interval range;  ///< wilson()
};

struct RetrievalResult {
  CachePair cache;
  std::vector<RetrievalCell> cells;  ///< for each number of keys, the depths in the order of the options
  cache::CacheUsage usage;           ///< of one text
};

/// One prompt and what its answer must hold.
struct RetrievalTrial {
  std::vector<engine::Token> prompt;  ///< of context - values * kAnswerTokens tokens
  std::vector<std::string> values;    ///< four digits each
};

/// The trial of this number among those of a depth and number of keys. It depends on these, the text, the tokenizer and
/// the options' context, values, seed, needle and question, not on other depths, numbers of keys, or caches. The asked
/// key's first needle is at the depth; its other needles and those of other keys are anywhere (Haystack::prompt).
/// Values of one prompt differ. Throws as Haystack::prompt.
RetrievalTrial make_trial(const Haystack& haystack, const RetrievalOptions& options, std::size_t keys, double depth,
                          std::size_t number);

/// Whether the first values.size() numbers in an answer are these values, in any order. A number is a run of digits
/// with at most one space between them, so "8 0 4 0" is 8040, and "8 0 4 0 1" is not.
bool is_found(std::string_view answer, std::span<const std::string> values);

/// Throws invalid_argument, naming the option and its value, when one is out of range or a template lacks a
/// placeholder; as make_trial where a prompt with the most keys does not go into the context.
void check_retrieval(const Haystack& haystack, const RetrievalOptions& options);

/// Hides needles in a text and counts, for each cache, which of them the greedy answer has (a needle in a haystack;
/// with several keys or values as in Hsieh et al., "RULER", 2024). All caches get the same prompts. Memory beside the
/// engine's: one cache at a time with room for texts_together() texts (eval/greedy.h). Throws as
/// check_retrieval, Engine::make_cache and continue_greedily do.
std::vector<RetrievalResult> retrieve(engine::Engine& engine, const Haystack& haystack,
                                      const RetrievalOptions& options);

}  // namespace kvant::eval
