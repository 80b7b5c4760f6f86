#include "codec/codebook.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace kvant::codec {
namespace {

using testing::HasSubstr;

/// Levels c[0], c[1], c[count/4], c[count/2 - 1] to 12 decimals and the distortion to 10 digits, by an independent
/// solver (a fixed-point iteration on incomplete beta functions).
struct Row {
  std::size_t dimension;
  int bits;
  double first, second, quarter, inner, distortion;
};
constexpr Row kTable[] = {
    {32, 1, -0.142153463777, -0.142153463777, -0.142153463777, -0.142153463777, 3.533565676e-01},
    {32, 2, -0.263319411117, -0.079801929428, -0.079801929428, -0.079801929428, 1.116003203e-01},
    {32, 3, -0.366268241482, -0.232460566205, -0.131756096211, -0.042851515353, 3.226106571e-02},
    {32, 4, -0.453428196761, -0.349924522878, -0.162919482520, -0.022329293427, 8.773825642e-03},
    {32, 5, -0.527124406223, -0.444176075324, -0.180405627690, -0.011422332592, 2.297675253e-03},
    {32, 6, -0.589545167644, -0.521489100737, -0.189773338064, -0.005781257259, 5.888056943e-04},
    {32, 7, -0.642622361401, -0.585852503839, -0.194649338872, -0.002909129940, 1.491127473e-04},
    {32, 8, -0.687974508325, -0.640041003316, -0.197145070339, -0.001459358806, 3.752642953e-05},
    {32, 9, -0.726918499929, -0.686073704745, -0.198410405134, -0.000730907372, 9.413422370e-06},
    {32, 10, -0.760513897438, -0.725462592292, -0.199048515211, -0.000365765987, 2.357400663e-06},
    {64, 2, -0.187496849420, -0.056514868764, -0.056514868764, -0.056514868764, 1.145257568e-01},
    {64, 3, -0.263913930845, -0.166167858925, -0.093832263218, -0.030469178931, 3.339083410e-02},
    {64, 4, -0.330796311378, -0.252913728225, -0.116486752323, -0.015919022554, 9.131517604e-03},
    {64, 5, -0.389434030598, -0.324861471945, -0.129311465017, -0.008156148630, 2.399227148e-03},
    {96, 1, -0.081646091570, -0.081646091570, -0.081646091570, -0.081646091570, 3.600559102e-01},
    {96, 2, -0.153445513579, -0.046167028527, -0.046167028527, -0.046167028527, 1.155077931e-01},
    {96, 3, -0.216852934217, -0.136168579258, -0.076795495256, -0.024923689653, 3.377347682e-02},
    {96, 4, -0.272971150949, -0.208036631551, -0.095464592800, -0.013033264049, 9.253369996e-03},
    {96, 5, -0.322775850038, -0.268315975058, -0.106064873790, -0.006681195704, 2.433940902e-03},
    {96, 6, -0.367184111275, -0.320232661607, -0.111788476717, -0.003385650122, 6.252636381e-04},
    {96, 7, -0.407023649755, -0.365749610327, -0.114782347667, -0.001704767796, 1.585559730e-04},
    {96, 8, -0.443002091859, -0.406196233482, -0.116319368331, -0.000855487228, 3.993086210e-05},
    {96, 9, -0.475702818686, -0.442523658325, -0.117100117327, -0.000428540165, 1.002020313e-05},
    {96, 10, -0.505598516760, -0.475435321242, -0.117494342622, -0.000214472976, 2.509824693e-06},
    {128, 1, -0.070661572738, -0.070661572738, -0.070661572738, -0.070661572738, 3.608885937e-01},
    {128, 2, -0.133041520250, -0.039991595198, -0.039991595198, -0.039991595198, 1.160000703e-01},
    {128, 3, -0.188397185970, -0.118139766997, -0.066585608047, -0.021604310642, 3.396592579e-02},
    {128, 4, -0.237663826765, -0.180835963753, -0.082828457307, -0.011302496591, 9.314787954e-03},
    {128, 5, -0.281656404271, -0.233719248084, -0.092065011462, -0.005795514150, 2.451460155e-03},
    {128, 6, -0.321138176627, -0.279549155553, -0.097057258858, -0.002937283183, 6.299607809e-04},
    {128, 7, -0.356798961223, -0.319994747058, -0.099670197828, -0.001479124601, 1.597739495e-04},
    {128, 8, -0.389229540716, -0.356181802710, -0.101012157086, -0.000742287183, 4.024115545e-05},
    {128, 9, -0.418917400074, -0.388913371332, -0.101693979321, -0.000371843152, 1.009853007e-05},
    {128, 10, -0.446257465590, -0.418781840564, -0.102038303765, -0.000186099790, 2.529503153e-06},
    {192, 1, -0.057657383769, -0.057657383769, -0.057657383769, -0.057657383769, 3.617202106e-01},
    {192, 2, -0.108753581307, -0.032660922277, -0.032660922277, -0.032660922277, 1.164931768e-01},
    {192, 3, -0.154315665747, -0.096636141921, -0.054431251755, -0.017655964454, 3.415912407e-02},
    {256, 3, -0.133854290075, -0.083765456877, -0.047166710339, -0.015297487665, 3.425600360e-02},
    {256, 4, -0.169410437198, -0.128588200615, -0.058732107794, -0.008008374182, 9.407529429e-03},
};

TEST(Codebook, EqualsTheTable) {
  for (const Row& row : kTable) {
    SCOPED_TRACE(testing::Message() << "dimension " << row.dimension << ", bits " << row.bits);
    const Codebook book = solve_codebook(row.dimension, row.bits);
    const std::size_t count = std::size_t{1} << row.bits;
    ASSERT_EQ(book.levels.size(), count);
    // The table rounds to 12 decimals and, for one bit, repeats c[0].
    EXPECT_NEAR(book.levels[0], row.first, 1e-12);
    if (row.bits > 1) {
      EXPECT_NEAR(book.levels[1], row.second, 1e-12);
      EXPECT_NEAR(book.levels[count / 4], row.quarter, 1e-12);
      EXPECT_NEAR(book.levels[count / 2 - 1], row.inner, 1e-12);
    }
    EXPECT_NEAR(book.distortion / row.distortion, 1, 1e-9);
  }
}

TEST(Codebook, OneBitIsTheMeanAbsoluteCoordinate) {
  // E|x| = Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)), and then D = 1 - n E|x|^2.
  for (const double n : {8.0, 9.0, 80.0, 512.0}) {
    const double mean = std::exp(std::lgamma(n / 2) - std::lgamma((n + 1) / 2)) / std::sqrt(std::numbers::pi);
    const Codebook book = solve_codebook(static_cast<std::size_t>(n), 1);
    EXPECT_NEAR(book.levels[1], mean, 1e-12) << n;
    EXPECT_NEAR(book.distortion, 1 - n * mean * mean, 1e-11) << n;
  }
}

TEST(Codebook, IsAStationaryPointEverywhere) {
  for (const std::size_t dimension : {8U, 11U, 16U, 80U, 256U, 511U, 512U}) {
    double coarser = 1;
    for (int bits = 1; bits <= kMaxCodebookBits; ++bits) {
      SCOPED_TRACE(testing::Message() << "dimension " << dimension << ", bits " << bits);
      const Codebook book = solve_codebook(dimension, bits);
      const std::size_t count = book.levels.size();
      ASSERT_EQ(count, std::size_t{1} << bits);
      ASSERT_EQ(book.thresholds.size(), count - 1);
      for (std::size_t i = 0; i < count; ++i) {
        EXPECT_EQ(book.levels[i], -book.levels[count - 1 - i]);
        if (i > 0) {
          EXPECT_LT(book.levels[i - 1], book.thresholds[i - 1]);
          EXPECT_LT(book.thresholds[i - 1], book.levels[i]);
        }
      }
      EXPECT_LT(book.distortion, 0.37 * coarser);
      coarser = book.distortion;

      // At the optimum a change of the levels by e raises the distortion in second order only: by n e^2 at most.
      for (const double e : {1e-5, -1e-5}) {
        std::vector<double> moved = book.levels;
        for (double& level : moved) level *= 1 + e;
        const double rise = distortion_of(dimension, moved) / book.distortion - 1;
        EXPECT_GT(rise, -1e-12);
        EXPECT_LT(rise, e * e / book.distortion);
      }
    }
  }
}

TEST(Codebook, ByteLevelsAddLittleDistortion) {
  // Upper bounds a little above what the search finds at any dimension, lower ones below.
  constexpr double kLeast[] = {0, -1e-9, -1e-9, 1e-6, 1e-4, 0.002, 0.01, 0.1};
  constexpr double kMost[] = {0, 1e-9, 2e-5, 1e-4, 0.001, 0.012, 0.05, 0.3};
  for (const std::size_t dimension : {8U, 32U, 64U, 128U, 256U, 512U}) {
    for (int bits = 1; bits <= kMaxByteLevelBits; ++bits) {
      SCOPED_TRACE(testing::Message() << "dimension " << dimension << ", bits " << bits);
      const Codebook book = solve_codebook(dimension, bits);
      const ByteLevels rounded = byte_levels(book);
      ASSERT_EQ(rounded.levels.size(), book.levels.size());
      std::vector<double> values;
      for (std::size_t i = 0; i < rounded.levels.size(); ++i) {
        EXPECT_EQ(rounded.levels[i], -rounded.levels[rounded.levels.size() - 1 - i]);
        EXPECT_TRUE(i == 0 || rounded.levels[i - 1] < rounded.levels[i]);
        values.push_back(rounded.levels[i] * rounded.unit);
      }
      EXPECT_LE(rounded.levels.back(), 127);
      EXPECT_EQ(rounded.distortion, distortion_of(dimension, values));
      const double added = rounded.distortion / book.distortion - 1;
      EXPECT_GT(added, kLeast[bits]);
      EXPECT_LT(added, kMost[bits]);
    }
  }
}

TEST(Codebook, UniformGridIsTheBestOfItsKind) {
  for (const std::size_t dimension : {8U, 64U, 128U, 512U}) {
    for (int bits = 1; bits <= kMaxCodebookBits; ++bits) {
      SCOPED_TRACE(testing::Message() << "dimension " << dimension << ", bits " << bits);
      const UniformGrid grid = solve_uniform_grid(dimension, bits);
      EXPECT_GE(grid.distortion, solve_codebook(dimension, bits).distortion * (1 - 1e-12));
      const auto with_step = [&](double step) {
        std::vector<double> levels(std::size_t{1} << bits);
        const double half = static_cast<double>(levels.size()) / 2;
        for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = (static_cast<double>(i) + 0.5 - half) * step;
        return distortion_of(dimension, levels);
      };
      EXPECT_NEAR(with_step(grid.step), grid.distortion, 1e-12 * grid.distortion);
      const double top = (std::exp2(bits) - 1) / 2;  // no step whose last level is 1 or more
      for (double factor = 0.5; factor < 2 && factor * grid.step * top < 1; factor *= 1.05) {
        EXPECT_GE(with_step(factor * grid.step), grid.distortion * (1 - 1e-12)) << factor;
      }
    }
  }
}

TEST(Codebook, TendsToTheNormalDensity) {
  // The density tends to the normal one: Max's table gives 0.1175 at 4 levels and 0.03454 at 8; the first term of the
  // difference is of order 1/n.
  EXPECT_NEAR(solve_codebook(512, 2).distortion, 0.11748, 0.11748 * 2.0 / 512);
  EXPECT_NEAR(solve_codebook(512, 3).distortion, 0.034548, 0.034548 * 3.0 / 512);
}

TEST(Codebook, ProbabilityOfACoordinate) {
  // f(x) = 35/32 (1 - x^2)^3 at dimension 9.
  for (const double x : {0.0, 0.01, 0.3, 0.77, 1.0}) {
    const double exact = 35.0 / 16 * (x - std::pow(x, 3) + 3 * std::pow(x, 5) / 5 - std::pow(x, 7) / 7);
    EXPECT_NEAR(coordinate_probability(9, x), exact, 1e-14);
  }
  EXPECT_NEAR(coordinate_probability(512, 1), 1, 1e-14);
}

TEST(Codebook, RefusesWhatItCannotSolve) {
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(message([] { solve_codebook(7, 4); }), HasSubstr("dimension 7, expected 8 to 512"));
  EXPECT_THAT(message([] { solve_codebook(513, 4); }), HasSubstr("dimension 513"));
  EXPECT_THAT(message([] { solve_codebook(64, 0); }), HasSubstr("0 bits, expected 1 to 10"));
  EXPECT_THAT(message([] { solve_uniform_grid(64, 11); }), HasSubstr("11 bits"));
  EXPECT_THAT(message([] { byte_levels(solve_codebook(64, 8)); }), HasSubstr("8 bits do not fit"));
}

}  // namespace
}  // namespace kvant::codec
