/// kvant calibrate with a goal: what it chooses, keeps and refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file_io.h"
#include "base/random.h"
#include "codec/plan.h"
#include "command.h"

namespace kvant::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

std::vector<std::string> arguments(const std::vector<std::string>& more) {
  std::vector<std::string> all = {"calibrate", "-m", kModel, "-f",        kText, "-n",
                                  "1024",      "-c", "256",  "--measure", "512", "--validate-tokens",
                                  "512"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}
Result search(const std::vector<std::string>& more) { return run(arguments(more)); }

void write(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

/// A plan of 3 bits, made once.
class Search : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const Folder folder;
    const std::string path = folder.path("plan.gguf");
    const Stopwatch watch;
    const Result result = search({"-o", path, "--bits", "3"});
    seconds_ = watch.seconds();
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("plan.gguf"));
    ASSERT_FALSE(fs::exists(path + ".partial"));
    bytes_ = new std::string(read_text(path));
  }
  static void TearDownTestSuite() {
    delete bytes_;
    bytes_ = nullptr;
  }
  static codec::Plan plan() { return codec::parse_plan(std::as_bytes(std::span(*bytes_)), "plan"); }

  // NOLINTBEGIN(readability-identifier-naming): set once for all tests
  inline static std::string* bytes_ = nullptr;
  inline static double seconds_ = 0;  ///< that making it took
  // NOLINTEND(readability-identifier-naming)
  const Folder folder_;
};

TEST_F(Search, BeatsUniformCodesAtFewerBits) {
  const std::string path = folder_.path("plan.gguf");
  write(path, *bytes_);
  const json rows = document(run({"eval", "-m", kModel, "-f", kText, "-c", "512", "--chunks", "4", "--json", "--cache",
                                  "plan:" + path, "lm3/lm3"}))["results"];
  // 1024 tokens of statistics and 512 of measurement do less than the defaults, which reach a 25th.
  EXPECT_LT(rows[0]["kld_mean"], 0.2 * rows[1]["kld_mean"].get<double>());
  EXPECT_GT(rows[0]["kld_mean"], 0);
  EXPECT_LT(rows[0]["k_bpv"].get<double>() + rows[0]["v_bpv"].get<double>(),
            rows[1]["k_bpv"].get<double>() + rows[1]["v_bpv"].get<double>());
}

TEST_F(Search, PlansCarrySensitivitiesAndACertificate) {
  const codec::Plan plan = Search::plan();
  EXPECT_EQ(plan.goal, "--bits 3");
  EXPECT_EQ(plan.positions, 512U);  // the model's context
  EXPECT_GE(plan.recent, 4U);
  for (const codec::LayerStatistics& layer : plan.layers) {
    EXPECT_GT(layer.k_sensitivity, 0);
    EXPECT_GT(layer.v_sensitivity, 0);
  }
  ASSERT_EQ(plan.certificates.size(), 1U);
  const codec::Certificate& c = plan.certificates.front();
  EXPECT_EQ(c.corpus, "recall.txt");
  EXPECT_EQ(c.context, 256U);
  EXPECT_EQ(c.tokens, 2U * 127);  // two windows, the second half of each
  EXPECT_GT(c.kld_mean, 0);
  EXPECT_GT(c.kld_error, 0);
  EXPECT_GT(c.top1, 0.8);
  EXPECT_LE(c.ppl_ratio_lo, c.ppl_ratio);
  EXPECT_GE(c.ppl_ratio_hi, c.ppl_ratio);
  // The prediction is no more than a sum over layers, and the end of this text is easier than its start.
  EXPECT_GT(plan.predicted_kld, c.kld_mean / 20);
  EXPECT_LT(plan.predicted_kld, c.kld_mean * 20);
}

TEST_F(Search, GivesTheSameBytesOnAnyNumberOfThreads) {
  const std::string path = folder_.path("plan.gguf");
  ASSERT_EQ(search({"-o", path, "--bits", "3", "-t", "1"}).status, 0);
  EXPECT_EQ(read_text(path), *bytes_);
}

