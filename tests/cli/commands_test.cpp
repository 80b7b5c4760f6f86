/// What the commands print.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::MatchesRegex;

void expect_keys(const json& object, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) EXPECT_TRUE(object.contains(key)) << key;
}

TEST(Help, EveryCommandHasAnExample) {
  EXPECT_THAT(run({"--help"}).out, HasSubstr("Example: kvant run"));
  for (const char* command : {"run", "tokenize", "inspect", "perplexity", "eval", "bench"}) {
    const Result result = run({command, "--help"});
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_THAT(result.out, HasSubstr(std::string(": kvant ") + command)) << command;
  }
}

TEST(Help, Version) { EXPECT_THAT(run({"--version"}).out, MatchesRegex("kvant [0-9]+\\.[0-9]+\\.[0-9]+\n")); }

TEST(Run, StreamsTheTextAndNothingElse) {
  const Result plain = run({"run", "-m", kModel, "-p", "The code of", "-n", "12"});
  EXPECT_EQ(plain.status, 0);
  const json whole = document(run({"run", "-m", kModel, "-p", "The code of", "-n", "12", "--json"}));
  EXPECT_EQ(plain.out, whole["text"].get<std::string>() + "\n");
  EXPECT_THAT(plain.err, HasSubstr("generated 12 tokens"));
  EXPECT_THAT(plain.err, HasSubstr("cache k f16 v f16, 16.00 and 16.00 bits per value"));
}

TEST(Run, Json) {
  const json d =
      document(run({"run", "-m", kModel, "-p", "The code of", "-n", "5", "-c", "512", "--cache-k", "q8_0", "--json"}));
  expect_keys(d, {"text", "tokens", "prompt_tokens", "prefill_tps", "decode_tps", "k_bpv", "v_bpv", "cache_bytes"});
  EXPECT_EQ(d["tokens"].size(), 5u);
  EXPECT_EQ(d["prompt_tokens"], 3);
  EXPECT_EQ(d["k_bpv"], 8.5);
  EXPECT_EQ(d["stop"], "length");
  EXPECT_GT(d["decode_tps"], 0);
}

TEST(Run, TheSameTextForEveryThreadCountAndSource) {
  const Folder folder;
  const std::string prompt = "It was a dark night";
  const auto text = [&](std::vector<std::string> more, const std::string& input = "") {
    std::vector<std::string> arguments = {"run", "-m", kModel, "-n", "16"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments, {.input = input}).out;
  };
  const std::string expected = text({"-p", prompt, "-t", "1"});
  EXPECT_GT(expected.size(), 16u);
  EXPECT_EQ(text({"-p", prompt, "-t", "2"}), expected);
  EXPECT_EQ(text({"-f", folder.write("prompt.txt", prompt)}), expected);
  EXPECT_EQ(text({"-f", "-"}, prompt), expected);
}

TEST(Run, SeedDecidesWhatIsDrawn) {
  const auto text = [](const std::string& seed) {
    return run({"run", "-m", kModel, "-p", "Once", "-n", "24", "--temp", "1.5", "--seed", seed}).out;
  };
  EXPECT_EQ(text("7"), text("7"));
  EXPECT_NE(text("7"), text("8"));
}

TEST(Run, StopsWhereTheContextIsFull) {
  const json d = document(run({"run", "-m", kModel, "-p", "The code of", "-n", "50", "-c", "10", "--json"}));
  EXPECT_EQ(d["stop"], "context full");
  EXPECT_EQ(d["tokens"].size() + d["prompt_tokens"].get<std::size_t>(), 10u);
}

TEST(Run, SaysWhenTheContextExceedsTheTraining) {
  EXPECT_THAT(run({"run", "-m", kModel, "-p", "x", "-n", "1", "-c", "600"}).err, HasSubstr("beyond the 512 tokens"));
  EXPECT_EQ(run({"run", "-m", kModel, "-p", "x", "-n", "1", "-c", "512"}).err.find("beyond"), std::string::npos);
}

