#include "base/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"

namespace kvant {

namespace {

constexpr const char* kOwnFiles = "/proc/self/fd/";

/// A file without a name in the folder of `path`, which vanishes with the process; -1 where the system has none.
int open_unnamed(const std::filesystem::path& path) {
  if (::access(kOwnFiles, X_OK) != 0) return -1;  // it could not be given a name later
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  return ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
}

/// Gives an unnamed file a name that no other has; empty, with errno set, when that fails.
std::string give_name(int fd, const std::string& path) {
  const std::string own = kOwnFiles + std::to_string(fd);
  for (int i = 0; i < 1000; ++i) {
    std::string name = path + "." + std::to_string(::getpid()) + "-" + std::to_string(i) + ".tmp";
    if (::linkat(AT_FDCWD, own.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) return name;
    if (errno != EEXIST) break;
  }
  return {};
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path), fd_(open_unnamed(path)) {
  if (fd_ >= 0) return;
  std::string pattern = path.string() + ".XXXXXX.tmp";
  fd_ = ::mkostemps(pattern.data(), 4, O_CLOEXEC);
  KVANT_CHECK(fd_ >= 0, ErrorCode::io, "{}: cannot write: {}", path.string(), std::strerror(errno));
  temporary_ = pattern;
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    KVANT_CHECK(n > 0, ErrorCode::io, "{}: cannot write: {}", path_.string(), std::strerror(errno));
    size_ += static_cast<std::size_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void AtomicFile::commit() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  bool ok = ::fchmod(fd_, 0666 & ~mask) == 0 && ::fsync(fd_) == 0;
  if (ok && temporary_.empty()) ok = !(temporary_ = give_name(fd_, path_.string())).empty();
  ok = ok && ::rename(temporary_.c_str(), path_.c_str()) == 0;
  const int error = errno;
  ::close(fd_);
  fd_ = -1;
  if (!ok && !temporary_.empty()) ::unlink(temporary_.c_str());
  KVANT_CHECK(ok, ErrorCode::io, "{}: cannot write: {}", path_.string(), std::strerror(error));
}

std::string read_text(const std::string& path, std::size_t limit) {
  const bool standard_input = path == "-";
  const std::string shown = standard_input ? "standard input" : path;
  const int fd = standard_input ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  KVANT_CHECK(fd >= 0, ErrorCode::io, "{}: cannot open: {}", shown, std::strerror(errno));
  std::string text;
  std::string chunk(std::size_t{1} << 20, '\0');
  ssize_t n = 0;
  int error = 0;
  while (text.size() <= limit) {
    n = ::read(fd, chunk.data(), chunk.size());
    error = errno;
    if (n < 0 && error == EINTR) continue;
    if (n <= 0) break;
    text.append(chunk, 0, static_cast<std::size_t>(n));
  }
  if (!standard_input) ::close(fd);
  KVANT_CHECK(n >= 0, ErrorCode::io, "{}: cannot read: {}", shown, std::strerror(error));
  KVANT_CHECK(text.size() <= limit, ErrorCode::out_of_memory, "{}: over {} bytes", shown, limit);
  return text;
}

}  // namespace kvant
