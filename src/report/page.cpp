#include "report/page.h"

#include "base/error.h"

namespace kvant::report {
namespace {

constexpr std::string_view kPlace = "@KVANT_REPORT_DATA@";

}  // namespace

std::string escape_for_script(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string render(std::string_view page, std::string_view document) {
  KVANT_CHECK(!page.empty(), ErrorCode::unsupported,
              "this kvant was built without the report page: install npm, then build with -DKVANT_REPORT=ON");
  const std::size_t place = page.find(kPlace);
  KVANT_CHECK(place != std::string_view::npos && page.find(kPlace, place + 1) == std::string_view::npos,
              ErrorCode::format, "template of the report: expected one {}", kPlace);
  std::string out(page.substr(0, place));
  out += escape_for_script(document);
  out += page.substr(place + kPlace.size());
  return out;
}

}  // namespace kvant::report
