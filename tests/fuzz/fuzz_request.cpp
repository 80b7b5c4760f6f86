#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/utf8.h"
#include "server/request.h"

// Parses arbitrary bytes as bodies of requests. The first byte chooses the parser. Anything but a BadRequest with valid
// UTF-8 of moderate length, or a request within its limits, is a finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::server;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const RequestLimits limits;
  const auto check = [&](const GenerationRequest& request) {
    if (request.n < 1 || request.n > limits.choices || request.stops.size() > limits.stops) std::abort();
    kvant::engine::Sampler sampler(request.sampler);
  };
  try {
    switch (data[0]) {
      case '0':
        check(parse_chat(body, limits));
        break;
      case '1': {
        const CompletionRequest request = parse_completion(body, limits);
        check(request);
        if (request.prompts.empty() || request.prompts.size() * request.n > limits.choices) std::abort();
        break;
      }
      case '2':
        if (!kvant::is_valid_utf8(parse_tokenize(body, limits).text)) std::abort();
        break;
      case '3':
        if (parse_slot(body, limits).filename.find('/') != std::string::npos) std::abort();
        break;
      default:
        for (const auto token : parse_detokenize(body, limits).tokens) {
          if (token < 0) std::abort();
        }
    }
  } catch (const BadRequest& e) {
    const std::string_view what = e.what();
    if (what.empty() || what.size() > 1000 || !kvant::is_valid_utf8(what) || !kvant::is_valid_utf8(e.field())) {
      std::abort();
    }
  }
  return 0;
}
