/// kvant calibrate, and the cache types that read what it writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

Result calibrate(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"calibrate", "-m", kModel, "-f", kText, "-n", "512", "-c", "256"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

json divergences(const std::string& cache) {
  return document(
      run({"eval", "-m", kModel, "-f", kText, "-c", "256", "--chunks", "2", "--json", "--cache", cache}))["results"][0];
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

/// As published for the earlier system: a plan of its own, and its permutation file on request.
TEST(Calibrate, TiersMakeAPlan) {
  const Folder folder;
  const std::string plan = folder.path("plan.gguf"), perms = folder.path("perms.bin");
  const std::string tiers = "high=flex:1:9:4:1:1@70,moderate=flex:0:6:0:0:0";
  ASSERT_EQ(calibrate({"-o", plan, "--tiers", tiers, "--perms", perms}).status, 0);
  const json known = json::parse(run({"inspect", plan, "--json"}).out);
  EXPECT_EQ(known["goal"], "--tiers " + tiers);
  EXPECT_EQ(known["k"], "flex");
  EXPECT_EQ(known["v"], "f16");
  EXPECT_EQ(known["layers"][0]["heads"][0]["k"]["layout"], "flex:1:9:4:1:1");
  EXPECT_DOUBLE_EQ(known["layers"][0]["k_bits"], 6.75);
  EXPECT_THAT(run({"inspect", plan}).out, HasSubstr("flex:1:9:4:1:1"));
  const json planned = divergences("plan:" + plan), file = divergences("flex,perms=" + perms);
  EXPECT_EQ(planned["kld_mean"], file["kld_mean"]);
  EXPECT_EQ(planned["k_bpv"], file["k_bpv"]);
  EXPECT_EQ(planned["plan"], plan);
  EXPECT_EQ(planned["k"], "flex,plan=" + plan);
  EXPECT_EQ(run({"run", "-m", kModel, "-p", "One", "-n", "2", "--plan", plan}).status, 0);

  // Other tiers from the same statistics, without the text; some layers in f16.
  const std::string other = folder.path("other.gguf");
  const auto from = [&](const std::string& more) {
    return run({"calibrate", "-m", kModel, "--from", plan, "-o", other, "--tiers", more});
  };
  ASSERT_EQ(from("extreme=flex:1:9:4:1:1@90,moderate=flex:0:6:0:0:0").status, 0);
  const json mixed = json::parse(run({"inspect", other, "--json"}).out);
  EXPECT_EQ(mixed["layers"][0]["k_bits"], 6.75);
  EXPECT_EQ(mixed["layers"][1]["k_bits"], 6.125);
  EXPECT_EQ(mixed["k_bpv"], (3 * 6.75 + 3 * 6.125) / 6);  // three layers each: true sizes
  ASSERT_EQ(from("extreme=flex:0:6:0:0:0@90").status, 0);
  EXPECT_EQ(json::parse(run({"inspect", other, "--json"}).out)["layers"][1]["k_bits"], 16);
  // And codes instead of layouts.
  ASSERT_EQ(run({"calibrate", "-m", kModel, "--from", plan, "-o", other, "--bits", "3"}).status, 0);
  EXPECT_EQ(json::parse(run({"inspect", other, "--json"}).out)["k"], "plan");
  ASSERT_EQ(run({"calibrate", "-m", kModel, "--from", other, "-o", other, "--tiers", tiers}).status, 0);
  EXPECT_TRUE(read_text(other) == read_text(plan));
}

TEST(Calibrate, RefusalsLeaveNothingBehind) {
  const Folder folder;
  const std::string plan = folder.path("plan.gguf");
  const Result few = run({"calibrate", "-m", kModel, "-f", kText, "-n", "100000000", "-o", plan});
  EXPECT_EQ(few.status, 1);
  EXPECT_THAT(few.err, HasSubstr("100000000 for statistics (-n)"));
  EXPECT_EQ(calibrate({"-o", plan, "--perms", plan + "p"}).status, 2);
  EXPECT_EQ(calibrate({"-o", plan, "--bits", "3", "--tiers", "all=flex:0:6:0:0:0"}).status, 2);
  const Result tiers = calibrate({"-o", plan, "--perms", plan + "p", "--tiers", "low=flex:0:6:0:0:0"});
  EXPECT_EQ(tiers.status, 1);
  EXPECT_THAT(tiers.err, HasSubstr("unknown tier 'low'"));
  EXPECT_EQ(calibrate({"-o", folder.path("none/plan.gguf")}).status, 1);
  EXPECT_TRUE(fs::is_empty(folder.path("")));
}

/// One line that says what is wrong, and no file: neither the plan nor one of those on the way to it.
TEST(Calibrate, FailuresLeaveNothingBehind) {
  const Folder folder, other;
  const std::string plan = folder.path("plan.gguf");
  const auto expect = [&](const std::string& model, const std::string& text, const Setting& setting,
                          const std::vector<std::string>& parts) {
    const Result result = run({"calibrate", "-m", model, "-f", text, "-n", "512", "-c", "256", "--measure", "256",
                               "--validate-tokens", "256", "-o", plan, "--bits", "3"},
                              setting);
    EXPECT_EQ(result.status, 1) << result.err;
    EXPECT_TRUE(result.err.starts_with("kvant: error: ")) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    for (const std::string& part : parts) EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_TRUE(fs::is_empty(folder.path(""))) << parts.front();
  };
  Setting full;
  full.largest_file = 100'000;
  expect(kModel, kText, full, {"plan.gguf.partial: cannot write"});
  expect(kModel, other.path("none.txt"), {}, {"none.txt: cannot open"});
  expect(kModel, other.path(""), {}, {other.path(""), "cannot read: Is a directory"});
  expect(kModel, other.write("bytes.txt", "abc\xff"), {}, {"bytes.txt: byte 3 (0xff) is not valid UTF-8"});
  expect(kModel, other.write("empty.txt", ""), {}, {"empty.txt: the text is empty"});
  expect(kModel, other.write("short.txt", "Too little text."), {}, {"short.txt: ", " tokens, 1024 are needed"});
  Changes changes;
  changes.spoiled_tensor = "blk.1.ffn_norm.weight";
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    changes.spoiled_value = bad;
    const std::string model = write_model(other, changes);
    expect(model, kText, {}, {model + ": layer 2: the keys are not finite"});
    // Nor does a cache take them.
    for (const std::string type : {"lm4", "uni8", "q8_0", "f16"}) {
      const Result result = run({"run", "-m", model, "-p", "One", "-n", "1", "--cache-k", type, "--cache-v", type});
      EXPECT_EQ(result.status, 1);
      EXPECT_THAT(result.err, HasSubstr("of layer 2, KV head 0, position 0: NaN or more than " + type + " can hold"));
    }
  }
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
