#include "base/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace kvant {

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  std::string pattern = path.string() + ".XXXXXX.tmp";
  fd_ = ::mkostemps(pattern.data(), 4, O_CLOEXEC);
  KVANT_CHECK(fd_ >= 0, ErrorCode::io, "{}: cannot write: {}", path.string(), std::strerror(errno));
  temporary_ = pattern;
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
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
  const bool ok = ::fchmod(fd_, 0666 & ~mask) == 0 && ::fsync(fd_) == 0 && ::close(fd_) == 0 &&
                  ::rename(temporary_.c_str(), path_.c_str()) == 0;
  const int error = errno;
  fd_ = -1;
  if (!ok) ::unlink(temporary_.c_str());
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
