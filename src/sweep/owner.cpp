#include "sweep/owner.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace kvant::sweep {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string pid_namespace() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/ns/pid", error).string();
}

/// When a process started, in clock ticks since boot; empty when there is none or it has ended.
std::string start_of(const std::string& pid) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", pid));
  // Fields count from behind the name, which may hold anything: state is the 3rd, starttime the 22nd (proc(5)).
  const std::size_t end = line.rfind(')');
  if (end == std::string::npos) return "";
  std::istringstream fields(line.substr(end + 1));
  std::string field, state;
  fields >> state;
  for (int i = 4; i <= 22; ++i) fields >> field;
  return state == "Z" || state == "X" ? "" : field;
}

std::string boot() { return first_line("/proc/sys/kernel/random/boot_id"); }

}  // namespace

std::string process_owner() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const std::string pid = std::to_string(::getpid());
  return fmt::format("{}/{}/{}/{}/{}", host.data(), boot(), pid_namespace(), pid, start_of(pid));
}

bool is_dead(const std::string& owner) {
  std::vector<std::string> parts;
  std::istringstream in(owner);
  for (std::string part; std::getline(in, part, '/');) parts.push_back(part);
  if (parts.size() != 5 || parts[1].empty() || parts[1] != boot() || parts[2] != pid_namespace()) return false;
  return start_of(parts[3]) != parts[4];
}

}  // namespace kvant::sweep
