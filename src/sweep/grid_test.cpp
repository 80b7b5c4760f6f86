#include "sweep/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "sweep/test_folder.h"

namespace kvant::sweep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// A folder with the files that grids name, and grids in it.
class GridTest : public testing::Test {
 protected:
  GridTest() {
    for (const char* name : {"a.gguf", "b.gguf", "text.txt"}) folder_.write(name, "something");
    const std::string plan = KVANT_SOURCE_DIR "/tests/compat/plan-1.gguf";
    folder_.write("plan.gguf", read_text(plan));
  }
  Grid parse(const std::string& json, const GridFiles& instead = {}) const {
    return parse_grid(json, "grid.json", folder_.path(""), instead);
  }
  /// A grid with one entry in place of what the usual one has, or with one more.
  Grid with(const std::string& key, const std::string& value) const {
    std::string json = "{";
    for (const auto& [name, usual] :
         std::initializer_list<std::pair<std::string, std::string>>{{"models", R"(["a.gguf"])"},
                                                                    {"texts", R"(["text.txt"])"},
                                                                    {"contexts", "[512]"},
                                                                    {"caches", R"(["lm4"])"}}) {
      json += '"' + name + "\": " + (name == key ? value : usual) + ", ";
    }
    if (json.find('"' + key + '"') == std::string::npos) json += '"' + key + "\": " + value + ", ";
    json.resize(json.size() - 2);
    return parse(json + "}");
  }
  std::string error_with(const std::string& key, const std::string& value) const {
    return error([&] { with(key, value); });
  }
  template <class F>
  static std::string error(F&& f) {
    try {
      f();
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  TestFolder folder_;
};

TEST_F(GridTest, HasWhatTheFileSays) {
  const Grid grid = parse(
      R"({"models": ["a.gguf", "b.gguf"], "texts": ["text.txt"], "contexts": [512, 2048],
    "caches": ["f16", "lm4/q8_0", "lm3,sinks=4,recent=64", "plan:plan.gguf"], "kinds": ["decode", "compare"], "chunks": 7,
    "reference": "f32", "precision": "fast", "channels": true, "together": 3})");
  ASSERT_EQ(grid.models.size(), 2u);
  EXPECT_EQ(grid.models[1].name, "b.gguf");
  EXPECT_EQ(grid.models[1].path, folder_.path("b.gguf"));
  EXPECT_THAT(grid.contexts, ElementsAre(512, 2048));
  EXPECT_THAT(grid.kinds, ElementsAre("decode", "compare"));
  EXPECT_EQ(grid.chunks, 7u);
  EXPECT_EQ(grid.reference, "f32");
  EXPECT_EQ(grid.precision, "fast");
  EXPECT_TRUE(grid.channels);
  EXPECT_EQ(grid.together, 3u);
  ASSERT_EQ(grid.caches.size(), 4u);
  EXPECT_EQ(eval::to_string(grid.caches[1].pair), "lm4/q8_0");
  EXPECT_EQ(grid.caches[2].pair.k.recent, 64u);
  EXPECT_EQ(grid.caches[3].pair.k.plan, folder_.path("plan.gguf"));
  EXPECT_EQ(grid.caches[3].named.k.plan, "plan.gguf");
}

TEST_F(GridTest, Defaults) {
  const Grid grid = with("contexts", "[512]");
  EXPECT_THAT(grid.kinds, ElementsAre("compare"));
  EXPECT_EQ(grid.chunks, 0u);
  EXPECT_EQ(grid.reference, "f16");
  EXPECT_EQ(grid.precision, "reference");
  EXPECT_FALSE(grid.channels);
  EXPECT_EQ(grid.together, 8u);
}

TEST_F(GridTest, RetrievalAndAgreement) {
  const Grid grid = parse(R"({"models": ["a.gguf"], "texts": ["text.txt"], "contexts": [64], "caches": ["f16"],
    "kinds": ["retrieval", "agreement"], "retrieval": {"depths": [0, 12.5], "keys": [1, 8], "values": 2, "trials": 5, "seed": 7},
    "agreement": {"prompts": ["text.txt"], "tokens": 9}})");
  EXPECT_THAT(grid.retrieval.depths, ElementsAre(0, 12.5));
  EXPECT_THAT(grid.retrieval.keys, ElementsAre(1, 8));
  EXPECT_EQ(grid.retrieval.values, 2u);
  EXPECT_EQ(grid.retrieval.trials, 5u);
  EXPECT_EQ(grid.retrieval.seed, 7u);
  ASSERT_EQ(grid.agreement.prompts.size(), 1u);
  EXPECT_EQ(grid.agreement.prompts[0].path, folder_.path("text.txt"));
  EXPECT_EQ(grid.agreement.tokens, 9u);

