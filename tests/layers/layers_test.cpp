/// Rules that the compiler does not check: which folder may include which (ARCHITECTURE.md), where third-party headers
/// may appear, how long a file may be, and that sources are plain ASCII without machine-specific paths.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"

namespace kvant {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::size_t kMaxLines = 600;

/// Folders of src that a folder may include besides itself.
const std::map<std::string, std::set<std::string>, std::less<>> kLayers = {
    {"base", {}},
    {"gguf", {"base"}},
    {"codec", {"base", "gguf"}},
    {"kernels", {"base", "gguf", "codec"}},
    {"tokenizer", {"base", "gguf"}},
    {"cache", {"base", "gguf", "codec", "kernels"}},
    {"model", {"base", "gguf", "codec", "kernels", "cache"}},
    {"engine", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer"}},
    {"eval", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer", "engine"}},
    {"bench", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer", "engine"}},
    {"calib", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer", "engine", "eval"}},
    {"sweep", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer", "engine", "eval", "calib"}},
    {"report", {"base"}},
    {"server", {"base", "gguf", "codec", "kernels", "cache", "model", "tokenizer", "engine"}},
};

/// Third-party headers by the start of their name, and a pattern of the files that may include them.
const std::vector<std::pair<std::string, std::regex>> kThirdParty = {
    {"fmt/", std::regex(R"(src/base/error\.h|.*\.cpp)")},
    {"pcre2.h", std::regex(R"(src/(tokenizer|eval)/.*\.cpp)")},
    {"utf8proc.h", std::regex(R"(src/tokenizer/.*\.cpp)")},
    {"xxhash.h", std::regex(R"(src/base/hash\.cpp)")},
    {"Eigen/", std::regex(R"(src/codec/transform\.cpp)")},
    {"oniguruma.h", std::regex(R"(src/tokenizer/.*_test\.cpp)")},
    {"sqlite3.h", std::regex(R"((src/(report|sweep)|tests)/.*\.cpp|src/sweep/test_[a-z0-9_]*\.h)")},
    {"mpi.h", std::regex(R"(src/sweep/ranks.*\.cpp)")},
    {"httplib.h", std::regex(R"(src/server/http(_test)?\.cpp|tests/.*\.cpp)")},
    {"CLI/", std::regex(R"(apps/.*\.cpp)")},
    {"nlohmann/json_fwd.hpp", std::regex(R"((apps|tests)/.*\.h)")},
    {"nlohmann/", std::regex(R"(apps/.*\.cpp|src/(report|server|sweep)/.*\.cpp|.*_test\.cpp|tests/.*\.cpp)")},
    {"gtest/", std::regex(R"(.*_test\.cpp|tests/.*|src/.*/test_[a-z0-9_]*\.h)")},
    {"gmock/", std::regex(R"(.*_test\.cpp|tests/.*|src/.*/test_[a-z0-9_]*\.h)")},
    {"benchmark/", std::regex(R"(.*_bench\.cpp)")},
};
/// Headers in folders that belong to the system.
const std::regex kSystem(R"((sys|asm|linux)/.*)");

/// The folder of src that a file lies in, or "" when it lies elsewhere.
std::string src_folder(std::string_view file) {
  if (!file.starts_with("src/")) return "";
  file.remove_prefix(4);
  return std::string(file.substr(0, file.find('/')));
}

void check_quoted_include(const std::string& file, const std::string& header, std::vector<std::string>& complaints) {
  const std::string from = src_folder(file);
  if (from.empty()) return;  // applications and tests stand above all layers
  const std::string to = header.substr(0, header.find('/'));
  if (!kLayers.contains(from)) {
    complaints.push_back("folder " + from + " is not in the table of layers");
  } else if (!kLayers.contains(to)) {
    complaints.push_back("includes \"" + header + "\", which is no path from src");
  } else if (to != from && !kLayers.at(from).contains(to)) {
    complaints.push_back("includes \"" + header + "\", but " + from + " may not use " + to);
  }
}

void check_angle_include(const std::string& file, const std::string& header, std::vector<std::string>& complaints) {
  const auto entry = std::find_if(kThirdParty.begin(), kThirdParty.end(),
                                  [&](const auto& e) { return std::string_view(header).starts_with(e.first); });
  if (entry != kThirdParty.end()) {
    if (!std::regex_match(file, entry->second)) complaints.push_back("may not include <" + header + ">");
  } else if (header.find('/') != std::string::npos && !std::regex_match(header, kSystem)) {
    complaints.push_back("includes <" + header + ">, which is not in the table of third-party headers");
  }
}

/// Complaints about one source file, each "what" without the file's name; `file` is relative to the repository.
std::vector<std::string> check(const std::string& file, std::string_view text) {
  static const std::regex include(R"(\s*#\s*include\s*([<"])([^>"]+)[>"].*)");
  static const std::regex absolute("(^|[^A-Za-z0-9_.~])/(home|root|work|tmp|opt|mnt|usr|var|etc)/.*");
  const bool is_test = file.starts_with("tests/") || file.ends_with("_test.cpp");
  std::vector<std::string> complaints;
  std::size_t lines = 0;
  while (!text.empty()) {
    const std::string line(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    ++lines;
    std::smatch match;
    if (std::regex_match(line, match, include)) {
      (match[1] == "<" ? check_angle_include : check_quoted_include)(file, match[2], complaints);
    } else if (line.find('/') != std::string::npos && std::regex_search(line, absolute)) {
      complaints.push_back("line " + std::to_string(lines) + " holds an absolute path");
    }
    const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (!is_test && !std::all_of(line.begin(), line.end(), is_ascii)) {
      complaints.push_back("line " + std::to_string(lines) + " is not ASCII");
    }
  }
  if (lines > kMaxLines) {
    complaints.push_back("has " + std::to_string(lines) + " lines, over " + std::to_string(kMaxLines));
  }
  return complaints;
}

TEST(Layers, EverySourceFileKeepsTheRules) {
  const fs::path root = KVANT_SOURCE_DIR;
  std::size_t files = 0;
  for (const char* folder : {"src", "apps", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const fs::path extension = entry.path().extension();
      if (!entry.is_regular_file() || (extension != ".cpp" && extension != ".h" && extension != ".inc")) continue;
      const std::string file = fs::relative(entry.path(), root).generic_string();
      if (file == "tests/layers/layers_test.cpp") continue;  // its planted violations are no violations
      ++files;
      for (const std::string& complaint : check(file, read_text(entry.path()))) {
        ADD_FAILURE() << file << ": " << complaint;
      }
    }
  }
  EXPECT_GT(files, 30u) << "the walk found too few files to mean anything";
}

TEST(Layers, TheTableHasNoCycle) {
  for (const auto& [folder, uses] : kLayers) {
    for (const std::string& used : uses) {
      EXPECT_FALSE(kLayers.at(used).contains(folder)) << folder << " <-> " << used;
      for (const std::string& below : kLayers.at(used)) {
        EXPECT_TRUE(uses.contains(below)) << folder << " uses " << used << " but not what that stands on: " << below;
      }
    }
  }
}

TEST(Layers, PlantedIncludesAreReported) {
  EXPECT_THAT(check("src/gguf/reader.cpp", "#include \"model/config.h\"\n"),
              ElementsAre("includes \"model/config.h\", but gguf may not use model"));
  EXPECT_THAT(check("src/tokenizer/bpe.cpp", "  #  include \"kernels/registry.h\" // why\n"),
              ElementsAre("includes \"kernels/registry.h\", but tokenizer may not use kernels"));
  EXPECT_THAT(check("src/gguf/reader.cpp", "#include \"types.h\"\n"),
              ElementsAre("includes \"types.h\", which is no path from src"));
  EXPECT_THAT(check("src/drawer/a.h", "#include \"base/error.h\"\n"),
              ElementsAre("folder drawer is not in the table of layers"));
  EXPECT_THAT(check("src/tokenizer/tokenizer.h", "#include <pcre2.h>\n"), ElementsAre("may not include <pcre2.h>"));
  EXPECT_THAT(check("src/engine/engine.cpp", "#include <CLI/CLI.hpp>\n"), ElementsAre("may not include <CLI/CLI.hpp>"));
  EXPECT_THAT(check("src/engine/engine.h", "#include <fmt/format.h>\n"), ElementsAre("may not include <fmt/format.h>"));
  EXPECT_THAT(check("src/sweep/grid.h", "#include <nlohmann/json_fwd.hpp>\n"),
              ElementsAre("may not include <nlohmann/json_fwd.hpp>"));
  EXPECT_THAT(check("apps/kvant/json.h", "#include <nlohmann/json.hpp>\n"),
              ElementsAre("may not include <nlohmann/json.hpp>"));
  EXPECT_THAT(check("src/engine/engine.cpp", "#include <boost/any.hpp>\n"),
              ElementsAre("includes <boost/any.hpp>, which is not in the table of third-party headers"));
}

TEST(Layers, AllowedIncludesPass) {
  EXPECT_THAT(check("src/gguf/reader.h", "#pragma once\n#include <vector>\n#include \"base/error.h\"\n"), IsEmpty());
  EXPECT_THAT(check("src/base/error.h", "#include <fmt/format.h>\n"), IsEmpty());
  EXPECT_THAT(check("src/base/cpu.cpp", "#include <sys/auxv.h>\n#include <fmt/format.h>\n"), IsEmpty());
  EXPECT_THAT(check("apps/kvant/main.cpp", "#include <CLI/CLI.hpp>\n#include \"eval/perplexity.h\"\n"), IsEmpty());
}

TEST(Layers, PlantedTextIsReported) {
  EXPECT_THAT(check("src/base/a.cpp", "// na\xc3\xafve\n"), ElementsAre("line 1 is not ASCII"));
  EXPECT_THAT(check("src/base/a_test.cpp", "// na\xc3\xafve\n"), IsEmpty());
  EXPECT_THAT(check("src/base/a.cpp", "int x;\nauto f = \"/home/me/model.gguf\";"),
              ElementsAre("line 2 holds an absolute path"));
  EXPECT_THAT(check("src/base/a.cpp", "auto f = \"/proc/meminfo\", g = \"a/tmp/b\";\n"), IsEmpty());
  const auto lines = [](std::size_t n) {
    std::string text;
    for (std::size_t i = 0; i < n; ++i) text += "\n";
    return text;
  };
  EXPECT_THAT(check("src/base/a.cpp", lines(kMaxLines)), IsEmpty());
  EXPECT_THAT(check("src/base/a.cpp", lines(kMaxLines + 1)), ElementsAre("has 601 lines, over 600"));
}

}  // namespace
}  // namespace kvant
