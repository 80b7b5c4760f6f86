#include "command.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/file_io.h"

namespace kvant::cli {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr auto kPatience = std::chrono::seconds(60);

/// The command with what runs foreign binaries in front.
std::vector<std::string> command_line(const std::vector<std::string>& arguments) {
  std::vector<std::string> line;
  std::stringstream emulator(KVANT_EMULATOR);
  for (std::string word; emulator >> word;) line.push_back(word);
  line.push_back(KVANT_BINARY);
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

/// In the child: becomes the command. `line` was made before the fork.
[[noreturn]] void become(std::vector<std::string>& line) {
  std::vector<char*> argv;
  for (std::string& word : line) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

void redirect(int to, const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags, 0600);
  if (fd < 0 || ::dup2(fd, to) < 0) ::_exit(126);
}

/// In the child: writing more than so many bytes to a file fails.
void limit_files(std::size_t bytes) {
  const rlimit limit{bytes, bytes};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0 || ::signal(SIGXFSZ, SIG_IGN) == SIG_ERR) ::_exit(125);
}

/// Kills a child, unless it ends by itself before.
void kill_after(pid_t pid, std::chrono::milliseconds delay) {
  const auto end = std::chrono::steady_clock::now() + delay;
  siginfo_t info{};
  while (std::chrono::steady_clock::now() < end) {
    if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(pid, SIGKILL);
}

}  // namespace

const char* const kModel = KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf";
const char* const kText = KVANT_SOURCE_DIR "/models/recall.txt";

Result run(const std::vector<std::string>& arguments, const Setting& setting) {
  const Folder folder;
  const std::string in = folder.write("in", setting.input), err = folder.path("err");
  const std::string out = setting.output_file.empty() ? folder.path("out") : setting.output_file;
  std::vector<std::string> line = command_line(arguments);
  const pid_t pid = ::fork();
  if (pid == 0) {
    for (const auto& [name, value] : setting.variables) ::setenv(name.c_str(), value.c_str(), 1);
    if (setting.largest_file > 0) limit_files(setting.largest_file);
    redirect(STDIN_FILENO, in, O_RDONLY);
    redirect(STDOUT_FILENO, out, O_WRONLY | O_CREAT);
    redirect(STDERR_FILENO, err, O_WRONLY | O_CREAT);
    become(line);
  }
  if (setting.kill_after.count() > 0) kill_after(pid, setting.kill_after);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  Result result;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  if (setting.output_file.empty()) result.out = read_text(out);
  result.err = read_text(err);
  return result;
}

nlohmann::json document(const Result& result) {
  EXPECT_EQ(result.status, 0) << result.err;
  return nlohmann::json::parse(result.out, nullptr, false);
}

void expect_error(const Result& result, int status, const std::vector<std::string>& parts) {
  EXPECT_EQ(result.status, status) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, AllOf(StartsWith("kvant: error: "), EndsWith("\n")));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const std::string& part : parts) EXPECT_THAT(result.err, HasSubstr(part));
}

TerminalRun::TerminalRun(const std::vector<std::string>& arguments) {
  std::vector<std::string> line = command_line(arguments);
  pid_ = ::forkpty(&fd_, nullptr, nullptr, nullptr);
  if (pid_ == 0) {
    ::setenv("TERM", "xterm", 1);
    become(line);
  }
}

TerminalRun::~TerminalRun() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(fd_);
}

void TerminalRun::type(std::string_view text) {
  ASSERT_EQ(::write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

bool TerminalRun::read_some() {
  pollfd waiting{fd_, POLLIN, 0};
  if (::poll(&waiting, 1, 100) <= 0) return false;
  char chunk[4096];
  const ssize_t n = ::read(fd_, chunk, sizeof chunk);
  if (n <= 0) return false;
  output_.append(chunk, static_cast<std::size_t>(n));
  return true;
}

bool TerminalRun::wait_for(std::string_view text) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    if (const std::size_t at = output_.find(text, seen_); at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (!read_some() && std::chrono::steady_clock::now() > end) return false;
  }
}

void TerminalRun::signal(int number) { ASSERT_EQ(::kill(pid_, number), 0); }

int TerminalRun::wait() {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    read_some();
    if (std::chrono::steady_clock::now() > end) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  while (read_some()) {  // what it wrote last
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Folder::Folder() {
  std::string pattern = testing::TempDir() + "kvant-XXXXXX";
  path_ = ::mkdtemp(pattern.data());
}

Folder::~Folder() { std::filesystem::remove_all(path_); }

std::string Folder::write(const std::string& name, std::string_view bytes) const {
  AtomicFile file(path(name));
  file.write(bytes);
  file.commit();
  return path(name);
}

std::string write_model(const Folder& folder, const Changes& changes) {
  const gguf::File file = gguf::File::open(kModel);
  gguf::Writer writer;
  for (const auto& [key, value] : file.metadata()) {
    const auto& left_out = changes.without_keys;
    if (std::find(left_out.begin(), left_out.end(), key) == left_out.end()) writer.set(key, value);
  }
  if (changes.metadata) changes.metadata(writer);
  std::vector<std::byte> spoiled;
  for (const gguf::Tensor& t : file.tensors()) {
    if (t.name == changes.without_tensor) continue;
    std::vector<std::size_t> shape = t.shape;
    std::span<const std::byte> data = t.data;
    if (t.name == changes.reshaped_tensor) {
      shape.back() -= 1;
      data = data.first(data.size() - data.size() / t.rows());
    }
    if (t.name == changes.spoiled_tensor) {
      spoiled.assign(data.begin(), data.end());
      std::memcpy(spoiled.data() + 3 * sizeof(float), &changes.spoiled_value, sizeof(float));
      data = spoiled;
    }
    writer.add(std::string(t.name), t.type, shape, data);
  }
  writer.write(folder.path("model.gguf"));
  return folder.path("model.gguf");
}

std::string write_chat_model(const Folder& folder) {
  Changes changes;
  changes.metadata = [](gguf::Writer& w) {
    w.set(
        "tokenizer.chat_template",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  };
  return write_model(folder, changes);
}

}  // namespace kvant::cli
