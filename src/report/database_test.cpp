#include "report/database.h"

#include <gmock/gmock.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"

namespace kvant::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string test_data(const std::string& name) { return read_text(KVANT_SOURCE_DIR "/tests/report/" + name); }

/// A database file in a folder of its own, both gone at the end.
class DatabaseFile {
 public:
  DatabaseFile() : folder_(fs::path(testing::TempDir()) / fmt::format("kvant_report_{}_{}", ::getpid(), name())) {
    fs::create_directories(folder_);
  }
  explicit DatabaseFile(const std::string& sql) : DatabaseFile() {
    run(test_data("tables.sql"));
    run(sql);
  }
  ~DatabaseFile() { fs::remove_all(folder_); }
  DatabaseFile(const DatabaseFile&) = delete;
  DatabaseFile& operator=(const DatabaseFile&) = delete;

  const fs::path& folder() const { return folder_; }
  std::string path() const { return (folder_ / "results.sqlite").string(); }
  void run(const std::string& sql) const {
    sqlite3* handle = nullptr;
    char* message = nullptr;
    EXPECT_EQ(sqlite3_open(path().c_str(), &handle), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK) << message;
    sqlite3_close(handle);
  }
  json document() const { return json::parse(read_document(path(), "1.2.3")); }
  /// The message of the error that reading it throws.
  std::string error(ErrorCode code) const {
    try {
      read_document(path(), "1.2.3");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), AllOf(StartsWith(path() + ": "), testing::Not(HasSubstr("\n"))));
      return std::string(error.what()).substr(path().size() + 2);
    }
    ADD_FAILURE() << "no error";
    return "";
  }
  /// Names and bytes of all files in its folder.
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      all[entry.path().filename().string()] = read_text(entry.path().string());
    }
    return all;
  }

 private:
  static const char* name() { return testing::UnitTest::GetInstance()->current_test_info()->name(); }
  fs::path folder_;
};

constexpr const char* kCell =
    "INSERT INTO cell VALUES (7, 'key', 'compare', 1, 2, NULL, 'lm4', 'q8_0', 512, 10, 'f16', 'reference', '0.1.0', "
    "'kvant eval', 5110, 4.125, 8.5, 1024, 96, 1.23456789, '2026-01-31T12:00:00Z');";

TEST(ReportDatabase, DocumentHoldsWhatTheTablesHold) {
  DatabaseFile file(std::string(kCell) + R"(
    INSERT INTO model VALUES (1, 'aa', 'm.gguf', 'M', 'qwen2', 'Q8_0', 100, 6, 4, 2, 64);
    INSERT INTO corpus VALUES (2, 'bb', 't.txt', 50);
    INSERT INTO plan VALUES (3, 'cc', 'p.gguf', 70);
    INSERT INTO plan_head VALUES (3, 'v', 0, 1, 3.5, 'lm4*32'), (3, 'k', 0, 0, 2.25, 'lm2*64');
    INSERT INTO metric VALUES (7, 'all', 'kld_mean', 0.0123456789), (7, 'all', 'top1', 1),
      (7, 'positions:0-64', 'kld_mean', 0.5);
    INSERT INTO retrieval VALUES (7, 4, 0.5, 20, 18, 0.7, 0.97);
    INSERT INTO channel VALUES (1, 2, 0, 0, 1, -170.123456, 0.4), (1, 2, 1, 0, 0, 2, 3);)");
  EXPECT_EQ(file.document(), json::parse(R"({
    "version": "1.2.3", "database": "results.sqlite",
    "models": [{"id": 1, "hash": "aa", "file": "m.gguf", "name": "M", "architecture": "qwen2", "weights": "Q8_0",
      "bytes": 100, "layers": 6, "q_heads": 4, "kv_heads": 2, "head_dim": 64}],
    "corpora": [{"id": 2, "hash": "bb", "file": "t.txt", "bytes": 50}],
    "plans": [{"id": 3, "hash": "cc", "file": "p.gguf", "bytes": 70,
      "heads": [["k", 0, 0, 2.25, "lm2*64"], ["v", 0, 1, 3.5, "lm4*32"]]}],
    "metric_names": ["kld_mean", "top1"],
    "cells": [{"id": 7, "kind": "compare", "model_id": 1, "corpus_id": 2, "plan_id": null, "k": "lm4", "v": "q8_0",
      "context": 512, "chunks": 10, "reference": "f16", "precision": "reference", "version": "0.1.0",
      "command": "kvant eval", "tokens": 5110, "k_bpv": 4.125, "v_bpv": 8.5, "cache_bytes": 1024,
      "constant_bytes": 96, "seconds": 1.23457, "finished": "2026-01-31T12:00:00Z",
      "metrics": {"all": [0.0123457, 1.0], "positions:0-64": [0.5]},
      "retrieval": [[4, 0.5, 20, 18, 0.7, 0.97]]}],
    "channels": [{"model_id": 1, "corpus_id": 2, "layers": 2, "kv_heads": 1, "channels": 2,
      "mean": [null, -170.1, 2.0, null], "std": [null, 0.4, 3.0, null]}]})"));
}

