#pragma once
#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/writer.h"

namespace kvant::cli {

/// The model of the repository.
extern const char* const kModel;
/// A text of the repository.
extern const char* const kText;

/// What a run of the command left behind.
struct Result {
  int status = -1;  ///< exit status, or -1 where a signal ended it
  std::string out, err;
};

struct Setting {
  std::string input = {};  ///< standard input
  /// Added to the environment.
  std::vector<std::pair<std::string, std::string>> variables = {};
  std::string output_file = {};               ///< standard output goes here instead of into Result
  std::chrono::milliseconds kill_after = {};  ///< SIGKILL then, where the program is still there; 0: never
  std::size_t largest_file = 0;               ///< bytes at which writing fails, as on a full disk; 0: no limit
};

/// Runs kvant with these arguments.
Result run(const std::vector<std::string>& arguments, const Setting& setting = {});

/// The document that a run wrote, which must have ended well.
nlohmann::json document(const Result& result);
/// Expects this exit status, nothing on standard output, and one line on standard error that starts as all errors do
/// and holds `parts`.
void expect_error(const Result& result, int status, const std::vector<std::string>& parts);

/// kvant on a terminal of its own.
class TerminalRun {
 public:
  explicit TerminalRun(const std::vector<std::string>& arguments);
  ~TerminalRun();
  TerminalRun(const TerminalRun&) = delete;
  TerminalRun& operator=(const TerminalRun&) = delete;

  /// Types text: "\x03" is Ctrl-C, "\x04" at the start of a line Ctrl-D.
  void type(std::string_view text);
  /// Waits until the program has written `text` after what earlier calls waited for; false after a minute without.
  bool wait_for(std::string_view text);
  /// Sends it a signal.
  void signal(int number);
  /// Exit status once the program has ended; -1 after a minute or a signal.
  int wait();
  const std::string& output() const { return output_; }

 private:
  /// Reads once; false when nothing came.
  bool read_some();

  pid_t pid_ = -1;
  int fd_ = -1;
  std::string output_;
  std::size_t seen_ = 0;
};

/// A folder for the running test, removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }
  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

/// How a copy of the repository's model differs from it.
struct Changes {
  std::string without_tensor;
  std::string reshaped_tensor;  ///< one row less
  std::function<void(gguf::Writer&)> metadata;
  std::vector<std::string> without_keys;  ///< those that `metadata` sets anew
  std::string spoiled_tensor;             ///< of F32, whose value 3 becomes `spoiled_value`
  float spoiled_value = 0;
};
/// Writes the copy and returns its path.
std::string write_model(const Folder& folder, const Changes& changes);
/// The copy with a ChatML template.
std::string write_chat_model(const Folder& folder);

}  // namespace kvant::cli
