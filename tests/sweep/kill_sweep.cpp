/// Kills small sweeps at random times (kill -9) and lets them go on: kill_sweep KVANT COUNT [SEED].
/// Fails when a cell that was finished is lost or changed, when one is there twice, or when a sweep that was killed
/// ends with other rows than one that was left alone.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/random.h"
#include "rows.h"

namespace kvant {
namespace {

namespace fs = std::filesystem;

/// A sweep of 16 cells in 8 groups, and the channels of its text.
constexpr std::size_t kCells = 16;
constexpr const char* kGrid = R"({
  "models": ["model.gguf"], "texts": ["text.txt"], "contexts": [8, 12], "chunks": 1, "together": 2,
  "caches": ["f16", "q4_0", "lm2", "lm4/lm4"], "kinds": ["compare", "decode"], "channels": true
})";

class Killer {
 public:
  Killer(std::string kvant, std::uint64_t seed) : kvant_(std::move(kvant)), random_(seed) {
    std::string pattern = (fs::temp_directory_path() / "kvant-kill-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    fs::create_symlink(KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf", folder_ / "model.gguf");
    write("text.txt", read_text(KVANT_SOURCE_DIR "/models/recall.txt").substr(0, 400));
    write("grid.json", kGrid);
  }
  ~Killer() { fs::remove_all(folder_); }
  Killer(const Killer&) = delete;
  Killer& operator=(const Killer&) = delete;

  /// Runs a sweep to its end, for its rows and the time that one takes.
  void run_undisturbed() {
    const Stopwatch watch;
    check(end_of(start("whole.sqlite")) == 0, "the sweep that was left alone failed");
    seconds_ = watch.seconds();
    expected_ = all_rows(path("whole.sqlite"));
    cells_ = finished("whole.sqlite").size();
    check(cells_ == kCells, fmt::format("{} cells, expected {}", cells_, kCells));
  }

  /// One sweep, killed up to three times; `shared`: while another process works on the same database.
  void run(std::size_t number, bool shared) {
    const std::string name = fmt::format("{}.sqlite", number);
    std::vector<std::string> known;
    for (std::size_t left = 1 + random_.below(3); left > 0; --left) {
      const pid_t other = shared ? start(name) : -1;
      const pid_t process = start(name);
      const double delay = seconds_ * 1.1 * random_.uniform();
      std::this_thread::sleep_for(std::chrono::duration<double>(delay));
      ::kill(process, SIGKILL);
      const int status = end_of(process);
      check(status == 0 || status == -SIGKILL, fmt::format("run {}: status {}", number, status));
      (status == 0 ? too_late_ : kills_) += 1;
      known = compare(name, known, number);
      if (shared) check(end_of(other) == 0, fmt::format("run {}: the process beside it failed", number));
    }
    check(end_of(start(name)) == 0, fmt::format("run {}: the last process failed", number));
    known = compare(name, known, number);
    check(all_rows(path(name)) == expected_, fmt::format("run {}: other rows than without kills", number));
    check(query(path(name), "PRAGMA integrity_check") == std::vector<std::string>{"ok"},
          fmt::format("run {}: the database is damaged", number));
    for (const char* more : {"", "-wal", "-shm"}) fs::remove(path(name) + more);
  }

  std::string summary(std::size_t count) const {
    return fmt::format(
        "{} sweeps of {} cells ({:.2f} s undisturbed): {} kills, {} of them when all was done already, otherwise with "
        "{:.1f} cells finished on average; none lost, none twice, all with the rows of an undisturbed one\n",
        count, cells_, seconds_, kills_ + too_late_, too_late_,
        static_cast<double>(seen_) / static_cast<double>(std::max<std::size_t>(1, kills_)));
  }

 private:
  static void check(bool condition, const std::string& what) { KVANT_CHECK(condition, ErrorCode::format, "{}", what); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& bytes) const {
    AtomicFile file(path(name));
    file.write(bytes);
    file.commit();
  }

  pid_t start(const std::string& database) const {
    const std::string grid = path("grid.json"), db = path(database);
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    const int null = ::open("/dev/null", O_WRONLY);
    ::dup2(null, STDOUT_FILENO);
    ::execl(kvant_.c_str(), kvant_.c_str(), "sweep", "--grid", grid.c_str(), "--db", db.c_str(), "-t", "1", nullptr);
    ::_exit(127);
  }
  /// Exit status, or the signal's number as a negative one.
  static int end_of(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  /// The cells that are finished, with all that they say; none where there is no database yet.
  std::vector<std::string> finished(const std::string& name) const {
    if (!fs::exists(path(name)) || query(path(name), "SELECT 1 FROM sqlite_schema WHERE name = 'claim'").empty())
      return {};
    return query(path(name),
                 "SELECT cell.*, (SELECT group_concat(scope || name || coalesce(value, '-')) FROM metric WHERE "
                 "cell_id = id) FROM cell ORDER BY id");
  }

  /// Checks that what is known to be finished still is so, and that no cell is there twice.
  std::vector<std::string> compare(const std::string& name, const std::vector<std::string>& known, std::size_t number) {
    std::vector<std::string> now = finished(name);
    for (const std::string& cell : known) {
      check(std::find(now.begin(), now.end(), cell) != now.end(),
            fmt::format("run {}: a cell was lost or changed: {}", number, cell));
    }
    if (!now.empty()) {
      const auto twice = query(path(name), "SELECT key FROM cell GROUP BY key HAVING count(*) > 1");
      check(twice.empty(), fmt::format("run {}: a cell is there twice", number));
    }
    if (now.size() < cells_) seen_ += now.size();
    return now;
  }

  std::string kvant_;
  Random random_;
  fs::path folder_;
  double seconds_ = 0;
  std::vector<std::string> expected_;
  std::size_t cells_ = 0, kills_ = 0, too_late_ = 0, seen_ = 0;
};

int kill_sweeps(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: kill_sweep KVANT COUNT [SEED]\n", stderr);
    return 2;
  }
  const std::size_t count = std::stoul(argv[2]);
  Killer killer(argv[1], argc > 3 ? std::stoul(argv[3]) : 1);
  killer.run_undisturbed();
  for (std::size_t i = 0; i < count; ++i) {
    killer.run(i, i % 4 == 3);
    if ((i + 1) % 50 == 0) std::fputs(fmt::format("{}/{}\n", i + 1, count).c_str(), stderr);
  }
  std::fputs(killer.summary(count).c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace kvant

int main(int argc, char** argv) {
  try {
    return kvant::kill_sweeps(argc, argv);
  } catch (const std::exception& e) {
    std::fputs(fmt::format("kill_sweep: {}\n", e.what()).c_str(), stderr);
    return 1;
  }
}
