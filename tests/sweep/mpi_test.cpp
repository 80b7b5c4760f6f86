/// kvant sweep under mpirun: the same results as one process alone.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>

#include "base/file_io.h"
#include "rows.h"

namespace kvant {
namespace {

class MpiSweep : public testing::Test {
 protected:
  MpiSweep() {
    std::string pattern = testing::TempDir() + "kvant-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    write("text.txt", read_text(KVANT_SOURCE_DIR "/models/recall.txt").substr(0, 3000));
    write("grid.json", fmt::format(R"({{"models": ["{}"], "texts": ["text.txt"], "contexts": [32, 64], "chunks": 2,
      "caches": ["f16", "q8_0", "q4_0", "lm2", "lm4/lm4"], "kinds": ["compare", "decode"], "channels": true,
      "together": 2}})",
                                   KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf"));
  }
  ~MpiSweep() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& bytes) const {
    AtomicFile file(path(name));
    file.write(bytes);
    file.commit();
  }
  /// Exit status of a sweep over so many ranks, whose output goes to "out" and "err".
  int sweep(int ranks, const std::string& grid, const std::string& database) const {
    const std::string mpirun =
        ranks == 0 ? std::string() : fmt::format("{} --allow-run-as-root --oversubscribe -np {} ", KVANT_MPIRUN, ranks);
    const std::string line = fmt::format("{}{} sweep --grid {} --db {} -t 1 >{} 2>{}", mpirun, KVANT_BINARY, path(grid),
                                         path(database), path("out"), path("err"));
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string text(const std::string& name) const { return read_text(path(name)); }

  std::filesystem::path folder_;
};

TEST_F(MpiSweep, GivesTheResultOfOneProcess) {
  ASSERT_EQ(sweep(0, "grid.json", "one"), 0) << text("err");
  ASSERT_EQ(sweep(3, "grid.json", "three"), 0) << text("err");
  EXPECT_EQ(all_rows(path("three")), all_rows(path("one")));
  EXPECT_EQ(query(path("three"), "SELECT count(*) FROM cell").front(), "20");
  // One rank speaks for all.
  const std::string out = text("out");
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1) << out;
  EXPECT_NE(out.find("20 cells, 0 done before, 20 measured"), std::string::npos) << out;
  ASSERT_EQ(sweep(2, "grid.json", "three"), 0) << text("err");
  EXPECT_NE(text("out").find("20 cells, 20 done before, 0 measured"), std::string::npos) << text("out");
}

TEST_F(MpiSweep, ErrorsEndAllRanks) {
  write("broken.json", "{}");
  EXPECT_EQ(sweep(2, "broken.json", "db"), 1);
  EXPECT_NE(text("err").find("kvant: error: " + path("broken.json") + ": key models is missing"), std::string::npos)
      << text("err");
  EXPECT_EQ(sweep(2, "grid.json", "no/db"), 1);
  EXPECT_NE(text("err").find("kvant: error: " + path("no/db") + ": "), std::string::npos) << text("err");
}

}  // namespace
}  // namespace kvant
