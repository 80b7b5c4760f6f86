/// kvant calibrate, and the cache types that read what it writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const char* const kText = KVANT_SOURCE_DIR "/models/recall.txt";

Result calibrate(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"calibrate", "-m", kModel, "-f", kText, "-n", "512", "-c", "256"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

json divergences(const std::string& cache) {
  const Result result =
      run({"eval", "-m", kModel, "-f", kText, "-c", "256", "--chunks", "2", "--json", "--cache", cache});
  EXPECT_EQ(result.status, 0) << result.err;
  return json::parse(result.out)["results"][0];
}

TEST(Calibrate, PlansAndLayoutsAreRead) {
  const Folder folder;
  const std::string plan = folder.path("plan.gguf"), perms = folder.path("perms.bin");
  const Result result =
      calibrate({"-o", plan, "--perms", perms, "--tiers", "high=flex:1:9:4:1:1@90,moderate=flex:0:6:0:0:0"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("flex:1:9:4:1:1"));
  EXPECT_THAT(result.out, HasSubstr("flex:0:6:0:0:0"));
  const double none = divergences("lm4,anchor=none,scale=none")["kld_mean"];
  const double mean = divergences("lm4,anchor=mean,plan=" + plan)["kld_mean"];
  EXPECT_LT(mean, none / 50);  // the model's bias is thirty times its keys
  EXPECT_GT(mean, 0);
  const json flex = divergences("flex,perms=" + perms);
  EXPECT_GT(flex["k_bpv"], 6.125);
  EXPECT_LT(flex["k_bpv"], 7.5);
  EXPECT_LT(flex["kld_mean"], none);
}

TEST(Calibrate, RefusalsLeaveNothingBehind) {
  const Folder folder;
  const std::string plan = folder.path("plan.gguf");
  const Result few = run({"calibrate", "-m", kModel, "-f", kText, "-n", "100000000", "-o", plan});
  EXPECT_EQ(few.status, 1);
  EXPECT_THAT(few.err, HasSubstr("100000000 for statistics (-n)"));
  EXPECT_EQ(calibrate({"-o", plan, "--tiers", "all=flex:0:6:0:0:0"}).status, 2);
  const Result tiers = calibrate({"-o", plan, "--perms", plan + "p", "--tiers", "low=flex:0:6:0:0:0"});
  EXPECT_EQ(tiers.status, 1);
  EXPECT_THAT(tiers.err, HasSubstr("unknown tier 'low'"));
  EXPECT_EQ(calibrate({"-o", folder.path("none/plan.gguf")}).status, 1);
  EXPECT_TRUE(fs::is_empty(folder.path("")));
}

TEST(Calibrate, PlansOfOtherModelsAndDamagedOnesAreRefused) {
  const Folder folder;
  const std::string plan = folder.path("plan.gguf");
  ASSERT_EQ(calibrate({"-o", plan}).status, 0);
  const std::string bytes = read_text(plan);
  AtomicFile damaged(plan);
  damaged.write(std::string_view(bytes).substr(0, bytes.size() / 2));
  damaged.commit();
  const Result result = run({"run", "-m", kModel, "-p", "a", "-n", "1", "--cache-k", "lm3,anchor=mean,plan=" + plan});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("plan.gguf"));
}

}  // namespace
}  // namespace kvant::cli
