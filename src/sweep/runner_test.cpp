#include "sweep/runner.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "base/error.h"
#include "sweep/remote.h"
#include "sweep/rows.h"
#include "sweep/test_folder.h"

namespace kvant::sweep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const char* const kModel = KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf";
const char* const kText = KVANT_SOURCE_DIR "/models/recall.txt";

/// A sweep over the model of the repository.
class RunnerTest : public testing::Test {
 protected:
  /// `more` is added to a small grid.
  Grid grid(const std::string& more = "") const {
    return parse_grid(R"({"contexts": [32, 48], "caches": ["q8_0", "lm3/lm3", "lm4"], "chunks": 2)" +
                          (more.empty() ? "" : ", " + more) + "}",
                      "grid.json", "", {{kModel}, {text_}});
  }

  /// Runs what is open in a database; what has become of it.
  Tally run(const Grid& grid, const std::string& database, bool* completed = nullptr,
            std::function<Stop()> stop = {}) const {
    const Hashes hashes = read_hashes(grid);
    const std::vector<Group> groups = expand(grid, hashes, name(active_isa()));
    DatabaseLedger ledger(folder_.path(database), unit_weights(groups));
    const bool all = sweep::run(grid, hashes, groups, ledger, options(grid, std::move(stop)));
    if (completed != nullptr) *completed = all;
    return ledger.tally();
  }
  static RunOptions options(const Grid& grid, std::function<Stop()> stop = {}) {
    RunOptions options;
    options.laboratory = {1, active_isa(), "0.0"};
    options.together = grid.together;
    options.stop = std::move(stop);
    return options;
  }
  /// All that results say, whatever the order in which they came.
  std::vector<std::string> rows(const std::string& database) const {
    return query(
        folder_.path(database),
        "SELECT key, kind, k, v, context, chunks, reference, precision, version, command, tokens, k_bpv, v_bpv, "
        "cache_bytes, constant_bytes, scope, metric.name, value, model.hash, corpus.hash FROM cell "
        "JOIN metric ON cell_id = cell.id JOIN model ON model.id = model_id JOIN corpus ON corpus.id = "
        "corpus_id ORDER BY key, scope, metric.name");
  }
  std::vector<std::string> query_in(const std::string& database, const std::string& sql) const {
    return query(folder_.path(database), sql);
  }
  TestFolder folder_;
  std::string text_ = folder_.write("text.txt", read_text(kText).substr(0, 3000));
};

TEST_F(RunnerTest, MeasuresWhatIsOpenOnce) {
  EXPECT_EQ(run(grid(), "db").added, 6u);
  EXPECT_EQ(run(grid(), "db").added, 0u);
  const Grid larger = grid(R"("kinds": ["compare", "decode"])");
  EXPECT_EQ(run(larger, "db").added, 6u);
  EXPECT_THAT(query_in("db", "SELECT kind, context, count(*) FROM cell GROUP BY kind, context"),
              ElementsAre("compare|32|3", "compare|48|3", "decode|32|3", "decode|48|3"));
  EXPECT_THAT(query_in("db", "SELECT * FROM claim"), IsEmpty());
}

TEST_F(RunnerTest, RowsAreThoseOfAComparison) {
  const Grid small = grid();
  run(small, "db");
  engine::Engine::Options settings;
  settings.threads = 1;
  settings.isa = active_isa();
  settings.precision = kernels::Precision::reference;
  engine::Engine engine(kModel, settings);
  eval::CompareOptions compare;
  compare.context = 48;
  compare.chunks = 2;
  compare.caches = eval::parse_cache_list("lm3/lm3");
  const auto tokens = engine.tokenizer().encode_prompt(read_text(text_), false);
  const eval::CompareResult result = eval::compare(engine, tokens, compare);
  for (const MetricRow& metric : compare_metrics(result.caches.front(), result.perplexity)) {
    EXPECT_THAT(
        query_in("db", fmt::format("SELECT value = {:.17g} FROM metric JOIN cell ON id = cell_id WHERE k = 'lm3' "
                                   "AND context = 48 AND scope = '{}' AND name = '{}'",
                                   metric.value, metric.scope, metric.name)),
        ElementsAre("1"))
        << metric.scope << " " << metric.name;
  }
  const cache::CacheUsage& usage = result.caches.front().usage;
  EXPECT_THAT(query_in("db",
                       "SELECT k, v, chunks, tokens, cache_bytes, constant_bytes, reference, precision, version "
                       "FROM cell WHERE k = 'lm3' AND context = 48"),
              ElementsAre(fmt::format("lm3|lm3|2|{}|{}|{}|f16|reference|0.0", result.tokens, usage.bytes(),
                                      usage.constant_bytes)));
  EXPECT_THAT(query_in("db", "SELECT command FROM cell WHERE k = 'lm3' AND context = 48"),
              ElementsAre(fmt::format("kvant eval -c 48 --chunks 2 -m {} -f {} --cache lm3/lm3", kModel, text_)));
}

