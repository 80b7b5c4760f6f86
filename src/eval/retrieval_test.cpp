#include "eval/retrieval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "eval/test_bytes.h"

namespace kvant::eval {
namespace {

using testing_data::byte_tokenizer;

bool found(std::string_view answer, const std::vector<std::string>& values) { return is_found(answer, values); }

TEST(IsFound, OneValue) {
  EXPECT_TRUE(found(" 8 0 4 0.", {"8040"}));
  EXPECT_TRUE(found("8040", {"8040"}));
  EXPECT_TRUE(found("The code is 8 0 4 0, as I said. 1 2 3 4.", {"8040"}));
  EXPECT_TRUE(found(" 0 0 0 7 ", {"0007"}));
  EXPECT_FALSE(found(" 8 0 4 1.", {"8040"}));
  EXPECT_FALSE(found(" 8 0 4.", {"8040"}));
  EXPECT_FALSE(found(" 8 0 4 0 0.", {"8040"}));
  EXPECT_FALSE(found(" 18040.", {"8040"}));
  EXPECT_FALSE(found(" 1 2 3 4. 8 0 4 0.", {"8040"})) << "only the first number counts";
  EXPECT_FALSE(found(" 8 0  4 0.", {"8040"})) << "two numbers";
  EXPECT_FALSE(found("", {"8040"}));
  EXPECT_FALSE(found("none", {"8040"}));
}

TEST(IsFound, SeveralValuesInAnyOrder) {
  EXPECT_TRUE(found(" 1 2 3 4, 8 0 4 0.", {"8040", "1234"}));
  EXPECT_TRUE(found(" 8 0 4 0 and 1 2 3 4. 5 5 5 5", {"8040", "1234"}));
  EXPECT_FALSE(found(" 8 0 4 0.", {"8040", "1234"}));
  EXPECT_FALSE(found(" 8 0 4 0, 8 0 4 0.", {"8040", "1234"}));
  EXPECT_FALSE(found(" 8 0 4 0, 5 5 5 5, 1 2 3 4.", {"8040", "1234"}));
}

std::string text_of_lines(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += "Nothing happens here. ";
  return text;
}

struct Fixture {
  tokenizer::Tokenizer tokenizer = byte_tokenizer();
  Haystack haystack{tokenizer, text_of_lines(200), "text"};
  RetrievalOptions options{.context = 1000};

