#include "eval/logits_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "eval/metrics.h"

namespace kvant::eval {
namespace {

using testing::HasSubstr;

/// A file that is gone after the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name)
      : path_(testing::TempDir() + "kvant_" + name + "_" +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {}
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  void write(const std::string& bytes) const {
    AtomicFile file(path_);
    file.write(bytes);
    file.commit();
  }

 private:
  std::string path_;
};

void append(std::string& bytes, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<char>(value >> 8 * i & 0xff));
}
void append(std::string& bytes, float value) { append(bytes, std::bit_cast<std::uint32_t>(value), 4); }

std::string header(std::uint32_t context, std::uint32_t vocabulary, std::uint32_t chunks) {
  std::string bytes = "_logits_";
  for (const std::uint32_t count : {context, vocabulary, chunks}) append(bytes, count, 4);
  return bytes;
}

std::vector<float> random_logits(std::size_t count, double scale, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = static_cast<float>(scale * random.normal());
  return logits;
}

/// One window of 3 tokens of 3: a single row, after token 1. Its logits 8, 0, -8 span 16, which nothing cuts: step =
/// 16 / 65535; code of 0 is round(32767.5 (1 +- 2^-23)): the f32 inverse of the step, 4095.9375, is exact.
TEST(LogitsFile, BytesByHand) {
  const TemporaryFile file("logits");
  ThreadPool pool(1);
  const std::vector<std::int32_t> tokens{2, 0, 1};
  const std::vector<float> logits{0, 8, -8};
  LogitsWriter writer(file.path(), {3, 3, 1}, tokens);
  writer.add(MatView<const float>(logits.data(), 1, 3), pool);
  writer.commit();

  std::string expected = header(3, 3, 1);
  for (const std::uint32_t token : {2u, 0u, 1u}) append(expected, token, 4);
  append(expected, 16.0f / 65535);
  // ln(1 + e^-8 + e^-16) = 3.3551907e-4, less than half a unit in the last place of 16 + it is lost.
  append(expected, -16.0f - 3.3551907e-4f);
  for (const std::uint64_t code : {32768, 65535, 0, 0}) append(expected, code, 2);  // the last fills up to even
  EXPECT_EQ(read_text(file.path()), expected);
  EXPECT_EQ(expected.size(), (LogitsShape{3, 3, 1}.file_bytes()));
}

TEST(LogitsFile, RowsBeyondSixteenNatsAreCut) {
  const std::vector<float> logits{100, 84.5f, 84, 83, -1000};
  std::vector<std::byte> row(8 + 2 * 6);
  encode_logits_row(logits, row);
  std::vector<std::uint16_t> codes(6);
  std::memcpy(codes.data(), row.data() + 8, 12);
  // (84.5 - 84) / 16 * 65535 = 2047.97
  EXPECT_THAT(codes, testing::ElementsAre(65535, 2048, 0, 0, 0, 0));
  std::vector<float> log_p(5);
  const CodedRow coded = decode_logits_row(row, log_p, "file", 0);
  EXPECT_EQ(coded.floor, log_p[2]);
  EXPECT_EQ(log_p[3], log_p[2]);
  EXPECT_FLOAT_EQ(coded.step, 16.0f / 65535);
  EXPECT_NEAR(log_p[0], 0, 3e-6) << "16 + 2e-7 in f32";
}

TEST(LogitsFile, EqualLogitsHaveNoStep) {
  const std::vector<float> logits(6, 3.0f);
  std::vector<std::byte> row(8 + 2 * 6, std::byte{7});
  encode_logits_row(logits, row);
  std::vector<float> log_p(6);
  const CodedRow coded = decode_logits_row(row, log_p, "file", 0);
  EXPECT_EQ(coded.step, 0);
  EXPECT_LT(coded.floor, log_p[0]) << "nothing is cut";
  for (const float value : log_p) EXPECT_FLOAT_EQ(value, -std::log(6.0f));
}

/// Half a step of rounding; of codes up to 65535 the products with the f32 inverse lose up to 3 2^-24 (0.012 steps);
/// f32 differences and sums of numbers up to 64 lose 2^-19 each, of which there are four.
TEST(LogitsFile, RoundTripIsWithinHalfAStep) {
  for (const double scale : {0.01, 1.0, 3.0, 12.0}) {
    for (const std::size_t vocabulary : {1u, 2u, 255u, 5000u}) {
      SCOPED_TRACE(fmt::format("scale {} vocabulary {}", scale, vocabulary));
      const std::vector<float> logits = random_logits(vocabulary, scale, 11 + vocabulary);
      std::vector<std::byte> row(LogitsShape{3, vocabulary, 1}.row_bytes());
      encode_logits_row(logits, row);
      std::vector<float> log_p(vocabulary);
      const CodedRow coded = decode_logits_row(row, log_p, "file", 0);
      const Normalizer sum = normalize(logits);
      const double bound = 0.512 * static_cast<double>(coded.step) + 4 * 0x1p-19;
      double worst = 0;
      std::size_t cut = 0;
      for (std::size_t i = 0; i < vocabulary; ++i) {
        const double error = static_cast<double>(log_p[i]) - sum.log_probability(logits, i);
        if (log_p[i] <= coded.floor) {
          ++cut;
          EXPECT_GE(error, -bound) << i;
        } else {
          EXPECT_LE(std::abs(error), bound) << i;
          worst = std::max(worst, std::abs(error));
        }
      }
      const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
      EXPECT_EQ(cut > 0, *most - *least > 16) << cut;
      if (vocabulary == 5000) {
        EXPECT_GT(worst, 0.45 * static_cast<double>(coded.step)) << "the step is used";
      }
    }
  }
}

TEST(LogitsFile, WhatIsWrittenIsRead) {
  const TemporaryFile file("logits");
  ThreadPool pool(2);
  const LogitsShape shape{150, 101, 2};  // 74 rows a window: three buffers of rows
  std::vector<std::int32_t> tokens(shape.tokens());
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i % 101);
  const std::vector<float> logits = random_logits(shape.rows() * shape.vocabulary, 3, 5);
  {
    LogitsWriter writer(file.path(), shape, tokens);
    writer.add(MatView<const float>(logits.data(), 100, 101), pool);
    EXPECT_FALSE(std::filesystem::exists(file.path())) << "it has no name before it is whole";
    writer.add(MatView<const float>(logits.data() + 100 * 101, shape.rows() - 100, 101), pool);
    writer.commit();
  }
  LogitsReader reader(file.path());
  EXPECT_EQ(reader.shape(), shape);
  EXPECT_EQ(reader.path(), file.path());
  EXPECT_THAT(reader.tokens(), testing::ElementsAreArray(tokens));
  std::vector<float> log_p(101), direct(101);
  std::vector<std::byte> row(shape.row_bytes());
  for (std::size_t r = 0; r < shape.rows(); ++r) {
    const CodedRow coded = reader.next(log_p);
    encode_logits_row(std::span(logits).subspan(r * 101, 101), row);
    const CodedRow expected = decode_logits_row(row, direct, "", r);
    ASSERT_EQ(log_p, direct) << r;
    ASSERT_EQ(coded.step, expected.step);
    ASSERT_EQ(coded.floor, expected.floor);
  }
}