TEST(ReportDatabase, FixtureIsReadWhole) {
  const DatabaseFile file(test_data("fixture.sql"));
  const json document = file.document();
  EXPECT_EQ(document["models"].size(), 2u);
  EXPECT_EQ(document["cells"].size(), 226u);
  EXPECT_EQ(document["plans"][1]["heads"].size(), 2u * 24 * 2);
  EXPECT_EQ(document["channels"][0]["mean"].size(), 6u * 2 * 64);
}

TEST(ReportDatabase, EmptyTablesGiveEmptyLists) {
  const json document = DatabaseFile("").document();
  for (const char* list : {"models", "corpora", "plans", "metric_names", "cells", "channels"}) {
    EXPECT_EQ(document[list], json::array()) << list;
  }
}

TEST(ReportDatabase, WhatIsNoFiniteNumberBecomesNull) {
  const DatabaseFile file(std::string(kCell) + R"(
    UPDATE cell SET k_bpv = 9e999, v_bpv = 'much', context = 'long', tokens = 1.5, seconds = NULL, plan_id = x'00';
    INSERT INTO metric VALUES (7, 'all', 'kld_mean', 9e999), (7, 'all', 'kld_se', -9e999), (7, 'all', 'top1', NULL);)");
  const json document = file.document();
  const json& cell = document["cells"][0];
  for (const char* name : {"k_bpv", "v_bpv", "context", "tokens", "seconds", "plan_id"}) {
    EXPECT_TRUE(cell[name].is_null()) << name << " " << cell[name];
  }
  EXPECT_EQ(cell["metrics"]["all"], json::parse("[null, null, null]"));
}

TEST(ReportDatabase, BytesThatAreNoUtf8AreReplaced) {
  const DatabaseFile file(R"(INSERT INTO model(id, file, name) VALUES (1, CAST(x'6dff2e' AS TEXT), x'c3a9e282');
                             INSERT INTO corpus(id, file) VALUES (1, 'a' || char(0) || char(10) || 'b');)");
  const json document = file.document();
  EXPECT_EQ(document["models"][0]["file"], "m\xEF\xBF\xBD.");
  EXPECT_EQ(document["models"][0]["name"], "\xC3\xA9\xEF\xBF\xBD");
  EXPECT_EQ(document["corpora"][0]["file"], std::string("a\0\nb", 4));
}

TEST(ReportDatabase, DocumentIsAscii) {
  const DatabaseFile file("INSERT INTO model(id, name) VALUES (1, char(0x4e2d, 0x1f600));");
  const std::string text = read_document(file.path(), "1");
  EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) { return c > 0 && c < 0x7f; }));
  EXPECT_EQ(json::parse(text)["models"][0]["name"], "\xE4\xB8\xAD\xF0\x9F\x98\x80");
}

TEST(ReportDatabase, NamesOfMetricsThatDifferInTypeOnlyAreOne) {
  const DatabaseFile file(std::string(kCell) + R"(
    INSERT INTO metric VALUES (7, 'all', 'a', 1), (7, 'all', x'61', 2), (7, 'all', 'b', 3), (7, 'part', 'b', 4);)");
  const json document = file.document();
  EXPECT_EQ(document["metric_names"], json::parse(R"(["b", "a"])"));
  EXPECT_EQ(document["cells"][0]["metrics"]["part"], json::parse("[4.0]"));
  EXPECT_EQ(document["cells"][0]["metrics"]["all"][0], 3.0);
}

TEST(ReportDatabase, RowsOfCellsAndPlansThatAreNotThereAreLeftOut) {
  const DatabaseFile file(R"(INSERT INTO metric VALUES (1, 'all', 'kld_mean', 1), (NULL, 'all', 'kld_mean', 2);
                             INSERT INTO retrieval VALUES (5, 1, 0, 1, 1, 0, 1);
                             INSERT INTO plan_head VALUES (9, 'k', 0, 0, 4, '');)");
  const json document = file.document();
  EXPECT_EQ(document["cells"], json::array());
  EXPECT_EQ(document["plans"], json::array());
}

TEST(ReportDatabase, FilesThatAreNoneOfOurs) {
  const DatabaseFile missing;
  EXPECT_EQ(missing.error(ErrorCode::io), "no such file");

  const DatabaseFile file;
  AtomicFile text(file.path());
  text.write("This is a text, not a database, and longer than a header of one would be: 100 bytes are enough for it.");
  text.commit();
  EXPECT_EQ(file.error(ErrorCode::format), "file is not a database");
  EXPECT_EQ(file.files().size(), 1u);
}

TEST(ReportDatabase, FoldersAndEmptyFiles) {
  const DatabaseFile folder;
  fs::create_directory(folder.path());
  EXPECT_EQ(folder.error(ErrorCode::io), "not a file");

  fs::remove(folder.path());
  AtomicFile(folder.path()).commit();
  EXPECT_THAT(folder.error(ErrorCode::format), HasSubstr("not a database of kvant sweep"));
}

