/// Plans on the command line: inspect, --plan and plan:FILE.
#include "codec/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const char* const kFixture = KVANT_SOURCE_DIR "/tests/compat/plan-1.gguf";  // of another model, with a certificate

/// A plan for the repository's model: statistics of a little text, and heads coded as they are.
class Plans : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const Folder folder;
    const std::string path = folder.path("plan.gguf");
    const Result result = run({"calibrate", "-m", kModel, "-f", kText, "-n", "512", "-c", "256", "-o", path});
    ASSERT_EQ(result.status, 0) << result.err;
    statistics_ = new codec::Plan(codec::read_plan(path));
  }
  static void TearDownTestSuite() {
    delete statistics_;
    statistics_ = nullptr;
  }

  /// Statistics, and codes of so many bits; 0: none.
  static codec::Plan plan(int k_bits, int v_bits) {
    codec::Plan plan = *statistics_;
    const std::size_t n = plan.model.head_dim;
    const auto heads = [&](int bits) {
      codec::HeadCode code;
      code.transform.resize(codec::coded_dims(n) * n);
      for (std::size_t i = 0; i < n; ++i) code.transform[i * n + i] = to_bf16(1);
      code.inverse = code.transform;
      code.parts = {{32, codec::QuantizerKind::uni, bits, codec::ScaleFormat::f16},
                    {codec::coded_dims(n) - 32, codec::QuantizerKind::uni, bits - 1, codec::ScaleFormat::log8}};
      return bits == 0 ? std::vector<codec::HeadCode>() : std::vector<codec::HeadCode>(plan.model.kv_heads, code);
    };
    if (k_bits + v_bits > 0) plan.codes.assign(plan.model.layers, {heads(k_bits), heads(v_bits)});
    return plan;
  }
  std::string write(const codec::Plan& plan) const {
    const std::string path = folder_.path("p.gguf");
    codec::write_plan(path, plan);
    return path;
  }

  Folder folder_;

 private:
  static inline const codec::Plan* statistics_ = nullptr;
};

TEST_F(Plans, InspectShowsLayersHeadsAndBits) {
  const std::string path = write(plan(8, 4));
  const Result text = run({"inspect", path});
  EXPECT_EQ(text.status, 0) << text.err;
  for (const char* part :
       {"a plan", "qwen2, 6 layers of width 256", "recall.txt, 512 tokens in windows of 256", "32 uni8, 96 uni7 log8",
        "32 uni4, 96 uni3 log8", "Bits of a value per layer", "layer   5"}) {
    EXPECT_THAT(text.out, HasSubstr(part));
  }
  EXPECT_EQ(text.out.find('\x1b'), std::string::npos) << "colours without a terminal";
  EXPECT_THAT(run({"inspect", path, "--all"}).out, HasSubstr("blk.4.value_inverse"));

  const json d = document(run({"inspect", path, "--json"}));
  EXPECT_EQ(d["k"], "plan");
  ASSERT_EQ(d["layers"].size(), 6u);
  // Codes, a scale of 16 bits with the first part, and two of 8 with the other, which is cut into 64 and 32 dims.
  ASSERT_EQ(d["model"]["head_dim"], 128);
  EXPECT_DOUBLE_EQ(d["k_bpv"], (8 * 32 + 16 + 7 * 96 + 2 * 8) / 128.0);
  EXPECT_DOUBLE_EQ(d["layers"][3]["v_bits"], (4 * 32 + 16 + 3 * 96 + 2 * 8) / 128.0);
  EXPECT_EQ(d["layers"][0]["heads"][0]["v"]["parts"][1]["norm"], "log8");
  EXPECT_GT(d["constant_bytes"], 0);
  EXPECT_EQ(d["certificates"].size(), 0u);
}

TEST_F(Plans, InspectShowsCertificates) {
  const Result text = run({"inspect", kFixture});
  for (const char* part : {"text.txt, the tail", "0.0117 +- 0.00024", "96.88", "1.0078 [1.0039, 1.0117]", "--bits 3",
                           "KLD 0.0156", "yarn x4 from 32768", "32 lm2 log8, 32 none"}) {
    EXPECT_THAT(text.out, HasSubstr(part));
  }
  const json d = document(run({"inspect", kFixture, "--json"}));
  EXPECT_EQ(d["certificates"][0]["kld_mean"], 0.01171875);
  EXPECT_EQ(d["certificates"][0]["top1"], 0.96875);
  EXPECT_EQ(d["layers"][1]["heads"][0]["k"]["parts"][1]["bits"], 0);
}

TEST_F(Plans, InspectOfStatisticsOnly) {
  const std::string path = write(plan(0, 0));
  const Result text = run({"inspect", path});
  EXPECT_THAT(text.out, HasSubstr("K f16, 16.000 bits of a value; V f16, 16.000"));
  EXPECT_THAT(text.out, HasSubstr("K deviation"));
  EXPECT_FALSE(document(run({"inspect", path, "--json"}))["layers"][0]["heads"][0].contains("k"));
}

TEST_F(Plans, DamagedOnesAreNamed) {
  const std::string bytes = read_text(write(plan(8, 4)));
  const std::string path = folder_.write("half.gguf", std::string_view(bytes).substr(0, bytes.size() / 2));
  expect_error(run({"inspect", path}), 1, {"half.gguf: "});
  expect_error(run({"run", "-m", kModel, "-p", "a", "-n", "1", "--plan", path}), 1, {"half.gguf: "});
  gguf::Writer later;
  later.set("kvant.plan.version", 2u);
  later.write(folder_.path("later.gguf"));
  expect_error(run({"inspect", folder_.path("later.gguf")}), 1, {"kvant.plan.version: 2, supported is 1"});
}