void expect_refusal(const std::function<void()>& work, const std::string& part) {
  try {
    work();
    FAIL() << "accepted, expected: " << part;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(part));
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

TEST(LogitsFile, RefusesDamage) {
  const TemporaryFile file("logits");
  const auto open = [&](const std::string& bytes, const std::string& part) {
    file.write(bytes);
    expect_refusal([&] { LogitsReader reader(file.path()); }, file.path() + ": " + part);
  };
  open("", "0 bytes, a logits file has at least 20");
  open("_logits_123", "11 bytes");
  open("GGUF\x03" + std::string(40, '\0'), "starts with 'GGUF\\x03\\x00\\x00\\x00'");
  open(header(2, 3, 1), "n_ctx 2, expected at least 3");
  open(header(3, 0, 1), "n_vocab 0, expected at least 1");
  open(header(3, 3, 0x80000000), "n_chunk -2147483648");
  open(header(3, 3, 1), "20 bytes, expected 48 for n_ctx 3, n_vocab 3 and n_chunk 1");
  open(header(0x7fffffff, 0x7fffffff, 0x7fffffff), "2305843005992468481 * 4294967304 overflows");
  open(header(0x7fffffff, 1, 1), "20 bytes, expected");

  std::string whole = header(3, 3, 1);
  for (const std::uint32_t token : {2u, 0u, 1u}) append(whole, token, 4);
  const std::string rows_at = whole;
  append(whole, 1e-4f);
  append(whole, -8.0f);
  append(whole, 0, 8);
  open(whole.substr(0, whole.size() - 1), "47 bytes, expected 48");
  open(whole + "x", "49 bytes, expected 48");
  std::string other = whole;
  other[24] = 3;
  open(other, "token 1 is 3, n_vocab is 3");
  other[27] = '\x80';
  open(other, "token 1 is -2147483645, n_vocab is 3");
  expect_refusal([] { LogitsReader reader("/nowhere/logits"); }, "/nowhere/logits: cannot open: No such file");
  expect_refusal([] { LogitsReader reader(testing::TempDir()); }, "cannot read");

  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const auto& [step, lowest] : std::vector<std::pair<float, float>>{{nan, -8.0f},
                                                                         {1e-4f, nan},
                                                                         {infinity, -8.0f},
                                                                         {1e-4f, -infinity},
                                                                         {-1e-4f, -8.0f},
                                                                         {1e-3f, -8.0f},
                                                                         {0, 1}}) {
    std::string bytes = rows_at;
    append(bytes, step);
    append(bytes, lowest);
    append(bytes, 0, 8);
    file.write(bytes);
    LogitsReader reader(file.path());
    std::vector<float> log_p(3);
    expect_refusal([&] { reader.next(log_p); }, file.path() + ": row 0: step ");
  }
  file.write(whole);
  LogitsReader reader(file.path());
  std::vector<float> log_p(3);
  expect_refusal([&] { reader.next(log_p); }, file.path() + ": row 0: highest code 0, expected 65535");
}