  EXPECT_EQ(with("kinds", R"(["retrieval"])").retrieval, GridRetrieval{});
  EXPECT_EQ(error_with("kinds", R"(["agreement"])"), "grid.json: kind agreement needs key agreement, with its prompts");
  EXPECT_EQ(error_with("agreement", "{}"), "grid.json: agreement: key prompts is missing");
  EXPECT_EQ(error_with("retrieval", R"({"depths": [101]})"), "grid.json: retrieval: depths[0]: 101, expected 0 to 100");
  EXPECT_EQ(error_with("retrieval", R"({"keys": [0]})"), "grid.json: retrieval: keys[0]: 0, expected 1 to 240");
  EXPECT_EQ(error_with("retrieval", "[]"), "grid.json: retrieval: [], expected an object");
  EXPECT_EQ(error_with("retrieval", R"({"depth": [1]})"),
            "grid.json: retrieval: unknown key depth; the keys are depths keys values trials seed");
}

TEST_F(GridTest, FilesMayBeReplaced) {
  const GridFiles instead{{folder_.path("b.gguf")}, {folder_.path("text.txt")}};
  const Grid grid = parse(R"({"contexts": [64], "caches": ["lm4"]})", instead);
  EXPECT_EQ(grid.models.front().path, folder_.path("b.gguf"));
  EXPECT_EQ(grid.models.front().name, folder_.path("b.gguf"));
  EXPECT_EQ(error([&] {
              parse("{}", {{folder_.path("no.gguf")}, {}});
            }),
            "--model: " + folder_.path("no.gguf") + ": no such file");
}

TEST_F(GridTest, WrongValuesAreNamed) {
  EXPECT_EQ(error_with("contexts", "[512, 2]"), "grid.json: contexts[1]: 2, expected 3 to 1073741824");
  EXPECT_EQ(error_with("contexts", "[-1]"), "grid.json: contexts[0]: -1, expected 3 to 1073741824");
  EXPECT_EQ(error_with("contexts", "[5.5]"), "grid.json: contexts[0]: 5.5, expected a whole number");
  EXPECT_EQ(error_with("contexts", "[]"), "grid.json: contexts: the list is empty");
  EXPECT_EQ(error_with("contexts", "512"), "grid.json: contexts: 512, expected a list");
  EXPECT_EQ(error_with("contexts", "[512, 64, 512]"), "grid.json: contexts[2]: 512 is the same as number 0");
  EXPECT_EQ(error_with("caches", R"(["lm4", "lm4/f16"])"), "grid.json: caches[1]: \"lm4/f16\" is the same as number 0");
  EXPECT_EQ(error_with("caches", R"(["lm4,q8_0"])"), "grid.json: caches[0]: 2 caches, expected one");
  EXPECT_THAT(error_with("caches", R"(["lm4", "lm99"])"), testing::StartsWith("grid.json: caches[1]: "));
  EXPECT_EQ(error_with("caches", R"(["plan:none.gguf"])"),
            "grid.json: caches[0]: " + folder_.path("none.gguf") + ": no such file");
  EXPECT_EQ(error_with("caches", "[4]"), "grid.json: caches[0]: 4, expected a text");
  EXPECT_EQ(error_with("models", R"(["none.gguf"])"),
            "grid.json: models[0]: " + folder_.path("none.gguf") + ": no such file");
  EXPECT_EQ(error_with("models", R"([""])"), "grid.json: models[0]: empty");
  EXPECT_EQ(error_with("texts", R"(["text.txt", "./text.txt"])"),
            "grid.json: texts[1]: \"./text.txt\" is the same as number 0");
  EXPECT_THAT(error_with("texts", R"(["."])"), HasSubstr(": not a file"));
  EXPECT_EQ(error_with("kinds", R"(["speed"])"),
            "grid.json: kinds[0]: speed, expected one of: compare decode retrieval agreement");
  EXPECT_EQ(error_with("reference", R"("q8_0")"), "grid.json: reference: q8_0, expected one of: f16 f32");
  EXPECT_EQ(error_with("channels", "1"), "grid.json: channels: 1, expected true or false");
  EXPECT_EQ(error_with("together", "0"), "grid.json: together: 0, expected 1 to 1024");
  EXPECT_THAT(error_with("cache", "[]"),
              testing::StartsWith("grid.json: unknown key cache; the keys are models texts"));
  EXPECT_EQ(error([&] { parse(R"({"models": ["a.gguf"], "contexts": [64], "caches": ["lm4"]})"); }),
            "grid.json: key texts is missing");
}

TEST_F(GridTest, BrokenJsonIsPlaced) {
  EXPECT_EQ(error([&] { parse("{\n  \"models\": [,]\n}"); }), "grid.json: no valid JSON at line 2, column 14");
  EXPECT_EQ(error([&] { parse(""); }), "grid.json: no valid JSON at line 1, column 1");
  EXPECT_EQ(error([&] { parse("[1]"); }), "grid.json: [1], expected an object");
  EXPECT_EQ(error([&] { parse(R"({"chunks": 1, "chunks": 2})"); }), "grid.json: key chunks stands twice");
  EXPECT_EQ(error([&] { parse(std::string(100000, '[')); }), "grid.json: lists and objects in each other over 4 deep");
}

}  // namespace
}  // namespace kvant::sweep
