#include "sweep/database.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <thread>

#include "base/error.h"
#include "sweep/owner.h"
#include "sweep/test_folder.h"

namespace kvant::sweep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using testing::UnorderedElementsAre;

bool nobody_is_dead(const std::string&) { return false; }
bool everybody_is_dead(const std::string&) { return true; }

/// A result with all the rows that one can have.
Findings findings(const std::string& key) {
  Findings all;
  all.models = {{"m1", "model.gguf", "name", "qwen2", "Q8_0", 100, 6, 4, 2, 64}};
  all.corpora = {{"c1", "text.txt", 50}};
  all.plans = {{"p1", "plan.gguf", 10, {{"k", 0, 1, 3.5, "64 lm3"}}}};
  CellRow cell;
  cell.key = key;
  cell.kind = "compare";
  cell.model = "m1";
  cell.corpus = "c1";
  cell.plan = "p1";
  cell.k = "lm4";
  cell.metrics = {{"all", "kld_mean", 0.25}, {"all", "kld_max", std::nan("")}};
  cell.retrieval = {{4, 0.5, 20, 10, 0.3, 0.7}};
  all.cells = {cell};
  return all;
}

std::string error_of(const std::string& path) {
  try {
    const Database database(path);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Database, RowsAreWrittenOnce) {
  const TestFolder folder;
  const std::string path = folder.path("db");
  Database database(path);
  database.add(findings("one"), {});
  Findings again = findings("one");
  again.cells.front().metrics = {{"all", "kld_mean", 7}};
  database.add(again, {});  // a cell that is there stays as it is
  database.add(findings("two"), {});
  EXPECT_THAT(database.finished(), UnorderedElementsAre("one", "two"));
  EXPECT_THAT(query(path,
                    "SELECT count(*) FROM model UNION ALL SELECT count(*) FROM corpus UNION ALL SELECT count(*) "
                    "FROM plan UNION ALL SELECT count(*) FROM plan_head"),
              ElementsAre("1", "1", "1", "1"));
  EXPECT_THAT(query(path, "SELECT key, name, value FROM metric JOIN cell ON id = cell_id ORDER BY cell_id, name"),
              ElementsAre("one|kld_max|NULL", "one|kld_mean|0.25", "two|kld_max|NULL", "two|kld_mean|0.25"));
  EXPECT_THAT(query(path, "SELECT keys, depth, trials, found, low, high FROM retrieval"),
              ElementsAre("4|0.5|20|10|0.3|0.7", "4|0.5|20|10|0.3|0.7"));
}

TEST(Database, ManyMayMakeItAtOnce) {
  const TestFolder folder;
  for (int round = 0; round < 100; ++round) {
    const std::string path = folder.path(std::to_string(round));
    std::vector<std::string> errors(4);
    {
      std::vector<std::jthread> threads;
      for (std::string& error : errors) {
        threads.emplace_back([&] {
          try {
            const Database database(path);
          } catch (const Error& e) {
            error = e.what();
          }
        });
      }
    }
    for (const std::string& error : errors) ASSERT_EQ(error, "") << "round " << round;
  }
}

TEST(Database, NothingIsWrittenOfWhatFails) {
  const TestFolder folder;
  const std::string path = folder.path("db");
  Database database(path);
  Findings broken = findings("one");
  broken.cells.push_back(broken.cells.front());
  broken.cells.back().key = "two";
  broken.cells.back().model = "nothing of this hash";
  EXPECT_THROW(database.add(broken, {}), Error);
  EXPECT_THAT(database.finished(), IsEmpty());
  EXPECT_THAT(query(path, "SELECT count(*) FROM model"), ElementsAre("0"));
}

TEST(Database, UnitsAreClaimedOnce) {
  const TestFolder folder;
  Database mine(folder.path("db")), other(folder.path("db"));
  const std::vector<std::string> units = {"a", "b", "c", "d"};
  mine.add(findings("c"), {});
  const Claimed first = mine.claim(units, 2, "me", nobody_is_dead);
  EXPECT_THAT(first.taken, ElementsAre("a", "b"));
  EXPECT_THAT(first.settled, ElementsAre("c"));
  const Claimed rest = other.claim(units, 9, "other", nobody_is_dead);
  EXPECT_THAT(rest.taken, ElementsAre("d"));
  EXPECT_THAT(rest.settled, ElementsAre("c"));
  EXPECT_THAT(other.claim(units, 9, "other", nobody_is_dead).taken, IsEmpty());  // not even one's own

  mine.add(findings("a"), std::vector<std::string>{"a"});
  mine.release("me");
  EXPECT_THAT(query(folder.path("db"), "SELECT unit, owner FROM claim"), ElementsAre("d|other"));
  EXPECT_THAT(other.claim(units, 9, "other", nobody_is_dead).taken, ElementsAre("b"));
}

TEST(Database, ClaimsEndWithTheirOwner) {
  const TestFolder folder;
  const std::string path = folder.path("db");
  Database database(path);
  const std::vector<std::string> units = {"a"};
  EXPECT_THAT(database.claim(units, 1, "first", nobody_is_dead).taken, ElementsAre("a"));
  EXPECT_THAT(database.claim(units, 1, "second", everybody_is_dead).taken, ElementsAre("a"));

  const auto age = [&](int seconds) {
    query(path,
          fmt::format("UPDATE claim SET heartbeat = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-{} seconds')", seconds));
  };
  age(Database::kExpirySeconds - 5);
  EXPECT_THAT(database.claim(units, 1, "third", nobody_is_dead).taken, IsEmpty());
  age(Database::kExpirySeconds + 5);
  database.beat("second");
  EXPECT_THAT(database.claim(units, 1, "third", nobody_is_dead).taken, IsEmpty());
  age(Database::kExpirySeconds + 5);
  EXPECT_THAT(database.claim(units, 1, "third", nobody_is_dead).taken, ElementsAre("a"));
}

TEST(Database, ChannelsAreAUnit) {
  const TestFolder folder;
  Database database(folder.path("db"));
  Findings found = findings("one");
  found.cells.clear();
  found.channels = {{0, 0, 0, 1, 2}, {0, 0, 1, 3, 4}};
  database.add(found, {});
  const std::vector<std::string> units = {channels_unit("m1", "c1"), channels_unit("m1", "c2")};
  EXPECT_THAT(database.finished(), UnorderedElementsAre(units[0]));
  const Claimed claimed = database.claim(units, 9, "me", nobody_is_dead);
  EXPECT_THAT(claimed.settled, ElementsAre(units[0]));
  EXPECT_THAT(claimed.taken, ElementsAre(units[1]));
}

/// While it lives, files of this process grow to so many bytes at most, as on a full disk.
class FullDisk {
 public:
  explicit FullDisk(std::size_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &usual_);
    const rlimit little{bytes, usual_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &little);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &usual_);
    ::signal(SIGXFSZ, SIG_DFL);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit usual_{};
};