TEST(LogitsFile, NothingIsLeftWithoutCommit) {
  const TemporaryFile file("logits");
  const std::vector<std::int32_t> tokens{2, 0, 1};
  { LogitsWriter writer(file.path(), {3, 3, 1}, tokens); }
  EXPECT_FALSE(std::filesystem::exists(file.path()));
  expect_refusal(
      [&] {
        LogitsWriter writer(file.path(), {3, std::size_t{1} << 31, 1}, tokens);
      },
      "n_vocab 2147483648, at most 2147483647 fit");
}

/// A row against what it was coded from: Var_p(e) / 2 with |e| <= step / 2 is at most step^2 / 8.
TEST(CompareCodedRow, RoundingCountsInSecondOrder) {
  for (const double scale : {1.0, 2.0, 12.0}) {
    const std::vector<float> logits = random_logits(3000, scale, 21);
    std::vector<std::byte> row(8 + 2 * 3000);
    encode_logits_row(logits, row);
    std::vector<float> log_p(3000);
    const CodedRow coded = decode_logits_row(row, log_p, "", 0);
    const TokenScore score = compare_coded_row(log_p, coded, logits, 77);
    const double step = static_cast<double>(coded.step);
    EXPECT_LE(score.divergence, step * step / 8 * 1.06) << "0.512 steps";
    EXPECT_LE(std::abs(score.probability_change), step);
    EXPECT_TRUE(score.same_best);
  }
}

