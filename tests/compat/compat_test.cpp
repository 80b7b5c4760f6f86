#include <gtest/gtest.h>

#include <filesystem>

#include "base/file_io.h"
#include "plan_fixture.h"

namespace kvant::compat {
namespace {

const std::filesystem::path kFixtures = std::filesystem::path(KVANT_SOURCE_DIR) / "tests/compat";

TEST(Compatibility, PlanOfVersion1IsReadInEveryField) {
  const codec::Plan plan = codec::read_plan(kFixtures / "plan-1.gguf"), expected = plan_fixture();
  EXPECT_EQ(plan.model, expected.model);
  EXPECT_EQ(plan.corpus, expected.corpus);
  EXPECT_EQ(plan.layers, expected.layers);
  EXPECT_EQ(plan.codes, expected.codes);
  EXPECT_EQ(plan.certificates, expected.certificates);
  EXPECT_EQ(plan, expected);
}

TEST(Compatibility, PlanOfVersion1IsWrittenAsTheSameBytes) {
  const std::string bytes = read_text(kFixtures / "plan-1.gguf");
  const auto written = codec::serialize_plan(codec::read_plan(kFixtures / "plan-1.gguf"));
  ASSERT_EQ(written.size(), bytes.size());
  EXPECT_TRUE(std::equal(written.begin(), written.end(), std::as_bytes(std::span(bytes)).begin()));
}

}  // namespace
}  // namespace kvant::compat