TEST(ReportDatabase, OtherTablesAndVersions) {
  const DatabaseFile file;
  file.run("CREATE TABLE bookmark(id INTEGER PRIMARY KEY);");
  EXPECT_THAT(file.error(ErrorCode::format), HasSubstr("not a database of kvant sweep"));
  file.run(test_data("tables.sql"));
  file.run("PRAGMA user_version = 2;");
  EXPECT_EQ(file.error(ErrorCode::format), "version 2 of the tables, expected 1");
  file.run("PRAGMA user_version = 1; DROP TABLE metric;");
  EXPECT_EQ(file.error(ErrorCode::format), "7 of the 8 tables of kvant sweep");
  // A view in a table's place could do anything.
  file.run("CREATE VIEW metric AS SELECT 1 AS cell_id, 'all' AS scope, 'x' AS name, 1 AS value;");
  EXPECT_EQ(file.error(ErrorCode::format), "7 of the 8 tables of kvant sweep");
  file.run("DROP VIEW metric; CREATE TABLE metric(cell_id INTEGER, scope TEXT, name TEXT);");
  EXPECT_EQ(file.error(ErrorCode::format), "no such column: value");
}

TEST(ReportDatabase, DamagedPages) {
  const DatabaseFile file(test_data("fixture.sql"));
  std::string bytes = file.files().at("results.sqlite");
  for (std::size_t i = 8192; i < bytes.size(); i += 7) bytes[i] = static_cast<char>(bytes[i] ^ 0x55);
  AtomicFile damaged(file.path());
  damaged.write(bytes);
  damaged.commit();
  EXPECT_THAT(file.error(ErrorCode::format), HasSubstr("malformed"));
  AtomicFile cut(file.path());
  cut.write(std::string_view(bytes).substr(0, 5000));
  cut.commit();
  EXPECT_THAT(file.error(ErrorCode::format), HasSubstr("malformed"));
}

TEST(ReportDatabase, ChannelsOutOfRange) {
  const std::pair<const char*, const char*> bad[] = {
      {"(1, 1, -1, 0, 0, 1, 1)", "table channel: layer -1, expected 0 to 1048575"},
      {"(1, 1, 0, 'first', 0, 1, 1)", "table channel: kv_head first, expected 0 to 1048575"},
      {"(1, 1, 0, 0, 99999999999, 1, 1)", "table channel: channel 99999999999, expected 0 to 1048575"},
      {"(1, 1, 0, 0, 1, 1, 1), (1, 1, 0, NULL, 0, 1, 1)", "table channel: kv_head , expected 0 to 0"},
      {"(1, 1, 2047, 63, 127, 1, 1)", "table channel: 2048 layers of 64 heads of 128 channels, over 2097152 in all"},
      {"(1, 1, 0, 0, 0, 1, 1), (1, 2, 2047, 31, 31, 1, 1)",
       "table channel: 2048 layers of 32 heads of 32 channels, over 2097152 in all"}};
  for (const auto& [rows, message] : bad) {
    const DatabaseFile file(std::string("INSERT INTO channel VALUES ") + rows + ";");
    EXPECT_THAT(
        file.error(std::string_view(message).ends_with("in all") ? ErrorCode::out_of_memory : ErrorCode::format),
        message);
    fs::remove_all(file.folder());
  }
}

TEST(ReportDatabase, ManyNamesOfMetricsDoNotFillTheMemory) {
  const DatabaseFile file(R"(
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
    INSERT INTO metric SELECT i, 'all', 'name ' || i, i FROM n;)");
  EXPECT_EQ(file.error(ErrorCode::out_of_memory), "table metric: too many names for its values");
}

TEST(ReportDatabase, ReadingLeavesNothingBehind) {
  const DatabaseFile file(kCell);
  const auto before = file.files();
  EXPECT_EQ(before.size(), 1u);
  file.document();
  EXPECT_EQ(file.files(), before);
}

TEST(ReportDatabase, FolderThatCannotBeWrittenTo) {
  const DatabaseFile file(kCell);
  fs::permissions(file.path(), fs::perms::owner_read);
  fs::permissions(file.folder(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(file.document()["cells"].size(), 1u);
  fs::permissions(file.folder(), fs::perms::owner_all);
}

TEST(ReportDatabase, WhileAnotherProcessWrites) {
  const DatabaseFile file(kCell);
  sqlite3* writer = nullptr;
  ASSERT_EQ(sqlite3_open(file.path().c_str(), &writer), SQLITE_OK);
  const auto run = [&](const char* sql) { ASSERT_EQ(sqlite3_exec(writer, sql, nullptr, nullptr, nullptr), SQLITE_OK); };
  run("BEGIN IMMEDIATE; UPDATE cell SET k = 'half'; INSERT INTO metric VALUES (7, 'all', 'x', 1)");
  EXPECT_EQ(file.document()["cells"][0]["k"], "lm4");
  EXPECT_EQ(file.document()["metric_names"], json::array());
  run("COMMIT");
  EXPECT_EQ(file.document()["cells"][0]["k"], "half");  // still in the log
  run("UPDATE cell SET k = 'lm3'");                     // reading has not put an end to the log
  sqlite3_close(writer);
  EXPECT_EQ(file.document()["cells"][0]["k"], "lm3");
}

}  // namespace
}  // namespace kvant::report
