#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace kvant {

/// What kind of thing went wrong; a command maps all of them to exit status 1.
enum class ErrorCode { io, format, unsupported, invalid_argument, out_of_memory, cancelled };

/// A data, user or system error. The message is one line that names the file, tensor or key and both values, e.g.
/// "model.gguf: tensor blk.3.attn_k.weight: shape [1536,256], expected [1536,512]".
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Throws Error(code, formatted message).
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Makes untrusted text safe to print in a one-line message: control characters and invalid UTF-8 become \xNN, and
/// text over `limit` bytes is cut and marked with "...".
std::string printable(std::string_view text, std::size_t limit = 80);

}  // namespace kvant

/// Throws kvant::Error(code, format...) unless `condition` holds. For data, user and system errors.
#define KVANT_CHECK(condition, code, ...)        \
  do {                                           \
    if (!(condition)) {                          \
      ::kvant::fail(::kvant::code, __VA_ARGS__); \
    }                                            \
  } while (false)

/// Aborts when a programmer's assumption fails; nothing in release builds.
#ifdef NDEBUG
#define KVANT_ASSERT(condition) ((void)0)
#else
#include <cassert>
#define KVANT_ASSERT(condition) assert(condition)
#endif
