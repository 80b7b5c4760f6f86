#pragma once
#include <string_view>

namespace kvant::server::page {

// The files of the folder page, embedded by the build.
std::string_view index() noexcept;
std::string_view style() noexcept;
std::string_view script() noexcept;

}  // namespace kvant::server::page
