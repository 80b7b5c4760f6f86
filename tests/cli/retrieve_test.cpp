/// kvant retrieve and kvant agree: what they print and what they refuse.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

Result retrieve(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"retrieve", "-m", kModel, "-f", kText, "--trials", "3"};
  if (std::find(more.begin(), more.end(), "-c") == more.end()) arguments.insert(arguments.end(), {"-c", "128"});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

Result agree(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"agree", "-m", kModel, "-n", "12"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

TEST(Retrieve, Help) {
  const Result result = run({"retrieve", "--help"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("Example: kvant retrieve -m model.gguf"));
  EXPECT_THAT(result.out, HasSubstr("The code of the {key} is {value}."));
}

TEST(Retrieve, Json) {
  const std::vector<std::string> arguments = {"-c",      "96,128",        "--depths", "0,100", "--keys", "1,2",
                                              "--cache", "q8_0,f16/q8_0", "--seed",   "5",     "--json"};
  const json d = document(retrieve(arguments));
  EXPECT_EQ(document(retrieve(arguments)), d) << "the seed decides";
  EXPECT_EQ(d["seed"], 5);
  EXPECT_EQ(d["values"], 1);
  EXPECT_EQ(d["question"], "Question: what is the code of the {key}? Answer:");
  ASSERT_EQ(d["results"].size(), 4u);
  const json& row = d["results"][3];
  EXPECT_EQ(row["k"], "f16");
  EXPECT_EQ(row["v"], "q8_0");
  EXPECT_EQ(row["context"], 128);
  EXPECT_TRUE(row["plan"].is_null());
  EXPECT_EQ(row["k_bpv"], 16);
  EXPECT_GT(row["cache_bytes"], 0);
  ASSERT_EQ(row["cells"].size(), 4u);
  std::vector<json> places;
  for (const json& cell : row["cells"]) {
    places.push_back({cell["keys"], cell["depth"], cell["trials"]});
    EXPECT_LE(cell["low"], cell["found"].get<double>() / 3);
    EXPECT_GE(cell["high"], cell["found"].get<double>() / 3);
  }
  EXPECT_EQ(json(places), json({{1, 0, 3}, {1, 1, 3}, {2, 0, 3}, {2, 1, 3}}));
}

TEST(Retrieve, TableAndMarkdownHaveTheFiguresOfTheJson) {
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--depths", "12.5,50", "--cache", "q4_0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return retrieve(arguments).out;
  };
  const json cells = json::parse(with({"--json"}))["results"][0]["cells"];
  const auto share = [](const json& cell) {
    return fmt::format("{}/3 [{:.0f}, {:.0f}]", cell["found"].get<int>(), 100 * cell["low"].get<double>(),
                       100 * cell["high"].get<double>());
  };
  const std::string table = with({}), markdown = with({"--markdown"});
  EXPECT_THAT(table, StartsWith("context 128, 1 key of 1 value, found at each depth [95 %]\n\n"));
  EXPECT_THAT(table, HasSubstr("12.5 %"));
  EXPECT_THAT(markdown, HasSubstr("| K | V | K bpv | V bpv | 12.5 % | 50 % | all |"));
  EXPECT_THAT(markdown, HasSubstr("| " + share(cells[0]) + " | " + share(cells[1]) + " | "));
  EXPECT_THAT(table, HasSubstr(share(cells[1])));
  EXPECT_THAT(table, HasSubstr(fmt::format("{}/6 [", cells[0]["found"].get<int>() + cells[1]["found"].get<int>())));
}

TEST(Retrieve, TemplatesAreTheUsers) {
  const json d = document(
      retrieve({"--cache", "q8_0", "--needle", "{key}: {value}", "--question", "{key}:", "--values", "2", "--json"}));
  EXPECT_EQ(d["needle"], "{key}: {value}");
  EXPECT_EQ(d["question"], "{key}:");
}

TEST(Retrieve, DataErrors) {
  expect_error(retrieve({"--cache", "q9_9"}), 1, {"--cache: cache type 'q9_9': unknown"});
  expect_error(retrieve({"--cache", "q8_0", "-c", "128,9999999"}), 1, {"recall.txt: has "});
  expect_error(retrieve({"--cache", "q8_0", "--keys", "1,20"}), 1,
               {"recall.txt: a prompt of 104 tokens has no room for it"});
  expect_error(retrieve({"--cache", "q8_0", "--needle", "no value of {key}"}), 1,
               {"needle \"no value of {key}\": {value} is missing"});
  expect_error(retrieve({"--cache", "q8_0", "--question", "what?"}), 1, {"question \"what?\": {key} is missing"});
  expect_error(retrieve({"--cache", "q8_0", "--needle", "{key} {value} \xff"}), 1, {"not valid UTF-8"});
  const Folder folder;
  expect_error(run({"retrieve", "-m", kModel, "-f", folder.write("bad.txt", "a\xff"), "--cache", "q8_0"}), 1,
               {"bad.txt: byte 1 (0xff) is not valid UTF-8"});
}

TEST(Retrieve, UsageErrors) {
  expect_error(retrieve({}), 2, {"--cache or --plan is required"});
  expect_error(run({"retrieve", "-m", kModel, "--cache", "q8_0"}), 2, {"-f or -p is required"});
  expect_error(retrieve({"--cache", "q8_0", "--depths", "101"}), 2, {"--depths"});
  expect_error(retrieve({"--cache", "q8_0", "--keys", "0"}), 2, {"--keys"});
  expect_error(retrieve({"--cache", "q8_0", "--trials", "x"}), 2, {"--trials"});
}

TEST(Agree, Json) {
  const Folder folder;
  const std::string prompts = folder.write("prompts.txt", "The king gave\n\nThe old road\nA light rain\n");
  const json d = document(agree({"-f", prompts, "--cache", "f16,q4_0/q4_0", "--json"}));
  EXPECT_EQ(d["prompts"], 3);
  EXPECT_EQ(d["reference"]["k"], "f16");
  ASSERT_EQ(d["reference"]["texts"].size(), 3u);
  ASSERT_EQ(d["results"].size(), 2u);
  const json &same = d["results"][0], &other = d["results"][1];
  EXPECT_EQ(same["agreement_length"], 12);
  EXPECT_EQ(same["agreement_length_se"], 0);
  EXPECT_EQ(same["identical"], 1);
  EXPECT_EQ(same["token_agreement"], 1);
  EXPECT_EQ(same["script_errors"], 0);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(same["prompts"][i]["text"], d["reference"]["texts"][i]);
  EXPECT_EQ(other["k"], "q4_0");
  // Not those of a page that some 30 tokens do not fill.
  EXPECT_EQ(other["context"], 512);
  EXPECT_EQ(other["k_bpv"], 4.5);
  EXPECT_EQ(other["v_bpv"], 4.5);
  ASSERT_EQ(other["prompts"].size(), 3u);
  double sum = 0;
  for (const json& prompt : other["prompts"]) sum += prompt["agreement_length"].get<double>();
  EXPECT_NEAR(other["agreement_length"].get<double>(), sum / 3, 1e-9);
  EXPECT_LT(other["agreement_length"], 12);
  EXPECT_LE(other["agreement_length_median"], 12);
  EXPECT_LE(other["identical_lo"], other["identical"]);
}

TEST(Agree, CachesAreNoLongerThanAWindowOfTheModel) {
  const Folder folder;
  Changes changes;
  changes.metadata = [](gguf::Writer& w) { w.set("qwen2.attention.sliding_window", std::uint32_t{64}); };
  const std::string model = write_model(folder, changes);
  const json d = document(run({"agree", "-m", model, "-p", "The king", "-n", "12", "--cache", "f16", "--json"}));
  EXPECT_EQ(d["results"][0]["context"], 64);
}

TEST(Agree, TableAndMarkdown) {
  const Result table = agree({"-p", "one line\n---\nanother\nof two", "--cache", "f16"});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, StartsWith("2 prompts, up to 12 tokens each, against f16\n\n"));
  EXPECT_THAT(table.out, HasSubstr("12.0 +- 0"));
  const Result markdown = agree({"-p", "one line", "--cache", "f16", "--markdown"});
  EXPECT_THAT(markdown.out, StartsWith("1 prompt, up to 12 tokens each, against f16\n\n"));
  EXPECT_THAT(markdown.out, HasSubstr(" | 12.0 +- 0 | 12.0 | 100 [21, 100] | 100.00 +- 0 | 0.00 +- 0 |"));
}

TEST(Agree, Errors) {
  const Folder folder;
  expect_error(agree({"-f", folder.write("empty.txt", "\n \n"), "--cache", "q8_0"}), 1, {"empty.txt: holds no prompt"});
  expect_error(agree({"-f", folder.write("none.txt", ""), "--cache", "q8_0"}), 1, {"none.txt: the text is empty"});
  expect_error(agree({"-f", folder.write("bad.txt", "a\n\xff"), "--cache", "q8_0"}), 1,
               {"bad.txt: byte 2 (0xff) is not valid UTF-8"});
  expect_error(agree({"-f", folder.path("missing.txt"), "--cache", "q8_0"}), 1, {"missing.txt"});
  expect_error(agree({"-p", "text", "--cache", "q8_9"}), 1, {"--cache: cache type 'q8_9': unknown"});
  expect_error(agree({"-p", "text"}), 2, {"--cache or --plan is required"});
  expect_error(agree({"--cache", "q8_0"}), 2, {"-f or -p is required"});
  expect_error(agree({"-p", "text", "--cache", "q8_0", "-n", "0"}), 2, {"--tokens"});
}

}  // namespace
}  // namespace kvant::cli
