/// kvant sweep: a grid into a database, resumed, shared, and what it refuses.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/file_io.h"
#include "command.h"
#include "rows.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const char* const kCaches = R"("caches": ["q8_0", "lm3/lm3"], "chunks": 2)";

class SweepCommand : public testing::Test {
 protected:
  /// A grid over the model of the repository; its path.
  std::string grid(const std::string& contexts = "[32, 48]", const std::string& more = kCaches) const {
    return folder_.write("grid.json", fmt::format(R"({{"models": ["{}"], "texts": ["{}"], "contexts": {}, {}}})",
                                                  kModel, kText, contexts, more));
  }
  Result sweep(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"sweep", "--db", database_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return cli::run(arguments);
  }
  /// The JSON of a run that ends well.
  json document(std::vector<std::string> more) const {
    more.emplace_back("--json");
    return cli::document(sweep(more));
  }
  Folder folder_;
  std::string database_ = folder_.path("results.sqlite");
};

TEST_F(SweepCommand, Help) {
  const Result result = cli::run({"sweep", "--help"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("Example: kvant sweep --grid grid.json --db results.sqlite"));
}

TEST_F(SweepCommand, MeasuresWhatIsOpen) {
  const json first = document({"--grid", grid("[32]")});
  EXPECT_EQ(first["cells"], 2);
  EXPECT_EQ(first["measured"], 2);
  EXPECT_EQ(first["open"], 0);
  EXPECT_THAT(first["failures"], IsEmpty());

  const Result listed = sweep({"--grid", grid(), "--dry-run"});
  EXPECT_EQ(listed.status, 0);
  EXPECT_THAT(listed.out, HasSubstr("\n4 cells: 2 done, 2 open\n"));
  const json list = document({"--grid", grid(), "--dry-run"});
  ASSERT_EQ(list["list"].size(), 4u);
  for (const json& cell : list["list"]) EXPECT_EQ(cell["done"], cell["context"] == 32) << cell;

  const json second = document({"--grid", grid()});
  EXPECT_EQ(second["done_before"], 2);
  EXPECT_EQ(second["measured"], 2);
  EXPECT_EQ(second["done"], 4);
  EXPECT_EQ(query(database_, "SELECT count(*) FROM cell"), std::vector<std::string>{"4"});
  const Result third = sweep({"--grid", grid()});
  EXPECT_THAT(third.out, StartsWith(database_ + ": 4 cells, 4 done before, 0 measured in 0:0"));
}

TEST_F(SweepCommand, DryRunsLeaveNothing) {
  EXPECT_EQ(document({"--grid", grid(), "--dry-run"})["open"], 4);
  EXPECT_FALSE(std::filesystem::exists(database_));
}

TEST_F(SweepCommand, ModelAndTextMayComeFromTheCommandLine) {
  const std::string path = folder_.write("grid.json", fmt::format(R"({{"contexts": [32], {}}})", kCaches));
  EXPECT_EQ(document({"--grid", path, "-m", kModel, "-f", kText})["measured"], 2);
}

TEST_F(SweepCommand, CommandsOfRowsGiveTheirFigures) {
  document({"--grid", grid("[32]", R"("caches": ["lm3/lm3"], "chunks": 3, "kinds": ["decode"], "reference": "f32")")});
  const auto rows = query(database_, "SELECT command FROM cell");
  ASSERT_EQ(rows.size(), 1u);
  std::vector<std::string> words;
  std::istringstream line(rows.front() + " --json");
  for (std::string word; line >> word;) words.push_back(word);
  ASSERT_EQ(words.front(), "kvant");
  words.erase(words.begin());
  const Result result = cli::run(words);
  ASSERT_EQ(result.status, 0) << result.err;
  const json row = json::parse(result.out)["results"][0];
  for (const char* name : {"kld_mean", "kld_p99", "ppl_ratio_hi", "top1", "perplexity"}) {
    EXPECT_EQ(query(database_, fmt::format("SELECT value = {:.17g} FROM metric WHERE scope = 'all' AND name = '{}'",
                                           row[name].get<double>(), name)),
              std::vector<std::string>{"1"})
        << name;
  }
}

TEST_F(SweepCommand, ProcessesShareADatabase) {
  const std::string path =
      grid("[16, 24, 32, 40]", R"("caches": ["q8_0", "q4_0", "lm4", "lm3"], "together": 1, "chunks": 1)");
  Result results[3];
  std::vector<std::thread> threads;
  for (Result& result : results) {
    threads.emplace_back([&, this] { result = sweep({"--grid", path, "-t", "1", "--json"}); });
  }
  for (std::thread& thread : threads) thread.join();
  std::size_t measured = 0;
  for (const Result& result : results) {
    ASSERT_EQ(result.status, 0) << result.err;
    const json summary = json::parse(result.out);
    EXPECT_EQ(summary["done"], 16);  // each waits for the others
    measured += summary["measured"].get<std::size_t>();
  }
  EXPECT_EQ(measured, 16u);
  EXPECT_EQ(query(database_, "SELECT count(*) FROM cell"), std::vector<std::string>{"16"});
}

TEST_F(SweepCommand, StopsWhenAsked) {
  const std::string path = grid("[512]", R"("caches": ["q8_0", "lm4"])");
  TerminalRun run({"sweep", "--grid", path, "--db", database_});
  ASSERT_TRUE(run.wait_for("sweep ["));
  run.type("\x03");
  ASSERT_TRUE(run.wait_for("finishing what is being measured"));
  run.type("\x03");
  EXPECT_EQ(run.wait(), 1);
  EXPECT_THAT(run.output(), HasSubstr("stopped with 0 of 2 cells done; the same command goes on"));
  EXPECT_THAT(query(database_, "SELECT * FROM claim"), IsEmpty());
}

TEST_F(SweepCommand, Usage) {
  EXPECT_EQ(cli::run({"sweep", "--db", database_}).status, 2);
  EXPECT_EQ(cli::run({"sweep", "--grid", grid()}).status, 2);
}

TEST_F(SweepCommand, ErrorsNameWhatIsWrong) {
  const auto expect_error = [&](const std::vector<std::string>& arguments, const std::string& text) {
    const Result result = sweep(arguments);
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err, StartsWith("kvant: error: " + text));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect_error({"--grid", folder_.path("none.json")}, folder_.path("none.json") + ": ");
  const std::string broken = folder_.write("broken.json", "{\"models\": ");
  expect_error({"--grid", broken}, broken + ": no valid JSON at line 1, column 12");
  const std::string missing = folder_.write("missing.json", R"({"models": ["none.gguf"]})");
  expect_error({"--grid", missing}, missing + ": models[0]: " + folder_.path("none.gguf") + ": no such file");
  const std::string text = grid("[32]", kCaches);
  expect_error({"--grid", text, "-m", kText}, std::string(kText) + ": not a GGUF file");
  expect_error({"--grid", grid("[1000000]")},
               "2 cells failed: " + std::string(kText) + ", context 1000000: the text has ");

  database_ = folder_.path("nowhere/db");
  expect_error({"--grid", grid()}, database_ + ": unable to open database file");
  database_ = folder_.write("notes.txt", std::string(5000, 'x'));
  expect_error({"--grid", grid()}, database_ + ": file is not a database");
  database_ = folder_.path("later.sqlite");
  ASSERT_EQ(sweep({"--grid", grid("[32]")}).status, 0);
  query(database_, "PRAGMA user_version = 7");
  expect_error({"--grid", grid()}, database_ + ": version 7 of the tables, expected 1");
}

}  // namespace
}  // namespace kvant::cli