TEST_F(Search, GoesOnWhereItWasInterrupted) {
  codec::Plan half = plan();
  half.codes.clear();
  half.certificates.clear();
  half.goal.clear();
  half.predicted_kld = 0;
  half.positions = 0;
  for (std::size_t layer = 2; layer < half.layers.size(); ++layer) half.layers[layer].k_sensitivity = 0;
  const std::string path = folder_.path("plan.gguf");
  codec::write_plan(path + ".partial", half);
  const Result result = search({"-o", path, "--bits", "3"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("Going on"));
  EXPECT_EQ(read_text(path), *bytes_);
  EXPECT_FALSE(fs::exists(path + ".partial"));
}

/// Killed at random moments, several times over: what is left is a whole checkpoint or nothing.
TEST_F(Search, GoesOnAfterItWasKilled) {
  const std::string path = folder_.path("plan.gguf");
  Random random(5);
  int killed = 0;
  for (int i = 0; i < 6; ++i) {
    Setting setting;
    setting.kill_after = std::chrono::milliseconds(1 + static_cast<int>(1000 * seconds_ * random.uniform()));
    const Result result = run(arguments({"-o", path, "--bits", "3"}), setting);
    if (result.status == 0) {
      EXPECT_EQ(read_text(path), *bytes_);
      fs::remove(path);
      continue;
    }
    EXPECT_EQ(result.status, -1) << result.err;
    ++killed;
    if (fs::exists(path)) {  // between its last act and its end
      EXPECT_EQ(read_text(path), *bytes_);
      fs::remove(path);
    }
    for (const auto& entry : fs::directory_iterator(folder_.path(""))) {
      EXPECT_EQ(entry.path().filename(), "plan.gguf.partial");
      EXPECT_NO_THROW(codec::read_plan(entry.path()));
    }
  }
  EXPECT_GT(killed, 0);
  ASSERT_EQ(search({"-o", path, "--bits", "3"}).status, 0);
  EXPECT_EQ(read_text(path), *bytes_);
  EXPECT_FALSE(fs::exists(path + ".partial"));
}

TEST_F(Search, StartsAgainWhereTheRestIsOfAnotherText) {
  codec::Plan other = plan();
  other.corpus.hash += 1;
  const std::string path = folder_.path("plan.gguf");
  for (const std::string& bytes : {std::string("no plan"), [&] {
                                     const auto b = codec::serialize_plan(other);
                                     return std::string(reinterpret_cast<const char*>(b.data()), b.size());
                                   }()}) {
    write(path + ".partial", bytes);
    const Result result = search({"-o", path, "--bits", "3"});
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.err, testing::Not(HasSubstr("Going on")));
    EXPECT_EQ(read_text(path), *bytes_);
  }
}

TEST_F(Search, SolvesForAnotherGoalWithoutText) {
  const std::string path = folder_.path("plan.gguf"), other = folder_.path("other.gguf");
  write(path, *bytes_);
  const auto from = [&](const std::vector<std::string>& goal) {
    std::vector<std::string> all = {"calibrate", "-m", kModel, "--from", path, "-o", other};
    all.insert(all.end(), goal.begin(), goal.end());
    const Result result = run(all);
    EXPECT_EQ(result.status, 0) << result.err;
    return codec::read_plan(other);
  };
  const auto bits = [](const codec::Plan& plan, auto side) {
    double sum = 0, heads = 0;
    for (const codec::LayerCodes& layer : plan.codes) {
      for (const codec::HeadCode& head : layer.*side) {
        sum += codec::bits_per_value(head.parts, plan.model.head_dim);
        ++heads;
      }
    }
    const double window = 16.0 * static_cast<double>(plan.recent) / static_cast<double>(plan.positions);
    return heads > 0 ? sum / heads + window : 0;
  };
  using codec::LayerCodes;
  EXPECT_EQ(from({"--bits", "3"}).codes, plan().codes) << "the same goal, the same codes";
  const codec::Plan keys = from({"--bits", "3.5", "--bits-v", "16"});
  EXPECT_NEAR(bits(keys, &LayerCodes::keys), 3.5, 0.1);
  EXPECT_LE(bits(keys, &LayerCodes::keys), 3.5);
  EXPECT_EQ(bits(keys, &LayerCodes::values), 0);
  const codec::Plan both = from({"--bits", "4", "--bits-v", "2"});
  EXPECT_NEAR(bits(both, &LayerCodes::keys), 4, 0.1);
  EXPECT_NEAR(bits(both, &LayerCodes::values), 2, 0.1);
  // 6 layers of 128 channels, K and V, 1000 tokens in 16 pages of 64; two maps of a head and side take 64 KiB.
  const codec::Plan sized = from({"--memory", "1.5MiB@1000"});
  const double total = (bits(sized, &LayerCodes::keys) + bits(sized, &LayerCodes::values)) * 6 * 128 * 16 * 64 / 8;
  EXPECT_GT(sized.recent, 0U);
  EXPECT_LE(total, 1.5 * 1024 * 1024 - 12 * 65536);
  EXPECT_GE(total, 0.95 * (1.5 * 1024 * 1024 - 12 * 65536));
  // The context goes with the statistics.
  EXPECT_EQ(sized.positions, 1000U);
  std::filesystem::copy_file(other, path, std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(from({"--bits", "3"}).positions, 1000U);
  EXPECT_EQ(from({"--bits", "3", "--positions", "2048"}).positions, 2048U);
}

TEST_F(Search, WritesStatisticsAsATable) {
  const std::string path = folder_.path("plan.gguf"), csv = folder_.path("stats.csv");
  write(path, *bytes_);
  const std::vector<std::string> again = {"calibrate", "-m", kModel, "--from", path, "-o", path, "--bits", "3"};
  const auto with = [&](const std::string& file) {
    std::vector<std::string> all = again;
    all.insert(all.end(), {"--stats", file});
    return run(all);
  };
  ASSERT_EQ(with(csv).status, 0);
  const std::string text = read_text(csv);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 6 * 128);
  EXPECT_TRUE(text.starts_with("layer,head,channel,mean,std,second_moment,query_weight,rank,part\n0,0,0,"));
  EXPECT_EQ(with(folder_.path("none/stats.csv")).status, 1);
}

