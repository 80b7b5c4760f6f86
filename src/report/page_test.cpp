#include "report/page.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace kvant::report {
namespace {

using testing::HasSubstr;
using testing::Not;

ErrorCode code_of(std::string_view page) {
  try {
    render(page, "{}");
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::cancelled;
}

TEST(Page, EscapedDocumentCannotEndItsScriptAndSaysTheSame) {
  const nlohmann::json document = {"</script><img src=x onerror=alert(1)>", "<!-- <script>", "a < b", "\\u003c", "\"<"};
  const std::string escaped = escape_for_script(document.dump());
  EXPECT_THAT(escaped, Not(HasSubstr("<")));
  EXPECT_EQ(nlohmann::json::parse(escaped), document);
}

TEST(Page, DocumentGoesIntoItsPlace) {
  EXPECT_EQ(render("<script>@KVANT_REPORT_DATA@</script>", R"({"a":"<b>"})"), R"(<script>{"a":"\u003cb>"}</script>)");
}

TEST(Page, DocumentMayNameThePlace) {
  EXPECT_EQ(render("[@KVANT_REPORT_DATA@]", "\"@KVANT_REPORT_DATA@\""), "[\"@KVANT_REPORT_DATA@\"]");
}

TEST(Page, TemplatesWithoutExactlyOnePlaceAreRefused) {
  EXPECT_EQ(code_of("<html>"), ErrorCode::format);
  EXPECT_EQ(code_of("@KVANT_REPORT_DATA@@KVANT_REPORT_DATA@"), ErrorCode::format);
}

TEST(Page, WithoutTemplateTheErrorSaysWhatIsMissing) {
  EXPECT_EQ(code_of(""), ErrorCode::unsupported);
  try {
    render("", "{}");
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("install npm"));
  }
}

TEST(Page, BuiltTemplateIsEmptyOrWhole) {
  const std::string_view page = page_template();
  if (page.empty()) GTEST_SKIP() << "missing: the page, which npm builds (-DKVANT_REPORT=ON)";
  EXPECT_TRUE(page.starts_with("<!doctype html>"));
  EXPECT_TRUE(page.ends_with("</html>\n"));
  EXPECT_THAT(render(page, "{\"version\":1}"), HasSubstr("{\"version\":1}</script>"));
  EXPECT_LT(page.size(), std::size_t{400} << 10);
}

}  // namespace
}  // namespace kvant::report