TEST(Run, OneAnswer) {
  const Folder folder;
  const std::string model = write_chat_model(folder);
  const json plain = document(run({"run", "-m", model, "-p", "Hi", "-n", "4", "--json"}));
  const json chat = document(run({"run", "-m", model, "-p", "Hi", "-n", "4", "--chat", "--json"}));
  const json system =
      document(run({"run", "-m", model, "-p", "Hi", "-n", "4", "--chat", "--system", "Answer in French.", "--json"}));
  EXPECT_GT(chat["prompt_tokens"], plain["prompt_tokens"]);
  EXPECT_GT(system["prompt_tokens"], chat["prompt_tokens"]);
}

TEST(Tokenize, IdsAndBack) {
  const Folder folder;
  const std::string text = "Hello, w\xc3\xb6rld \xf0\x9f\x98\x80!\nSecond line.\n";
  const std::string path = folder.write("text.txt", text);
  const Result ids = run({"tokenize", "-m", kModel, "-f", path, "--ids"});
  EXPECT_THAT(ids.out, MatchesRegex("[0-9 ]+\n"));
  EXPECT_EQ(run({"tokenize", "-m", kModel, "-f", "-", "--decode"}, {.input = ids.out}).out, text);
}

TEST(Tokenize, Cases) {
  const auto lines = [](const std::string& text, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"tokenize", "-m", kModel, "-f", "-", "--ids"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string out = run(arguments, {.input = text}).out;
    return std::count(out.begin(), out.end(), '\n');
  };
  EXPECT_EQ(lines("one\ntwo\n\nthree\n", {}), 1);
  EXPECT_EQ(lines("one\ntwo\n\nthree\n", {"--lines"}), 4);
  EXPECT_EQ(lines("one\n--\ntwo\n--\nthree", {"--separator", "\n--\n"}), 3);
  EXPECT_EQ(lines("one\n--\n\n--\n", {"--separator", "\n--\n"}), 2);
}

TEST(Tokenize, PiecesAreReadable) {
  const Result result = run({"tokenize", "-m", kModel, "-p", "to be\n"});
  EXPECT_THAT(result.out, MatchesRegex("\\[.*\\[.*\\\\x0a\\]\n"));
}