/// Against another row, the figures of the logits: rounding moves a divergence D by at most step E|ln p/q - D| / 2.
TEST(CompareCodedRow, AgreesWithTheLogits) {
  const std::vector<float> logits = random_logits(3000, 2, 31), other = [&] {
    std::vector<float> moved = logits;
    Random random(32);
    for (float& logit : moved) logit += static_cast<float>(0.3 * random.normal());
    return moved;
  }();
  std::vector<std::byte> row(8 + 2 * 3000);
  encode_logits_row(logits, row);
  std::vector<float> log_p(3000);
  const CodedRow coded = decode_logits_row(row, log_p, "", 0);
  EXPECT_EQ(coded.floor, -std::numeric_limits<float>::infinity());
  const TokenScore plain = compare_rows(logits, normalize(logits), other, 5);
  const TokenScore score = compare_coded_row(log_p, coded, other, 5);
  const double step = static_cast<double>(coded.step);
  EXPECT_GT(plain.divergence, 0.01);
  EXPECT_NEAR(score.divergence, plain.divergence, 0.5 * step);
  EXPECT_NE(score.divergence, plain.divergence);
  EXPECT_NEAR(score.loss_change, plain.loss_change, 0.512 * step + 4 * 0x1p-19);
  EXPECT_NEAR(score.probability_change, plain.probability_change, step);
  EXPECT_EQ(score.same_best, plain.same_best);
}

/// Tokens at the floor count as one, with the probability within the file's rounding that makes the divergence least.
TEST(CompareCodedRow, CountsBoundedTokensAsOne) {
  const std::vector<float> log_p{std::log(0.6f), std::log(0.3f), -2, -2};
  const std::vector<float> other{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};
  const TokenScore score = compare_coded_row(log_p, {0, -2}, other, 0);
  // Three symbols: 0.6, 0.3, 0.1 against 0.2, 0.4, 0.4; P = 0.1 within 4e-6, where the slope is about 2.
  EXPECT_NEAR(score.divergence, 0.6 * std::log(3) + 0.3 * std::log(0.75) + 0.1 * std::log(0.25), 1e-5);
  EXPECT_NEAR(score.loss_change, std::log(3), 1e-6);
  EXPECT_NEAR(score.probability_change, -0.4, 1e-6);
  EXPECT_FALSE(score.same_best);
  // Known within half of 0.1 times 0.3: the least P is 0.085, and the others share 0.915.
  const double p = 0.085, known = (2 * std::log(2.0 / 3 / 0.2) + std::log(1.0 / 3 / 0.4)) / 3;
  EXPECT_NEAR(compare_coded_row(log_p, {0.1f, -2}, other, 0).divergence,
              std::min((1 - p) * (std::log(1 - p) + known) + p * std::log(p / 0.4),
                       0.885 * (std::log(0.885) + known) + 0.115 * std::log(0.115 / 0.4)),
              1e-5);
}

/// A cache that gives much to tokens which the reference rules out pays for it as with the logits themselves.
TEST(CompareCodedRow, SeesWhatGoesToBoundedTokens) {
  std::vector<float> logits = random_logits(3000, 1, 41), other = logits;
  for (std::size_t i = 100; i < 3000; ++i) logits[i] -= 25;
  for (std::size_t i = 100; i < 3000; ++i) other[i] -= 3;
  std::vector<std::byte> row(8 + 2 * 3000);
  encode_logits_row(logits, row);
  std::vector<float> log_p(3000);
  const CodedRow coded = decode_logits_row(row, log_p, "", 0);
  const double plain = static_cast<double>(compare_rows(logits, normalize(logits), other, 5).divergence);
  EXPECT_GT(plain, 0.7) << "ln(1 + 29 e^-3)";
  // Up to half a step of rounding, and of P times ln(P / Q).
  EXPECT_NEAR(compare_coded_row(log_p, coded, other, 5).divergence, plain, 12 * static_cast<double>(coded.step));
}

}  // namespace
}  // namespace kvant::eval