TEST_F(RunnerTest, RowsDoNotDependOnWhatIsMeasuredTogether) {
  run(grid(), "all");
  run(grid(R"("together": 1)"), "single");
  EXPECT_FALSE(rows("all").empty());
  EXPECT_EQ(rows("all"), rows("single"));
}

TEST_F(RunnerTest, StoppedSweepsGoOn) {
  int asked = 0;
  bool completed = true;
  // Asked once before the first group and often while it runs.
  const auto after_the_first = [&] { return ++asked == 1 ? Stop::no : Stop::soon; };
  EXPECT_EQ(run(grid(), "db", &completed, after_the_first).added, 3u);
  EXPECT_FALSE(completed);
  EXPECT_THAT(query_in("db", "SELECT * FROM claim"), IsEmpty());

  asked = 0;
  EXPECT_EQ(run(grid(), "db", &completed, [&] { return ++asked < 3 ? Stop::no : Stop::now; }).added, 0u);
  EXPECT_FALSE(completed);
  EXPECT_THAT(query_in("db", "SELECT * FROM claim"), IsEmpty());

  EXPECT_EQ(run(grid(), "db", &completed).added, 3u);
  EXPECT_TRUE(completed);
  run(grid(), "whole");
  EXPECT_EQ(rows("db"), rows("whole"));
}

TEST_F(RunnerTest, RetrievalAndAgreement) {
  folder_.write("prompts.txt", "The ship reached\nThe code of the\n");
  const Grid all = parse_grid(R"({"contexts": [128], "caches": ["f16", "lm2/lm2"], "kinds": ["retrieval", "agreement"],
    "retrieval": {"depths": [0, 50], "keys": [1, 2], "trials": 3}, "agreement": {"prompts": ["prompts.txt"], "tokens": 6}})",
                              "grid.json", folder_.path(""), {{kModel}, {text_}});
  EXPECT_EQ(run(all, "db").added, 4u);
  EXPECT_EQ(run(all, "db").added, 0u);
  EXPECT_THAT(query_in("db",
                       "SELECT k, keys, depth, trials, found BETWEEN 0 AND 3, low < high FROM retrieval JOIN cell "
                       "ON id = cell_id ORDER BY k, keys, depth"),
              ElementsAre("f16|1|0.0|3|1|1", "f16|1|0.5|3|1|1", "f16|2|0.0|3|1|1", "f16|2|0.5|3|1|1", "lm2|1|0.0|3|1|1",
                          "lm2|1|0.5|3|1|1", "lm2|2|0.0|3|1|1", "lm2|2|0.5|3|1|1"));
  EXPECT_THAT(query_in("db",
                       "SELECT name, value FROM metric JOIN cell ON id = cell_id WHERE k = 'f16' AND name IN "
                       "('prompts', 'identical', 'token_agreement', 'script_errors') ORDER BY name"),
              ElementsAre("identical|1.0", "prompts|2.0", "script_errors|0.0", "token_agreement|1.0"));
  EXPECT_THAT(query_in("db",
                       "SELECT kind, chunks, reference, corpus.file FROM cell JOIN corpus ON corpus.id = corpus_id "
                       "WHERE k = 'f16' ORDER BY kind"),
              ElementsAre("agreement|2|f16|prompts.txt", "retrieval|3||" + text_));
  EXPECT_THAT(
      query_in("db", "SELECT command FROM cell WHERE k = 'lm2' ORDER BY kind"),
      ElementsAre(
          fmt::format("kvant agree -n 6 -m {} -f prompts.txt --cache lm2/lm2", kModel),
          fmt::format("kvant retrieve -c 128 --depths 0,50 --keys 1,2 --values 1 --trials 3 --seed 1 -m {} -f {} "
                      "--cache lm2/lm2",
                      kModel, text_)));
}

TEST_F(RunnerTest, WhatCannotBeMeasuredFailsAlone) {
  const std::string text = folder_.write("short.txt", read_text(kText).substr(0, 120));
  const Grid some =
      parse_grid(R"({"contexts": [100000, 16], "caches": ["q8_0", "lm4"]})", "grid.json", "", {{kModel}, {text}});
  bool completed = false;
  const Tally tally = run(some, "db", &completed);
  EXPECT_TRUE(completed);
  EXPECT_EQ(tally.added, 2u);
  EXPECT_EQ(tally.failed, 2u);
  ASSERT_THAT(tally.failures, SizeIs(1));
  EXPECT_THAT(tally.failures.front(), HasSubstr("short.txt, context 100000: the text has "));
  EXPECT_THAT(query_in("db", "SELECT * FROM claim"), IsEmpty());
}

TEST_F(RunnerTest, FilesThatChangeAreNoticed) {
  const Grid changing = grid();
  const Hashes hashes = read_hashes(changing);
  const auto groups = expand(changing, hashes, name(active_isa()));
  folder_.write("text.txt", "something else");
  DatabaseLedger ledger(folder_.path("db"), unit_weights(groups));
  sweep::run(changing, hashes, groups, ledger, options(changing));
  EXPECT_THAT(ledger.tally().failures, ElementsAre(text_ + ": was changed while the sweep ran"));
}

