/// Retrieval and agreement on the stand-in model, against the same done plainly: one text at a time in a Session.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <regex>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/agreement.h"
#include "eval/greedy.h"
#include "eval/retrieval.h"
#include "integration/copying_model.h"
#include "integration/test_models.h"

namespace kvant::eval {
namespace {

using engine::Token;

engine::Engine open(const std::string& path) {
  return engine::Engine(path, {.threads = 2, .isa = active_isa(), .precision = kernels::Precision::reference});
}

/// Greedy, with a cache of its own.
std::vector<Token> continued(engine::Engine& engine, const std::vector<Token>& prompt, const CachePair& spec,
                             std::size_t tokens) {
  engine::Session session(engine, engine.make_cache(spec.k, spec.v, prompt.size() + tokens));
  return session.generate(prompt, {.max_tokens = tokens}).tokens;
}

/// The sentences of recall.txt that hold no codes.
std::string prose() {
  const std::string text = read_text(integration::own_model("recall.txt").string());
  return std::regex_replace(text, std::regex("(The code|Question:)[^.?]*[.?]|Answer:[^.]*\\.|\\n"), "");
}

class GenerationTest : public testing::Test {
 protected:
  GenerationTest() : engine_(open(integration::own_model("standin-a-q8_0.gguf").string())) {}

  std::vector<Token> continued(const std::vector<Token>& prompt, const CachePair& spec, std::size_t tokens) {
    return eval::continued(engine_, prompt, spec, tokens);
  }