TEST(Inspect, ModelAsText) {
  const Result result = run({"inspect", kModel});
  EXPECT_EQ(result.status, 0);
  for (const char* part : {"kvant stand-in A (qwen2)", "6 of width 256", "blk.0-5.attn_k.weight", "Norm of the K bias",
                           "layer   0   496.8", "layer   5   449.3", "template none"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
  EXPECT_EQ(result.out.find('\x1b'), std::string::npos) << "colours without a terminal";
  EXPECT_THAT(run({"inspect", kModel, "--all"}).out, HasSubstr("blk.4.attn_k.weight"));
}

TEST(Inspect, SaysWhichTypesTheBiasRuins) {
  const json d = document(run({"inspect", kModel, "--json"}));
  ASSERT_EQ(d["k_bias"].size(), 6u);
  EXPECT_NEAR(d["k_bias"][0]["norm"], 496.8, 0.1);
  for (const json& type : d["cache_types"]) {
    // Perplexity grows by 0.2 % with q8_0 and by half with q4_0 (models/README.md).
    if (type["type"] == "q8_0") {
      EXPECT_FALSE(type["unsafe"]);
    } else {
      EXPECT_TRUE(type["unsafe"]) << type;
    }
  }
  EXPECT_EQ(d["tensors"].size(), 74u);
  EXPECT_EQ(d["architecture"], "qwen2");
}

TEST(Inspect, FilesWithoutAModel) {
  const json golden = document(run({"inspect", KVANT_SOURCE_DIR "/models/standin-a.golden.gguf", "--json"}));
  EXPECT_EQ(golden["runnable"], false);
  EXPECT_FALSE(golden.contains("problem"));
  EXPECT_EQ(golden["tensors"].size(), 3u);
}

TEST(Inspect, ModelThatCannotRun) {
  const Folder folder;
  Changes changes;
  changes.without_tensor = "blk.3.ffn_up.weight";
  const std::string path = write_model(folder, changes);
  const Result result = run({"inspect", path});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("not runnable"));
  EXPECT_THAT(result.out, HasSubstr("blk.3.ffn_up.weight"));
}

TEST(Perplexity, TextAndJsonAgree) {
  const std::vector<std::string> arguments = {"perplexity", "-m",       kModel, "-f",        kText, "-c",
                                              "128",        "--chunks", "2",    "--cache-v", "q4_0"};
  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const json d = document(run(with_json));
  expect_keys(d, {"model", "text", "context", "chunks", "tokens", "perplexity", "stderr", "k", "v", "k_bpv", "v_bpv",
                  "cache_bytes"});
  EXPECT_EQ(d["chunks"], 2);
  EXPECT_EQ(d["tokens"], 2 * 63);
  EXPECT_EQ(d["k_bpv"], 16);
  EXPECT_GE(d["v_bpv"], 4.5);
  EXPECT_LT(d["v_bpv"], 8.5);  // a small cache takes whole memory pages
  const Result text = run(arguments);
  EXPECT_EQ(text.status, 0);
  EXPECT_THAT(text.out,
              testing::StartsWith(fmt::format("perplexity {:.4f} +- {:.4f} (2 chunks, 126 tokens) k f16 v q4_0",
                                              d["perplexity"].get<double>(), d["stderr"].get<double>())));
}

TEST(Perplexity, WritesAFile) {
  const Folder folder;
  const std::string path = folder.path("result.json");
  const Result result =
      run({"perplexity", "-m", kModel, "-f", kText, "-c", "64", "--chunks", "1", "--json", "-o", path});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(json::parse(read_text(path))["chunks"], 1);
}

TEST(Bench, Json) {
  const json d = document(run({"bench", "-m", kModel, "-p", "8", "-n", "4", "-d", "0,100", "-r", "1", "--json"}));
  expect_keys(d["machine"], {"read_gb_s", "bf16_gflops", "int8_gops"});
  ASSERT_EQ(d["results"].size(), 2u);
  for (const json& row : d["results"]) {
    expect_keys(row, {"k", "v", "depth", "prompt", "prefill_tps", "decode_ms", "decode_tps", "attention_ms",
                      "weights_ms", "k_bpv", "v_bpv", "cache_bytes", "rss_bytes"});
    EXPECT_NEAR(row["decode_ms"].get<double>() * row["decode_tps"].get<double>(), 1000, 1e-6);
  }
  EXPECT_EQ(d["results"][1]["depth"], 100);
}

TEST(Bench, SuiteTakesAllCachesAtAllDepths) {
  const json d = document(run({"bench", "-m", kModel, "--suite", "-p", "8", "-n", "2", "-d", "64,0", "-r", "1",
                               "--cache-k", "lm3,recent=8", "--json"}));
  const std::vector<std::string> keys{"f16", "q8_0", "q4_0", "lm5", "lm4", "lm3", "lm2", "lm3,recent=8"};
  ASSERT_EQ(d["results"].size(), 2 * keys.size());
  for (std::size_t i = 0; i < d["results"].size(); ++i) {
    const json& row = d["results"][i];
    EXPECT_EQ(row["k"], keys[i % keys.size()]);
    EXPECT_EQ(row["v"], i % keys.size() == 7 ? "f16" : keys[i % keys.size()]);
    EXPECT_EQ(row["depth"], i < keys.size() ? 64 : 0);
    EXPECT_GT(row["attention_memory_ms"], 0.0);
    EXPECT_GT(row["attention_compute_ms"], 0.0);
  }
  const Result table = run({"bench", "-m", kModel, "--suite", "-p", "0", "-n", "2", "-d", "64", "-r", "1"});
  EXPECT_EQ(table.status, 0);
  std::istringstream lines(table.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
  EXPECT_THAT(table.out, testing::AllOf(HasSubstr("lm2"), HasSubstr("memory ms")));
}

TEST(Bench, TableFitsATerminal) {
  const Result result = run({"bench", "-m", kModel, "-p", "8", "-n", "4", "-d", "65", "-r", "1"});
  EXPECT_EQ(result.status, 0);
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
  EXPECT_THAT(result.out, HasSubstr("attention ms"));
}

}  // namespace
}  // namespace kvant::cli
