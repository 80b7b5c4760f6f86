/// kvant eval: what it prints and what it refuses.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

const char* const kText = KVANT_SOURCE_DIR "/models/recall.txt";

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
  const Result result = eval({"-c", "64,128", "--cache", "q8_0,q4_0/q8_0", "f16", "--json", "--noise-floor"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json d = json::parse(result.out);
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
  const json row = json::parse(with("--json").out)["results"][0];
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

void expect_error(const Result& result, int status, const std::string& part) {
  EXPECT_EQ(result.status, status);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("kvant: error: "));
  EXPECT_THAT(result.err, HasSubstr(part));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST(Eval, DataErrors) {
  expect_error(eval({"--cache", "q9_9"}), 1, "--cache: cache type 'q9_9': unknown, expected one of f32 f16");
  expect_error(eval({"--cache", "q8_0/q9_9"}), 1, "--cache: cache type 'q8_0/q9_9': unknown");
  expect_error(eval({"--cache", "q8_0,sinks=x"}), 1, "--cache: cache type 'q8_0,sinks=x': sinks=x");
  expect_error(run({"eval", "-m", kModel, "-p", "Too short", "--cache", "q8_0", "-c", "8,64"}), 1,
               "-p: 3 tokens, less than one window of 64 (-c)");
}

TEST(Eval, UsageErrors) {
  expect_error(eval({}), 2, "--cache");
  expect_error(run({"eval", "-m", kModel, "--cache", "q8_0"}), 2, "-f or -p is required");
  expect_error(eval({"--cache", "q8_0", "--reference", "q8_0"}), 2, "--reference");
  expect_error(eval({"--cache", "q8_0", "--json", "--markdown"}), 2, "--json");
  expect_error(eval({"--cache", "q8_0", "-c", "2"}), 2, "-c");
}

TEST(Eval, DecodesOneByOne) {
  const auto mean = [](const std::string& cache, bool decode) {
    std::vector<std::string> all = {"eval",    "-m", kModel,     "-f", KVANT_SOURCE_DIR "/models/recall.txt",
                                    "-c",      "96", "--chunks", "1",  "--json",
                                    "--cache", cache};
    if (decode) all.push_back("--decode");
    const Result result = run(all);
    EXPECT_EQ(result.status, 0) << result.err;
    const json document = json::parse(result.out, nullptr, false);
    EXPECT_EQ(document["decode"], decode);
    return document["results"][0]["kld_mean"].get<double>();
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
