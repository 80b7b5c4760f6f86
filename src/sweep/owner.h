#pragma once
#include <string>

namespace kvant::sweep {

/// What this process is called in claims: "HOST/BOOT/NAMESPACE/PID/START", where BOOT names a start of the kernel and
/// NAMESPACE the world that PID counts in, so that no other process is ever called the same.
std::string process_owner();

/// Whether an owner is a process that this one could see and that has ended. Of processes elsewhere nothing is known.
bool is_dead(const std::string& owner);

}  // namespace kvant::sweep
