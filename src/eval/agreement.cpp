#include "eval/agreement.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "eval/greedy.h"

namespace kvant::eval {
namespace {

using engine::Token;
using Texts = std::vector<std::vector<Token>>;

/// Caches are made for so many tokens, or twice as many and so on: in one for a short text, memory pages that are not
/// full would stand for more bits of a value than a cache takes in use.
constexpr std::size_t kContextStep = 512;

/// Mean of what blocks hold, and its standard error.
Estimate estimate(std::span<const Block> blocks) {
  Block all;
  for (const Block& block : blocks) {
    all.sum += block.sum;
    all.count += block.count;
  }
  if (all.count == 0) return {};
  return {all.sum / static_cast<double>(all.count), standard_error(blocks)};
}

/// Runs caches over all prompts.
class Generator {
 public:
  Generator(engine::Engine& engine, const AgreementOptions& options) : engine_(engine), options_(options) {
    std::size_t longest = 0, all = 0;
    for (const auto& prompt : options.prompts) {
      longest = std::max(longest, prompt.size());
      all += prompt.size() + options.tokens;
    }
    const std::size_t needed = longest + options.tokens, window = engine.config().window;
    context_ = round_up(needed, kContextStep);
    if (window > 0) context_ = std::max(needed, std::min(context_, window));
    together_ = texts_together(context_, options.prompts.size());
    total_ = all * (options.caches.size() + 1);
  }

  std::size_t context() const { return context_; }

  Texts run(const CachePair& spec, cache::CacheUsage& usage) {
    cache::KvCache cache = engine_.make_cache(spec.k, spec.v, context_, static_cast<int>(together_), spec.plan.get());
    usage = cache.usage();
    usage.k_bytes /= together_;
    usage.v_bytes /= together_;
    const std::span prompts(options_.prompts);
    GreedyOptions greedy{.tokens = options_.tokens};
    greedy.on_fed = [this](std::size_t tokens) {
      fed_ += tokens;
      if (options_.progress) options_.progress(done_ + fed_, total_, {});
    };
    Texts texts;
    while (texts.size() < prompts.size()) {
      const auto part = prompts.subspan(texts.size(), std::min(together_, prompts.size() - texts.size()));
      Texts more = continue_greedily(engine_, cache, part, greedy);
      std::ranges::move(more, std::back_inserter(texts));
      for (const auto& prompt : part) done_ += prompt.size() + options_.tokens;
      fed_ = 0;
    }
    return texts;
  }

 private:
  engine::Engine& engine_;
  const AgreementOptions& options_;
  std::size_t context_ = 0, together_ = 1;
  std::size_t done_ = 0, fed_ = 0, total_ = 0;  ///< tokens; fed_ of the prompts that run
};

void summarize(AgreementResult& result) {
  std::vector<Block> lengths, same, characters;
  std::vector<float> sorted;
  std::size_t identical = 0;
  for (const Continuation& one : result.continuations) {
    lengths.push_back({static_cast<double>(one.agreement), 1});
    same.push_back({one.same, 1});
    characters.push_back({static_cast<double>(one.foreign), one.characters});
    sorted.push_back(static_cast<float>(one.agreement));
    identical += one.identical ? 1 : 0;
  }
  std::ranges::sort(sorted);
  result.length = estimate(lengths);
  result.length_median = quantile(sorted, 0.5);
  result.identical = static_cast<double>(identical) / static_cast<double>(sorted.size());
  result.identical_range = wilson(identical, sorted.size());
  result.same = estimate(same);
  result.script_errors = estimate(characters);
}

}  // namespace

Continuation compare_continuations(const tokenizer::Tokenizer& tokenizer, const Scripts& scripts,
                                   std::span<const Token> reference, std::vector<Token> other) {
  Continuation result;
  std::size_t same = 0;
  for (std::size_t i = 0; i < std::min(reference.size(), other.size()); ++i) {
    result.agreement += i == result.agreement && reference[i] == other[i] ? 1 : 0;
    same += reference[i] == other[i] ? 1 : 0;
  }
  const std::size_t longer = std::max(reference.size(), other.size());
  result.identical = same == longer;
  result.same = longer == 0 ? 1 : static_cast<double>(same) / static_cast<double>(longer);
  const ScriptCounts counts = scripts.count(tokenizer.decode(other));
  result.characters = counts.characters;
  result.foreign = foreign_characters(counts, scripts.count(tokenizer.decode(reference)));
  result.tokens = std::move(other);
  return result;
}

Agreement agreement(engine::Engine& engine, const AgreementOptions& options) {
  KVANT_CHECK(!options.prompts.empty(), ErrorCode::invalid_argument, "there is no prompt");
  KVANT_CHECK(options.tokens > 0, ErrorCode::invalid_argument, "0 tokens to generate");
  Generator generator(engine, options);
  const Scripts scripts;
  Agreement result;
  result.context = generator.context();
  result.reference = generator.run(options.reference, result.usage);
  const auto compared = [&](Texts texts) {
    std::vector<Continuation> all;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      all.push_back(compare_continuations(engine.tokenizer(), scripts, result.reference[i], std::move(texts[i])));
    }
    return all;
  };
  for (const CachePair& spec : options.caches) {
    AgreementResult& row = result.caches.emplace_back();
    row.cache = spec;
    row.continuations = compared(generator.run(spec, row.usage));
    summarize(row);
  }
  return result;
}

}  // namespace kvant::eval
