/// kvant report, run as a person runs it.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "base/file_io.h"
#include "command.h"
#include "sweep/database.h"

namespace kvant::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

/// A database as a sweep leaves it, with one cell, and its path.
std::string write_database(const Folder& folder) {
  sweep::ModelRow model;
  model.hash = "aa";
  model.file = "m.gguf";
  model.name = "Model of the test";
  model.layers = 2;
  sweep::CorpusRow corpus;
  corpus.hash = "bb";
  corpus.file = "t.txt";
  sweep::PlanHead head;
  head.side = "k";
  head.bits = 3.5;
  head.parts = "lm4";
  sweep::PlanRow plan;
  plan.hash = "cc";
  plan.heads = {head};
  sweep::ChannelRow channel;
  channel.layer = 1;
  channel.channel = 63;
  channel.mean = -170;
  sweep::RetrievalRow retrieval;
  retrieval.keys = 1;
  retrieval.trials = 3;
  retrieval.found = 2;
  sweep::CellRow cell;
  cell.model = model.hash;
  cell.corpus = corpus.hash;
  cell.k = "lm4";
  cell.v = "q8_0";
  cell.context = 512;
  cell.command = "kvant eval -m '</script>'";
  cell.metrics = {{"all", "kld_mean", 0.00123}};
  cell.retrieval = {retrieval};
  sweep::Findings findings;
  findings.models = {model};
  findings.corpora = {corpus};
  findings.plans = {plan};
  findings.channels = {channel};
  findings.cells = {cell};
  const std::string path = folder.path("results.sqlite");
  sweep::Database(path).add(findings, {});
  return path;
}

TEST(Report, PageHoldsWhatTheSweepFound) {
  if (!KVANT_HAS_REPORT) GTEST_SKIP() << "missing: the report page, which npm builds (-DKVANT_REPORT=ON)";
  const Folder folder;
  const std::string database = write_database(folder), page = folder.path("report.html");
  const Result result = run({"report", database, "-o", page});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "");
  const std::string text = read_text(page);
  EXPECT_THAT(text, AllOf(StartsWith("<!doctype html>"), EndsWith("</html>\n"), HasSubstr("\"Model of the test\""),
                          HasSubstr("kvant eval -m '\\u003c/script>'"), HasSubstr("\"metrics\":{\"all\":[0.00123]}"),
                          HasSubstr("\"heads\":[[\"k\",0,0,3.5,\"lm4\"]]"), HasSubstr("\"mean\":[null,"),
                          HasSubstr("-170.0]")));
  // To standard output it is the same.
  EXPECT_EQ(run({"report", database}).out, text);
}

TEST(Report, WithoutThePageOneLineSaysWhatIsMissing) {
  if (KVANT_HAS_REPORT) GTEST_SKIP() << "missing: a build without the report page (-DKVANT_REPORT=OFF)";
  const Folder folder;
  const Result result = run({"report", write_database(folder), "-o", folder.path("report.html")});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.err,
            "kvant: error: this kvant was built without the report page: install npm, then build with "
            "-DKVANT_REPORT=ON\n");
  EXPECT_FALSE(fs::exists(folder.path("report.html")));
}

/// Whether it fails in one line with all of `parts`, and leaves no page.
void expect_failure(const Folder& folder, const std::string& database, const std::vector<std::string>& parts) {
  const Result result = run({"report", database, "-o", folder.path("report.html")});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, StartsWith("kvant: error: " + database + ": "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const std::string& part : parts) EXPECT_THAT(result.err, HasSubstr(part));
  EXPECT_FALSE(fs::exists(folder.path("report.html")));
}

TEST(Report, FilesThatAreNoResults) {
  const Folder folder;
  expect_failure(folder, folder.path("missing.sqlite"), {"no such file"});
  expect_failure(folder, folder.write("text", std::string(500, 'x')), {"not a database"});
  expect_failure(folder, folder.write("empty", ""), {"not a database of kvant sweep"});
  expect_failure(folder, kModel, {"not a database"});
}

TEST(Report, OutputOverTheDatabase) {
  const Folder folder;
  const std::string database = write_database(folder), before = read_text(database);
  fs::create_symlink(database, folder.path("link"));
  for (const std::string& output : {database, folder.path("link"), folder.path("./results.sqlite")}) {
    const Result result = run({"report", database, "-o", output});
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err, HasSubstr("would be written over the database"));
    EXPECT_EQ(read_text(database), before);
  }
}

TEST(Report, Usage) {
  EXPECT_EQ(run({"report"}).status, 2);
  EXPECT_THAT(run({"report", "--help"}).out, HasSubstr("Example: kvant report results.sqlite -o report.html"));
}

}  // namespace
}  // namespace kvant::cli