TEST_F(Plans, PlanSetsBothSides) {
  const std::string path = write(plan(8, 7));
  const auto perplexity = [](const std::vector<std::string>& cache) {
    std::vector<std::string> arguments = {"perplexity", "-m",  kModel,     "-f", kText,
                                          "-c",         "128", "--chunks", "2",  "--json"};
    arguments.insert(arguments.end(), cache.begin(), cache.end());
    return document(run(arguments));
  };
  const std::string type = "plan,plan=" + path;
  const json planned = perplexity({"--plan", path}), named = perplexity({"--cache-k", type, "--cache-v", type});
  EXPECT_EQ(planned["k"], type);
  EXPECT_EQ(planned["v"], type);
  EXPECT_EQ(planned["perplexity"], named["perplexity"]);
  const double plain = perplexity({})["perplexity"];
  EXPECT_NE(planned["perplexity"], plain);
  EXPECT_NEAR(planned["perplexity"], plain, 0.02 * plain);  // 7 and 8 bits of a value
  const json d = document(run({"inspect", path, "--json"}));
  for (const char* bits : {"k_bpv", "v_bpv"}) {  // as allocated: with up to a page of the kernel more
    EXPECT_GE(planned[bits], d[bits]);
    EXPECT_NEAR(planned[bits], d[bits], 0.05 * d[bits].get<double>());
  }
}

TEST_F(Plans, SidesWithoutCodesHaveTheirType) {
  codec::Plan keys = plan(8, 0);
  keys.v_type = "q8_0";
  const std::string path = write(keys);
  for (const char* command : {"run", "bench"}) {
    const std::vector<std::string> more = command == std::string("run")
                                              ? std::vector<std::string>{"-p", "One", "-n", "2"}
                                              : std::vector<std::string>{"-p", "16", "-n", "2", "-r", "1"};
    std::vector<std::string> arguments = {command, "-m", kModel, "--json", "--plan", path};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const json d = document(run(arguments));
    const json& cache = d.contains("results") ? d["results"][0] : d;
    EXPECT_EQ(cache["k"], "plan,plan=" + path) << command;
    EXPECT_EQ(cache["v"], "q8_0") << command;
  }
}

TEST_F(Plans, EvalComparesThem) {
  const std::string path = write(plan(8, 7));
  const json d = document(run({"eval", "-m", kModel, "-f", kText, "-c", "128", "--chunks", "2", "--json", "--cache",
                               "plan:" + path + ",q8_0", "plan,plan=" + path}));
  ASSERT_EQ(d["results"].size(), 3u);
  EXPECT_EQ(d["results"][0]["plan"], path);
  EXPECT_EQ(d["results"][1]["plan"], nullptr);
  EXPECT_EQ(d["results"][2]["plan"], path);
  EXPECT_EQ(d["results"][2]["v"], "f16");
  EXPECT_GT(d["results"][0]["kld_mean"], d["results"][2]["kld_mean"]);  // V is coded as well
  EXPECT_LT(d["results"][0]["kld_mean"], 0.05);
  // Tables name the file alone where it says all.
  const Result table = run({"eval", "-m", kModel, "-f", kText, "-c", "128", "--chunks", "1", "--markdown", "--cache",
                            "plan:" + path, "plan,plan=" + path});
  EXPECT_THAT(table.out, HasSubstr("\n| plan:" + path + " | plan:" + path + " | "));
  EXPECT_THAT(table.out, HasSubstr("\n| plan,plan=" + path + " | f16 | "));
}

TEST_F(Plans, Refusals) {
  const auto with_plan = [](const std::string& path) {
    return run({"perplexity", "-m", kModel, "-f", kText, "-c", "64", "--chunks", "1", "--plan", path});
  };
  expect_error(with_plan(folder_.path("none.gguf")), 1, {"none.gguf"});
  expect_error(with_plan(kModel), 1, {"kvant.plan.version"});
  expect_error(with_plan(kFixture), 1, {"plan-1.gguf: made for a model with layers 2, this one has 6"});
  expect_error(with_plan(write(plan(0, 0))), 1, {"p.gguf: has statistics only, no codes"});
  const std::string path = write(plan(8, 0));
  expect_error(run({"run", "-m", kModel, "-p", "a", "-n", "1", "--cache-v", "plan,plan=" + path}), 1,
               {"p.gguf has no codes for values"});
  const auto eval = [](const std::string& cache) {
    return run({"eval", "-m", kModel, "-f", kText, "-c", "64", "--chunks", "1", "--cache", cache});
  };
  expect_error(eval("plan:" + folder_.path("none.gguf")), 1, {"--cache: ", "none.gguf"});
  expect_error(eval("plan:" + std::string(kFixture)), 1, {"made for a model with layers 2"});
  for (const char* option : {"--cache-k", "--cache-v"}) {
    expect_error(run({"run", "-m", kModel, "-p", "a", "--plan", path, option, "q8_0"}), 2,
                 {"--plan", option, "kvant run --help"});
  }
}

}  // namespace
}  // namespace kvant::cli