TEST(Database, AFullDiskCostsOnlyWhatIsWritten) {
  const TestFolder folder;
  const std::string path = folder.path("db");
  Database database(path);
  database.add(findings("one"), {});
  std::string message;
  {
    const FullDisk disk(std::filesystem::file_size(path + "-wal") + 1);
    try {
      Findings large = findings("two");
      for (std::size_t i = 0; i < 20000; ++i) large.cells[0].metrics.push_back({"all", std::to_string(i), 1});
      database.add(large, {});
    } catch (const Error& e) {
      message = e.what();
    }
  }
  EXPECT_THAT(message, StartsWith(path + ": "));
  EXPECT_THAT(database.finished(), UnorderedElementsAre("one"));
  database.add(findings("two"), {});
  EXPECT_THAT(database.finished(), UnorderedElementsAre("one", "two"));
  EXPECT_THAT(query(path, "PRAGMA integrity_check"), ElementsAre("ok"));
}

TEST(Database, ForeignFilesAreRefused) {
  const TestFolder folder;
  EXPECT_THAT(error_of(folder.path("nowhere/db")), StartsWith(folder.path("nowhere/db") + ": unable to open"));
  const std::string text = folder.write("text", std::string(4096, 'x'));
  EXPECT_EQ(error_of(text), text + ": file is not a database");
  const std::string foreign = folder.path("foreign");
  query(foreign, "CREATE TABLE notes(text TEXT)");
  EXPECT_EQ(error_of(foreign), foreign + ": not a database of kvant sweep");
  const std::string other = folder.path("other");
  EXPECT_EQ(error_of(other), "");
  query(other, "PRAGMA user_version = 2");
  EXPECT_EQ(error_of(other), other + ": version 2 of the tables, expected 1");
  query(other, "PRAGMA user_version = 1; DROP TABLE metric");
  EXPECT_EQ(error_of(other), other + ": 8 of the 9 tables of kvant sweep");
  EXPECT_EQ(error_of(folder.write("empty", "")), "");
}

TEST(Owner, OnlyWhatHasEndedIsDead) {
  const std::string own = process_owner();
  EXPECT_FALSE(is_dead(own));
  EXPECT_EQ(process_owner(), own);
  std::string earlier = own;
  earlier.back() = earlier.back() == '1' ? '2' : '1';  // the same id, started at another time
  EXPECT_TRUE(is_dead(earlier));
  const std::size_t boot = own.find('/') + 1;
  std::string elsewhere = earlier;
  elsewhere[boot] = elsewhere[boot] == 'a' ? 'b' : 'a';
  EXPECT_FALSE(is_dead(elsewhere));  // of another machine nothing is known
  EXPECT_FALSE(is_dead(""));
  EXPECT_FALSE(is_dead("host"));
}

TEST(Owner, ChildrenThatWereKilledAreDead) {
  int pipes[2];
  ASSERT_EQ(::pipe(pipes), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string own = process_owner();
    const ssize_t written = ::write(pipes[1], own.data(), own.size());
    ::_exit(written > 0 ? 0 : 1);
  }
  char text[512];
  const ssize_t n = ::read(pipes[0], text, sizeof text);
  ASSERT_GT(n, 0);
  const std::string owner(text, static_cast<std::size_t>(n));
  int status = 0;
  // Before anybody has asked how it ended it is still there, as a zombie.
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(is_dead(owner));
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(is_dead(owner));
  ::close(pipes[0]);
  ::close(pipes[1]);
}

}  // namespace
}  // namespace kvant::sweep
