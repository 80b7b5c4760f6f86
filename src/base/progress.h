#pragma once
#include <cstddef>
#include <functional>
#include <string_view>

namespace kvant {

/// How long work tells its caller where it stands: `done` of `total` units, with a short text such as "PPL 9.21".
/// The library never prints; an application draws a bar or a line. Empty: nobody listens.
using ProgressSink = std::function<void(std::size_t done, std::size_t total, std::string_view text)>;

}  // namespace kvant
