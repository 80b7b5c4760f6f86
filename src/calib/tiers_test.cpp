#include "calib/tiers.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace kvant::calib {
namespace {

using testing::HasSubstr;

std::string message_of(std::string_view text) {
  try {
    parse_tiers(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    return e.what();
  }
  return "no error";
}

TEST(Tiers, ChooseByThreshold) {
  const Tiers tiers = parse_tiers("extreme=flex:1:10:5:1:1,high=flex:1:9:4:1:1@70,moderate=flex:0:6:0:0:0");
  EXPECT_EQ(codec::to_string(*tiers.of(95)), "flex:1:10:5:1:1");
  EXPECT_EQ(codec::to_string(*tiers.of(90)), "flex:1:10:5:1:1");
  EXPECT_EQ(codec::to_string(*tiers.of(89.9)), "flex:1:9:4:1:1");
  EXPECT_EQ(codec::to_string(*tiers.of(70)), "flex:1:9:4:1:1");
  EXPECT_EQ(codec::to_string(*tiers.of(69.9)), "flex:0:6:0:0:0");
  EXPECT_EQ(parse_tiers("high=flex:1:9:4:1:1").of(59.9), std::nullopt);
  EXPECT_TRUE(parse_tiers("high=flex:1:9:4:1:1").of(60));
  EXPECT_EQ(codec::to_string(*parse_tiers("all=flex:0:4:0:0:0,high=flex:1:9:4:1:1").of(99)), "flex:0:4:0:0:0");
}

TEST(Tiers, WrongTextsAreNamed) {
  EXPECT_THAT(message_of(""), HasSubstr("expected NAME=flex"));
  EXPECT_THAT(message_of("low=flex:0:6:0:0:0"), HasSubstr("unknown tier 'low'"));
  EXPECT_THAT(message_of("high=flex:1:9:4:1:1@101"), HasSubstr("threshold '101', expected 0 to 100"));
  EXPECT_THAT(message_of("high=flex:1:9:4:1:1@nan"), HasSubstr("threshold 'nan'"));
  EXPECT_THAT(message_of("moderate=flex:0:6:0:0:0@50"), HasSubstr("tier 'moderate' has no threshold"));
  EXPECT_THAT(message_of("high=flex:1:9:4:1:1,"), HasSubstr("'', expected"));
  EXPECT_NE(message_of("high=flex:1:99:4:1:1"), "no error");
}

/// A layer whose energy lies in the means of known channels, and one where it is even.
TEST(Tiers, OrderChannelsByEnergyOfStoredKeys) {
  codec::Plan plan;
  plan.model.layers = 2;
  plan.model.kv_heads = 1;
  plan.model.head_dim = plan.model.rope_dims = 128;
  for (int layer = 0; layer < 2; ++layer) {
    codec::LayerStatistics s;
    s.k_mean.assign(128, 0);
    s.k_moment.assign(codec::packed_size(128), 0);
    for (std::size_t i = 0; i < 128; ++i) s.k_moment[codec::packed_size(i + 1) - 1] = 1;
    if (layer == 0) {
      for (std::size_t i = 40; i < 56; ++i) s.k_mean[i] = 10;  // slow pairs: the mean stays where it is
      s.k_mean[3] = 20;                                        // a fast pair: RoPE spreads it over both channels
    }
    s.k_mean_rotated = s.k_mean;
    s.k_mean_rotated[3] = 0;
    plan.layers.push_back(s);
  }
  const codec::PermutationFile file =
      make_permutation_file(plan, parse_tiers("high=flex:1:9:4:1:1@70,moderate=flex:0:6:0:0:0"));
  const auto order = file.permutation(0, 0);
  EXPECT_EQ(order[0], 3);   // 400 / 2 + 1
  EXPECT_EQ(order[1], 67);  // its partner
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(order[2 + i], 40 + i);
  EXPECT_EQ(order[18], 0);
  EXPECT_NEAR(file.types[0].outlier_percent, 100.0 * (402 + 16 * 101 + 14) / (400 + 1600 + 128), 1e-3);
  EXPECT_EQ(codec::to_string(*file.layouts[0]), "flex:1:9:4:1:1");
  EXPECT_NEAR(file.types[1].outlier_percent, 25, 1e-4);
  EXPECT_EQ(codec::to_string(*file.layouts[1]), "flex:0:6:0:0:0");
  const auto bytes = codec::serialize_permutation_file(file, "test");
  EXPECT_EQ(codec::parse_permutation_file(bytes, "test").layouts, file.layouts);
}

}  // namespace
}  // namespace kvant::calib