TEST_F(RunnerTest, ChannelsOfEachText) {
  const Grid with_channels = grid(R"("channels": true)");
  run(with_channels, "db");
  EXPECT_THAT(query_in("db", "SELECT count(*), count(DISTINCT layer), max(kv_head), max(channel) FROM channel"),
              ElementsAre("768|6|0|127"));
  // The biases of the first layer are its mean, and they are huge.
  EXPECT_THAT(query_in("db", "SELECT max(abs(mean)) > 100 FROM channel WHERE layer = 0"), ElementsAre("1"));
  EXPECT_EQ(run(with_channels, "db").added, 0u);
}

/// All keys of a grid.
std::set<std::string> keys(const Grid& grid, const Hashes& hashes, std::string_view isa = "avx2") {
  std::set<std::string> all;
  for (const Group& group : expand(grid, hashes, isa)) {
    for (const Cell& cell : group.cells) all.insert(cell.key);
  }
  return all;
}

TEST_F(RunnerTest, KeysHoldWhatDecidesAResult) {
  const std::string plan_bytes = read_text(KVANT_SOURCE_DIR "/tests/compat/plan-1.gguf");
  const std::string permutations = read_text(KVANT_SOURCE_DIR "/tests/fuzz/corpus/permutations/layouts.perm");
  folder_.write("plan.gguf", plan_bytes);
  folder_.write("same.gguf", plan_bytes);
  folder_.write("layouts.perm", permutations);
  const auto grid_of = [&](const std::string& caches, const std::string& more = "\"chunks\": 2") {
    return parse_grid(fmt::format(R"({{"contexts": [32], "caches": [{}], {}}})", caches, more), "grid.json",
                      folder_.path(""), {{kModel}, {text_}});
  };
  const std::string some = R"("lm4", "plan:plan.gguf", "flex,perms=layouts.perm")";
  const Grid base = grid_of(some);
  const Hashes hashes = read_hashes(base);
  const std::set<std::string> usual = keys(base, hashes);
  ASSERT_THAT(usual, SizeIs(3));

  // Names of files do not count, what is in them does.
  const Grid renamed = grid_of(R"("lm4", "plan:same.gguf", "flex,perms=layouts.perm")");
  EXPECT_EQ(keys(renamed, read_hashes(renamed)), usual);
  for (const std::string& key : usual) EXPECT_EQ(key.find(folder_.path("")), std::string::npos) << key;

  const auto expect_others = [&](const std::set<std::string>& others, std::size_t common) {
    std::vector<std::string> same;
    std::set_intersection(usual.begin(), usual.end(), others.begin(), others.end(), std::back_inserter(same));
    EXPECT_THAT(same, SizeIs(common));
  };
  expect_others(keys(base, hashes, "avx512"), 0);
  for (const char* more : {R"("chunks": 3)", R"("chunks": 0)", R"("chunks": 2, "kinds": ["decode"])",
                           R"("chunks": 2, "reference": "f32")", R"("chunks": 2, "precision": "fast")"}) {
    SCOPED_TRACE(more);
    expect_others(keys(grid_of(some, more), hashes), 0);
  }
  Hashes other = hashes;
  other.models.front().back() ^= 1;
  expect_others(keys(base, other), 0);
  other = hashes;
  other.texts.front().back() ^= 1;
  expect_others(keys(base, other), 0);
  folder_.write("plan.gguf", plan_bytes + "x");
  expect_others(keys(base, read_hashes(base)), 2);
  folder_.write("layouts.perm", permutations + "x");
  expect_others(keys(base, read_hashes(base)), 1);
}

TEST_F(RunnerTest, LedgersWorkFromAfar) {
  const Grid small = grid(R"("channels": true)");
  const Hashes hashes = read_hashes(small);
  const auto groups = expand(small, hashes, name(active_isa()));
  DatabaseLedger ledger(folder_.path("remote"), unit_weights(groups));
  std::size_t requests = 0;
  RemoteLedger remote([&](const Request& request) {
    ++requests;
    const Request arrived = unpack_request(pack(request));
    return unpack_reply(pack(answer(ledger, arrived)));
  });
  EXPECT_TRUE(sweep::run(small, hashes, groups, remote, options(small)));
  EXPECT_GT(requests, 4u);
  EXPECT_EQ(ledger.tally().added, 6u);
  run(small, "local");
  EXPECT_EQ(rows("remote"), rows("local"));
  const char* const channels = "SELECT * FROM channel ORDER BY layer, kv_head, channel";
  EXPECT_EQ(query_in("remote", channels), query_in("local", channels));

  EXPECT_THROW(unpack_request(std::vector<std::uint8_t>{1, 2, 3}), Error);
  RemoteLedger stopped([](const Request&) {
    Reply reply;
    reply.stop = true;
    return reply;
  });
  EXPECT_FALSE(sweep::run(small, hashes, groups, stopped, options(small)));
  RemoteLedger broken([](const Request&) {
    Reply reply;
    reply.error = "db: disk full";
    return reply;
  });
  EXPECT_THROW(sweep::run(small, hashes, groups, broken, options(small)), Error);
}

}  // namespace
}  // namespace kvant::sweep