TEST_F(Search, FindsTheFewestBitsBelowADivergence) {
  const std::string path = folder_.path("plan.gguf");
  const auto mean_bits = [](const codec::Plan& plan) {
    double sum = 0;
    for (const codec::LayerCodes& layer : plan.codes) {
      for (const auto* heads : {&layer.keys, &layer.values}) {
        for (const codec::HeadCode& head : *heads) sum += codec::bits_per_value(head.parts, plan.model.head_dim);
      }
    }
    return sum / static_cast<double>(2 * plan.codes.size() * plan.model.kv_heads);
  };
  double last = 100;
  for (const char* most : {"0.0001", "0.0005", "0.002"}) {
    std::vector<std::string> all = arguments({"-o", path, "--max-kld", most});
    *std::next(std::find(all.begin(), all.end(), "--measure")) = "1024";  // of 512 a single one may decide
    ASSERT_EQ(run(all).status, 0);
    const codec::Plan plan = codec::read_plan(path);
    EXPECT_LT(mean_bits(plan), last) << most;
    last = mean_bits(plan);
    EXPECT_LT(plan.certificates.front().kld_mean, 2 * std::stod(most)) << "on other text";
    EXPECT_GT(plan.certificates.front().kld_mean, std::stod(most) / 20) << "bits are wasted";
  }
}

TEST_F(Search, RefusesWhatCannotBe) {
  const std::string path = folder_.path("plan.gguf"), made = folder_.path("made.gguf");
  const auto refused = [&](const std::vector<std::string>& more, int status, std::string_view what) {
    std::vector<std::string> all = more;
    all.insert(all.end(), {"-o", path});
    const Result result = search(all);
    EXPECT_EQ(result.status, status) << result.err;
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_FALSE(fs::exists(path));
  };
  refused({"--bits", "3", "--max-kld", "0.01"}, 2, "2 of --bits, --memory and --max-kld are given, expected one");
  refused({"--bits", "9"}, 2, "--bits 9: expected 0.5 to 8.5");
  refused({"--bits-v", "3"}, 2, "--bits-v goes with --bits only");
  refused({"--memory", "3Mib@100"}, 2, "--memory 3Mib: expected a size such as 512MiB");
  refused({"--memory", "3MiB"}, 2, "expected SIZE@CONTEXT");
  refused({"--memory", "1kB@1000"}, 1, "the smallest codes take");
  refused({"--bits", "3", "--positions", "9999999999"}, 2, "--positions");
  refused({"--bits", "3", "--validate", folder_.path("none.txt")}, 1, "none.txt");
  EXPECT_EQ(
      run({"calibrate", "-m", kModel, "-f", kText, "-o", path, "--bits", "3", "--validate-tokens", "1000000"}).err,
      "kvant: error: " + std::string(kText) +
          ": 40313 tokens, 1016384 are needed: 8192 for statistics (-n), 8192 for the search (--measure), 1000000 "
          "for validation (--validate-tokens, or another text by --validate)\n");

  refused({"--max-kld", "1e-6"}, 1, "--max-kld 1e-06: not reached with ");
  fs::remove(path + ".partial");

  write(made, *bytes_);
  EXPECT_THAT(run({"calibrate", "-m", kModel, "--from", made, "-o", path, "--max-kld", "0.01"}).err,
              HasSubstr("--max-kld needs text to compare on"));
  codec::Plan other = plan();
  other.model.rope_base = 1e6;
  codec::write_plan(made, other);
  const Result result = run({"calibrate", "-m", kModel, "--from", made, "-o", path, "--bits", "3"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("made for a model with rope.base 1000000, this one has 10000"));
  EXPECT_EQ(run({"calibrate", "-m", kModel, "--from", made, "-o", path}).status, 2);
  EXPECT_EQ(run({"calibrate", "-m", kModel, "-o", path}).status, 2);
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace kvant::cli