  std::string prompt(const RetrievalTrial& trial) const { return tokenizer.decode(trial.prompt); }
};

TEST(MakeTrial, HidesKeysWithValuesAndAsksForTheOneAtTheDepth) {
  const Fixture f;
  for (std::size_t number = 0; number < 20; ++number) {
    const RetrievalTrial trial = make_trial(f.haystack, f.options, 4, 0.5, number);
    EXPECT_EQ(trial.prompt.size(), 1000 - RetrievalOptions::kAnswerTokens);
    const std::string prompt = f.prompt(trial);
    std::map<std::string, std::string> codes;
    for (std::size_t at = prompt.find("The code of the "); at != prompt.npos;
         at = prompt.find("The code of the ", at + 1)) {
      const std::size_t key = at + 16, is = prompt.find(" is ", key);
      ASSERT_EQ(prompt.substr(is + 4 + 7, 1), ".");
      codes[prompt.substr(key, is - key)] = prompt.substr(is + 4, 7);
    }
    EXPECT_EQ(codes.size(), 4u);
    ASSERT_EQ(trial.values.size(), 1u);
    const std::string& v = trial.values[0];
    ASSERT_EQ(v.size(), 4u);
    const std::string spelled{v[0], ' ', v[1], ' ', v[2], ' ', v[3]};
    const std::size_t question = prompt.find("Question: what is the code of the ");
    const std::string asked = prompt.substr(question + 34, prompt.find('?', question) - question - 34);
    EXPECT_TRUE(prompt.ends_with(asked + "? Answer:"));
    EXPECT_EQ(codes[asked], spelled);
    std::set<std::string> values;
    for (const auto& [key, value] : codes) values.insert(value);
    EXPECT_EQ(values.size(), 4u);
    // In the middle, up to the length of a sentence and of the needles before it.
    EXPECT_NEAR(static_cast<double>(prompt.find(asked + " is")), 0.5 * static_cast<double>(question), 120);
  }
}

TEST(MakeTrial, HidesSeveralValuesOfAKey) {
  Fixture f;
  f.options.values = 3;
  const RetrievalTrial trial = make_trial(f.haystack, f.options, 2, 0, 0);
  const std::string prompt = f.prompt(trial);
  EXPECT_EQ(trial.values.size(), 3u);
  EXPECT_THAT(prompt, testing::HasSubstr("Question: what are the 3 codes of the "));
  for (const std::string& v : trial.values) {
    EXPECT_THAT(prompt, testing::HasSubstr(fmt::format(" is {}.", fmt::join(v, " "))));
  }
}

TEST(MakeTrial, IsTheSameAgainAndDependsOnAllThatNamesIt) {
  const Fixture f;
  const auto prompt = [&](std::uint64_t seed, std::size_t context, std::size_t keys, double depth, std::size_t number) {
    RetrievalOptions options = f.options;
    options.seed = seed;
    options.context = context;
    options.depths = {0.1, 0.9};  // do not matter
    options.keys = {7};
    return f.prompt(make_trial(f.haystack, options, keys, depth, number));
  };
  EXPECT_EQ(prompt(1, 1000, 2, 0.5, 3), f.prompt(make_trial(f.haystack, f.options, 2, 0.5, 3)));
  const std::set<std::string> different = {prompt(1, 1000, 2, 0.5, 3), prompt(2, 1000, 2, 0.5, 3),
                                           prompt(1, 1001, 2, 0.5, 3), prompt(1, 1000, 3, 0.5, 3),
                                           prompt(1, 1000, 2, 0.6, 3), prompt(1, 1000, 2, 0.5, 4)};
  EXPECT_EQ(different.size(), 6u);
}

TEST(MakeTrial, FillsTemplates) {
  Fixture f;
  f.options.needle = "{key}={value};{key}";
  f.options.question = "{count}x{key}:";
  const RetrievalTrial trial = make_trial(f.haystack, f.options, 1, 1, 0);
  const std::string prompt = f.prompt(trial), value = fmt::format("{}", fmt::join(trial.values[0], " "));
  const std::size_t at = prompt.find('=');
  const std::string key = prompt.substr(prompt.rfind(';') + 1, prompt.rfind(" 1x") - prompt.rfind(';') - 1);
  EXPECT_THAT(prompt, testing::HasSubstr(" " + key + "=" + value + ";" + key + " 1x" + key + ":")) << at;
}

TEST(CheckRetrieval, NamesWhatIsWrong) {
  const auto message = [](auto&& change) {
    Fixture f;
    change(f.options);
    try {
      check_retrieval(f.haystack, f.options);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  using Options = RetrievalOptions;
  EXPECT_EQ(message([](Options&) {}), "accepted");
  EXPECT_EQ(message([](Options& o) { o.depths = {0, 1.5}; }), "depth is 1.5, expected 0 to 1");
  EXPECT_EQ(message([](Options& o) { o.depths = {std::numeric_limits<double>::quiet_NaN()}; }),
            "depth is nan, expected 0 to 1");
  EXPECT_EQ(message([](Options& o) { o.keys = {0}; }), "keys is 0, expected 1 to 240");
  EXPECT_EQ(message([](Options& o) { o.keys = {241}; }), "keys is 241, expected 1 to 240");
  EXPECT_EQ(message([](Options& o) { o.values = 0; }), "values is 0, expected 1 to 16");
  EXPECT_EQ(message([](Options& o) { o.trials = 0; }), "trials is 0, expected 1 to 1048576");
  EXPECT_EQ(message([](Options& o) { o.needle = "{value}"; }), "needle \"{value}\": {key} is missing");
  EXPECT_EQ(message([](Options& o) { o.needle = "{key}"; }), "needle \"{key}\": {value} is missing");
  EXPECT_EQ(message([](Options& o) { o.question = "what?"; }), "question \"what?\": {key} is missing");
  EXPECT_EQ(message([](Options& o) { o.context = 24; }), "a context of 24 tokens has no room for an answer of 24");
  EXPECT_THAT(message([](Options& o) {
                o.keys = {1, 100};
              }),
              testing::StartsWith("text: a prompt of 976 tokens has no room"));
  EXPECT_THAT(message([](Options& o) { o.context = 100000; }), testing::StartsWith("text: has 4400 tokens, "));
}

}  // namespace
}  // namespace kvant::eval
