/// kvant eval: what it prints and what it refuses.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"
#include "rows.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

Result eval(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"eval", "-m", kModel, "-f", kText, "--chunks", "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

TEST(Eval, Help) {
  const Result result = run({"eval", "--help"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("Example: kvant eval -m model.gguf"));
}

TEST(Eval, Json) {
  const json d = document(eval({"-c", "64,128", "--cache", "q8_0,q4_0/q8_0", "f16", "--json", "--noise-floor"}));
  EXPECT_EQ(d["reference"]["k"], "f16");
  EXPECT_EQ(d["reference"]["contexts"].size(), 2u);
  ASSERT_EQ(d["results"].size(), 6u);
  const char* const keys[] = {"k",
                              "v",
                              "plan",
                              "context",
                              "tokens",
                              "kld_mean",
                              "kld_se",
                              "kld_median",
                              "kld_p90",
                              "kld_p95",
                              "kld_p99",
                              "kld_p999",
                              "kld_max",
                              "top1",
                              "rms_probability",
                              "ppl_ratio",
                              "ppl_ratio_lo",
                              "ppl_ratio_hi",
                              "k_bpv",
                              "v_bpv",
                              "cache_bytes",
                              "last_quarter",
                              "positions"};
  for (const json& row : d["results"]) {
    for (const char* key : keys) EXPECT_TRUE(row.contains(key)) << key;
    EXPECT_TRUE(row["plan"].is_null());
    EXPECT_TRUE(row["last_quarter"].contains("kld_mean"));
    EXPECT_TRUE(row["last_quarter"].contains("ppl_ratio"));
    EXPECT_LE(row["kld_median"], row["kld_p90"]);
    EXPECT_LE(row["kld_p999"], row["kld_max"]);
    EXPECT_LE(row["ppl_ratio_lo"], row["ppl_ratio_hi"]);
  }
  const auto field = [&](const char* key) {
    std::vector<json> values;
    for (const json& row : d["results"]) values.push_back(row[key]);
    return json(values);
  };
  EXPECT_EQ(field("context"), json({64, 64, 64, 128, 128, 128}));
  EXPECT_EQ(field("k"), json({"q8_0", "q4_0", "f16", "q8_0", "q4_0", "f16"}));
  EXPECT_EQ(field("v"), json({"f16", "q8_0", "f16", "f16", "q8_0", "f16"}));
  EXPECT_EQ(field("tokens"), json({62, 62, 62, 126, 126, 126}));
  EXPECT_EQ(d["results"][2]["kld_max"], 0);
  EXPECT_GT(d["results"][1]["kld_mean"], d["results"][0]["kld_mean"]);
  ASSERT_EQ(d["noise_floor"].size(), 2u);
  EXPECT_EQ(d["noise_floor"][0]["kld_max"], 0);
}

TEST(Eval, TableAndMarkdownHaveTheFiguresOfTheJson) {
  const std::vector<std::string> arguments = {"-c", "64", "--cache", "q4_0", "--reference", "f32"};
  const auto with = [&](const char* flag) {
    std::vector<std::string> more = arguments;
    more.push_back(flag);
    return eval(more);
  };
  const json row = document(with("--json"))["results"][0];
  const std::string mean = fmt::format("{:.3g} +- {:.2g}", row["kld_mean"].get<double>(), row["kld_se"].get<double>());
  const Result table = eval(arguments), markdown = with("--markdown");
  EXPECT_THAT(table.out, StartsWith("context 64, 2 chunks, 62 tokens: reference f32 has perplexity "));
  EXPECT_THAT(table.out, HasSubstr("\nq4_0  f16 "));
  EXPECT_THAT(table.out, HasSubstr(mean));
  EXPECT_THAT(markdown.out, HasSubstr("| K | V | K bpv |"));
  EXPECT_THAT(markdown.out, HasSubstr("|---|---|---:|"));
  EXPECT_THAT(markdown.out, HasSubstr("| q4_0 | f16 |"));
  EXPECT_THAT(markdown.out, HasSubstr("| " + mean + " |"));
}

TEST(Eval, WritesAFile) {
  const Folder folder;
  const std::string path = folder.path("result.json");
  const Result result = eval({"-c", "64", "--cache", "q8_0", "--json", "-o", path});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(json::parse(read_text(path))["results"].size(), 1u);
}

/// A database of eval, and one of a sweep over the same, hold the same and can stand in for each other.
class EvalDatabase : public testing::Test {
 protected:
  json sweep(const std::string& database, const std::string& caches, const std::string& more) const {
    const std::string grid = folder_.write(
        "grid.json", fmt::format(R"({{"models": ["{}"], "texts": ["{}"], "contexts": [32, 48], "chunks": 2, {}, {}}})",
                                 kModel, kText, caches, more));
    return document(run({"sweep", "--grid", grid, "--db", database, "--json"}));
  }
  const Folder folder_;
  const std::string database_ = folder_.path("results.sqlite"), other_ = folder_.path("other.sqlite");
};

TEST_F(EvalDatabase, IsThatOfASweep) {
  const Result result = eval({"-c", "32,48", "--cache", "q8_0", "lm3/lm3", "--db", database_});
  ASSERT_EQ(result.status, 0) << result.err;
  const char *const caches = R"("caches": ["q8_0", "lm3/lm3"])", *const kinds = R"("kinds": ["compare"])";
  EXPECT_EQ(sweep(database_, caches, kinds)["measured"], 0);
  EXPECT_EQ(sweep(other_, caches, kinds)["measured"], 4);
  EXPECT_EQ(all_rows(database_), all_rows(other_));
  // What is there stays as it is, the rest is added.
  const std::vector<std::string> before = query(other_, "SELECT id, finished, seconds FROM cell ORDER BY id");
  ASSERT_EQ(eval({"-c", "32", "--cache", "lm3/lm3", "q4_0", "--db", other_}).status, 0);
  EXPECT_EQ(query(other_, "SELECT id, finished, seconds FROM cell WHERE k <> 'q4_0' ORDER BY id"), before);
  EXPECT_EQ(query(other_, "SELECT k, v, context FROM cell WHERE k = 'q4_0'"), std::vector<std::string>{"q4_0|f16|32"});
}

TEST_F(EvalDatabase, HasPlansAndSettings) {
  const std::string plan = folder_.path("plan.gguf");
  const Result made = run(
      {"calibrate", "-m", kModel, "-f", kText, "-n", "512", "-c", "256", "-o", plan, "--tiers", "all=flex:0:6:0:0:0"});
  ASSERT_EQ(made.status, 0) << made.err;
  const std::string mean = "lm4,anchor=mean,plan=" + plan;
  const Result result = eval({"-c", "32,48", "--cache", mean, "--plan", plan, "--decode", "--reference", "f32",
                              "--precision", "fast", "--db", database_});
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string caches = fmt::format(R"("caches": ["{}", "plan:{}"])", mean, plan);
  const char* const more = R"("kinds": ["decode"], "reference": "f32", "precision": "fast")";
  EXPECT_EQ(sweep(database_, caches, more)["measured"], 0);
  EXPECT_EQ(sweep(other_, caches, more)["measured"], 4);
  EXPECT_EQ(all_rows(database_), all_rows(other_));
}

TEST_F(EvalDatabase, Errors) {
  const std::string notes = folder_.write("notes.txt", std::string(5000, 'x'));
  expect_error(eval({"--cache", "q8_0", "--db", notes}), 1, {notes + ": file is not a database"});
  expect_error(eval({"--cache", "q8_0", "--db", folder_.path("nowhere/db")}), 1, {"unable to open database file"});
  expect_error(run({"eval", "-m", kModel, "-p", "text", "--cache", "q8_0", "--db", database_}), 2,
               {"--db needs a text file (-f)"});
  expect_error(eval({"--db", database_, "--save-logits", folder_.path("logits")}), 2, {"--db keeps caches"});
  expect_error(eval({"--cache", "q4_0", "--db", database_, "--save-logits", "x", "--reference", "q8_0"}), 2,
               {"f16 or f32 with --db"});
  expect_error(eval({"--cache", "q8_0", "--db", database_, "--logits", "x"}), 2, {"--logits"});
}

TEST(Eval, DataErrors) {
  expect_error(eval({"--cache", "q9_9"}), 1, {"--cache: cache type 'q9_9': unknown, expected one of f32 f16"});
  expect_error(eval({"--cache", "q8_0/q9_9"}), 1, {"--cache: cache type 'q8_0/q9_9': unknown"});
  expect_error(eval({"--cache", "q8_0,sinks=x"}), 1, {"--cache: cache type 'q8_0,sinks=x': sinks=x"});
  expect_error(run({"eval", "-m", kModel, "-p", "Too short", "--cache", "q8_0", "-c", "8,64"}), 1,
               {"-p: 3 tokens, less than one window of 64 (-c)"});
}

TEST(Eval, UsageErrors) {
  expect_error(eval({}), 2, {"--cache"});
  expect_error(run({"eval", "-m", kModel, "--cache", "q8_0"}), 2, {"-f or -p is required"});
  expect_error(eval({"--cache", "q8_0", "--reference", "q8_0"}), 2, {"--reference"});
  expect_error(eval({"--cache", "q8_0", "--json", "--markdown"}), 2, {"--json"});
  expect_error(eval({"--cache", "q8_0", "-c", "2"}), 2, {"-c"});
}

TEST(Eval, DecodesOneByOne) {
  const auto mean = [](const std::string& cache, bool decode) {
    std::vector<std::string> more = {"-c", "96", "--json", "--cache", cache};
    if (decode) more.emplace_back("--decode");
    const json d = document(eval(more));
    EXPECT_EQ(d["decode"], decode);
    return d["results"][0]["kld_mean"].get<double>();
  };
  // Codes are what later tokens see in either case, and sums do not depend on how rows come.
  EXPECT_EQ(mean("lm3/lm3", true), mean("lm3/lm3", false));
  EXPECT_GT(mean("lm3/lm3", true), 0);
  // Every query has the tokens before it in f16, however they come.
  EXPECT_EQ(mean("lm3,recent=32/lm3,recent=32", true), mean("lm3,recent=32/lm3,recent=32", false));
  EXPECT_LT(mean("lm3,recent=32/lm3,recent=32", true), 0.5 * mean("lm3/lm3", true));
}

TEST(Eval, WantsACache) {
  const Result result = run({"eval", "-m", kModel, "-p", "text"});
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, testing::HasSubstr("--cache or --plan is required"));
}

}  // namespace
}  // namespace kvant::cli