  engine::Engine engine_;
};

TEST_F(GenerationTest, TextsTogetherAreThoseOfSessions) {
  const CachePair spec = parse_cache_list("q4_0/lm4").front();
  std::vector<std::vector<Token>> prompts;
  for (const char* text :
       {"The king gave his answer", "The", "A light rain fell over the fields. The code of the", "He said that"}) {
    prompts.push_back(engine_.tokenizer().encode(text));
  }
  prompts.push_back(integration::random_tokens(600, engine_.config().vocabulary, 4));
  cache::KvCache cache = engine_.make_cache(spec.k, spec.v, 640, 5);
  std::size_t fed = 0;
  for (int again = 0; again < 2; ++again) {  // the cache forgets what it held
    const auto texts =
        continue_greedily(engine_, cache, prompts, {.tokens = 40, .on_fed = [&](std::size_t n) { fed += n; }});
    ASSERT_EQ(texts.size(), prompts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], continued(prompts[i], spec, 40)) << i;
  }
  EXPECT_GT(fed, 2 * 600u);
}

TEST_F(GenerationTest, StopsWhereItIsEnough) {
  const std::vector<std::vector<Token>> prompts = {engine_.tokenizer().encode("The king"),
                                                   engine_.tokenizer().encode("A small boat")};
  cache::KvCache cache = engine_.make_cache({}, {}, 64, 2);
  const auto all = continue_greedily(engine_, cache, prompts, {.tokens = 20});
  const Token last = all[0][7];
  const auto first = static_cast<std::size_t>(std::find(all[0].begin(), all[0].end(), last) - all[0].begin());
  const auto some =
      continue_greedily(engine_, cache, prompts,
                        {.tokens = 20, .enough = [&](std::span<const Token> tokens) { return tokens.back() == last; }});
  EXPECT_EQ(some[0], std::vector<Token>(all[0].begin(), all[0].begin() + static_cast<std::ptrdiff_t>(first) + 1));
}

TEST_F(GenerationTest, RefusesWhatDoesNotFit) {
  cache::KvCache cache = engine_.make_cache({}, {}, 32, 1);
  const auto refused = [&](std::vector<std::vector<Token>> prompts, std::size_t tokens) {
    try {
      continue_greedily(engine_, cache, prompts, {.tokens = tokens});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const std::vector<Token> prompt(30, 5);
  EXPECT_EQ(refused({prompt}, 2), "");
  EXPECT_EQ(refused({prompt}, 3), "a prompt of 30 tokens and 3 new ones, for a context of 32");
  EXPECT_EQ(refused({prompt, prompt}, 2), "2 prompts for a cache of 1 sequences");
  EXPECT_EQ(refused({{}}, 2), "the prompt is empty");
}

TEST(TextsTogether, AreAsManyAsTheMemoryAllows) {
  EXPECT_EQ(texts_together(512, 100), 16u);
  EXPECT_EQ(texts_together(512, 5), 5u);
  EXPECT_EQ(texts_together(4096, 100), 4u);
  EXPECT_EQ(texts_together(16385, 100), 1u);
  EXPECT_EQ(texts_together(1, 0), 1u);
}

/// With a model that copies what followed the same text before (integration/copying_model.h).
TEST(Retrieval, CountsWhatSessionsAnswer) {
  const integration::TemporaryFile file("kvant_copying.gguf", integration::copying_model());
  engine::Engine engine = open(file.path());
  RetrievalOptions options;
  options.context = 300;
  options.depths = {0.1, 0.8};
  options.keys = {1, 3};
  options.trials = 5;
  options.question = "The code of the {key} is";
  options.caches = parse_cache_list("f16,lm1,anchor=none/lm1");
  const Haystack haystack(engine.tokenizer(), prose(), "recall.txt");
  std::size_t last = 0;
  options.progress = [&](std::size_t done, std::size_t total, std::string_view) {
    EXPECT_GE(done, last);
    EXPECT_EQ(total, 2u * 2 * 2 * 5 * 300);
    last = done;
  };
  const auto results = retrieve(engine, haystack, options);
  EXPECT_LE(last, 2u * 2 * 2 * 5 * 300);
  ASSERT_EQ(results.size(), 2u);
  const std::regex number("\\d(?: ?\\d)*");
  for (const RetrievalResult& result : results) {
    ASSERT_EQ(result.cells.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      const RetrievalCell& cell = result.cells[i];
      EXPECT_EQ(cell.keys, options.keys[i / 2]);
      EXPECT_EQ(cell.depth, options.depths[i % 2]);
      EXPECT_EQ(cell.trials, 5u);
      std::size_t found = 0;
      for (std::size_t t = 0; t < 5; ++t) {
        const RetrievalTrial trial = make_trial(haystack, options, cell.keys, cell.depth, t);
        const std::string answer = engine.tokenizer().decode(continued(engine, trial.prompt, result.cache, 24));
        std::smatch match;
        const bool has = std::regex_search(answer, match, number);
        found += has && std::regex_replace(match.str(), std::regex(" "), "") == trial.values[0] ? 1 : 0;
      }
      EXPECT_EQ(cell.found, found) << to_string(result.cache) << ", cell " << i;
      EXPECT_EQ(cell.range.low, wilson(found, 5).low);
      EXPECT_EQ(cell.range.high, wilson(found, 5).high);
    }
  }
  EXPECT_EQ(results[0].cells[0].found + results[0].cells[1].found, 10u) << "the only code can be found";
  EXPECT_LT(results[1].cells[0].found + results[1].cells[1].found, 5u) << "one bit of keys with a huge constant";
}

TEST_F(GenerationTest, AgreementIsThatOfSessions) {
  AgreementOptions options;
  options.tokens = 24;
  options.caches = parse_cache_list("f16,q4_0/q4_0");
  const std::string text = prose();
  for (std::size_t i = 0; i < 5; ++i)
    options.prompts.push_back(engine_.tokenizer().encode(text.substr(200 * i, 60 + 20 * i)));
  const Agreement result = agreement(engine_, options);
  ASSERT_EQ(result.caches.size(), 2u);
  EXPECT_EQ(result.context, 512u);
  const cache::CacheUsage usage = engine_.make_cache(options.caches[1].k, options.caches[1].v, 512).usage();
  EXPECT_EQ(result.caches[1].usage.k_bpv, usage.k_bpv);
  EXPECT_EQ(result.caches[1].usage.bytes(), usage.bytes());
  for (const AgreementResult& row : result.caches) {
    double lengths = 0, squares = 0, same = 0;
    std::vector<double> all;
    for (std::size_t i = 0; i < 5; ++i) {
      const auto reference = continued(options.prompts[i], {}, 24),
                 other = continued(options.prompts[i], row.cache, 24);
      EXPECT_EQ(result.reference[i], reference);
      EXPECT_EQ(row.continuations[i].tokens, other);
      ASSERT_EQ(reference.size(), 24u);
      ASSERT_EQ(other.size(), 24u);
      double length = 0, places = 0;
      for (std::size_t t = 0; t < 24; ++t) {
        if (length == static_cast<double>(t) && reference[t] == other[t]) length += 1;
        places += reference[t] == other[t] ? 1 : 0;
      }
      lengths += length;
      squares += length * length;
      same += places / 24;
      all.push_back(length);
    }
    std::sort(all.begin(), all.end());
    EXPECT_NEAR(row.length.mean, lengths / 5, 1e-12);
    EXPECT_NEAR(row.length.se, std::sqrt((squares / 5 - lengths * lengths / 25) / 4), 1e-6);
    EXPECT_EQ(row.length_median, all[2]);
    EXPECT_NEAR(row.same.mean, same / 5, 1e-12);
    EXPECT_EQ(row.identical, static_cast<double>(std::count(all.begin(), all.end(), 24)) / 5);
    EXPECT_EQ(row.script_errors.mean, 0);
  }
  EXPECT_EQ(result.caches[0].identical, 1);
  EXPECT_LT(result.caches[1].length.mean, 20);
}

TEST_F(GenerationTest, AgreementRefusesNothing) {
  EXPECT_THROW(agreement(engine_, {.caches = parse_cache_list("q8_0")}), Error);
  EXPECT_THROW(agreement(engine_, {.prompts = {{}}, .caches = parse_cache_list("q8_0")}), Error);
  EXPECT_THROW(agreement(engine_, {.prompts = {{5}}, .tokens = 0, .caches = parse_cache_list("q8_0")}), Error);
}

}  // namespace
}  // namespace kvant::eval
