#include "eval/logits_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/checked.h"
#include "base/error.h"

namespace kvant::eval {
namespace {

constexpr std::string_view kMagic = "_logits_";
constexpr float kRange = 16;  ///< nats below the most probable token that codes reach
constexpr float kTopCode = 65535;
/// A range from here on was cut: top - (top - 16) is 16 only up to rounding.
constexpr float kCutRange = kRange * (1 - 0x1p-12F);
/// What rounding may put the most probable token's log-probability above 0.
constexpr float kAboveOne = 1e-3F;

constexpr std::array<std::string_view, 3> kFields = {"n_ctx", "n_vocab", "n_chunk"};
constexpr std::array<std::int32_t, 3> kLeast = {3, 1, 1};

template <class T>
T get(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
void put(std::byte* at, T value) noexcept {
  std::memcpy(at, &value, sizeof value);
}

std::int32_t to_int32(std::size_t count, std::string_view field, const std::filesystem::path& path) {
  constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max());
  KVANT_CHECK(count <= kMost, ErrorCode::invalid_argument, "{}: {} {}, at most {} fit", path.string(), field, count,
              kMost);
  return static_cast<std::int32_t>(count);
}

}  // namespace

LogitsShape parse_logits_shape(std::span<const std::byte> bytes, std::size_t file_bytes, std::string_view file) {
  KVANT_CHECK(file_bytes >= LogitsShape::kHeaderBytes && bytes.size() >= LogitsShape::kHeaderBytes, ErrorCode::format,
              "{}: {} bytes, a logits file has at least {}", file, file_bytes, LogitsShape::kHeaderBytes);
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()), kMagic.size());
  KVANT_CHECK(magic == kMagic, ErrorCode::format, "{}: starts with '{}', a logits file with '{}'", file,
              printable(magic), kMagic);
  std::array<std::size_t, 3> counts{};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto count = get<std::int32_t>(bytes.data() + kMagic.size() + 4 * i);
    KVANT_CHECK(count >= kLeast[i], ErrorCode::format, "{}: {} {}, expected at least {}", file, kFields[i], count,
                kLeast[i]);
    counts[i] = static_cast<std::size_t>(count);
  }
  const LogitsShape shape{counts[0], counts[1], counts[2]};
  const std::size_t rows = checked_mul(shape.scored(), shape.chunks, file);
  const std::size_t row_bytes = checked_mul(rows, shape.row_bytes(), file);
  const std::size_t token_bytes = checked_mul(checked_mul(shape.context, shape.chunks, file), 4, file);
  const std::size_t expected = checked_add(checked_add(row_bytes, token_bytes, file), LogitsShape::kHeaderBytes, file);
  KVANT_CHECK(file_bytes == expected, ErrorCode::format,
              "{}: {} bytes, expected {} for n_ctx {}, n_vocab {} and n_chunk {}", file, file_bytes, expected,
              shape.context, shape.vocabulary, shape.chunks);
  return shape;
}

void check_logits_tokens(std::span<const std::int32_t> tokens, const LogitsShape& shape, std::string_view file) {
  const auto known = [&](std::int32_t token) {
    return token >= 0 && static_cast<std::size_t>(token) < shape.vocabulary;
  };
  const auto bad = std::find_if_not(tokens.begin(), tokens.end(), known);
  if (bad == tokens.end()) return;
  fail(ErrorCode::format, "{}: token {} is {}, n_vocab is {}", file, bad - tokens.begin(), *bad, shape.vocabulary);
}

void encode_logits_row(std::span<const float> logits, std::span<std::byte> row) noexcept {
  const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
  const float top = *most, low = std::max(*least, top - kRange);
  double sum = 0;
  for (const float logit : logits) sum += static_cast<double>(std::exp(logit - top));
  const float step = (top - low) / kTopCode;
  const float lowest = low - top - static_cast<float>(std::log(sum));
  put(row.data(), step);
  put(row.data() + 4, lowest);
  std::fill(row.begin() + 8, row.end(), std::byte{0});
  if (step == 0) return;
  const float inverse = 1 / step;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= low) continue;
    put(row.data() + 8 + 2 * i, static_cast<std::uint16_t>(std::lrint(inverse * (logits[i] - low))));
  }
}

CodedRow decode_logits_row(std::span<const std::byte> bytes, std::span<float> log_probability, std::string_view file,
                           std::size_t row) {
  const auto step = get<float>(bytes.data()), lowest = get<float>(bytes.data() + 4);
  KVANT_CHECK(std::isfinite(step) && step >= 0 && std::isfinite(lowest) && step * kTopCode + lowest <= kAboveOne,
              ErrorCode::format, "{}: row {}: step {} and lowest log-probability {} are none of log-probabilities",
              file, row, step, lowest);
  std::uint16_t highest = 0;
  for (std::size_t i = 0; i < log_probability.size(); ++i) {
    const auto code = get<std::uint16_t>(bytes.data() + 8 + 2 * i);
    log_probability[i] = step * static_cast<float>(code) + lowest;
    highest = std::max(highest, code);
  }
  KVANT_CHECK(step == 0 || highest == kTopCode, ErrorCode::format, "{}: row {}: highest code {}, expected {}", file,
              row, highest, kTopCode);
  return {step, step * kTopCode >= kCutRange ? lowest : -std::numeric_limits<float>::infinity()};
}

LogitsWriter::LogitsWriter(const std::filesystem::path& path, const LogitsShape& shape,
                           std::span<const std::int32_t> tokens)
    : shape_(shape), file_(path) {
  KVANT_ASSERT(tokens.size() == shape.tokens());
  const std::array<std::int32_t, 3> counts = {to_int32(shape.context, kFields[0], path),
                                              to_int32(shape.vocabulary, kFields[1], path),
                                              to_int32(shape.chunks, kFields[2], path)};
  file_.write(kMagic);
  file_.write(std::as_bytes(std::span(counts)));
  file_.write(std::as_bytes(tokens));
}

void LogitsWriter::add(MatView<const float> logits, ThreadPool& pool) {
  const std::size_t row_bytes = shape_.row_bytes();
  KVANT_ASSERT(logits.cols == shape_.vocabulary);
  for (std::size_t at = 0; at < logits.rows; at += kRows) {
    const std::size_t rows = std::min(kRows, logits.rows - at);
    buffer_.resize(rows * row_bytes);
    pool.run(rows, [&](std::size_t r, int) {
      encode_logits_row(logits.row(at + r), std::span(buffer_).subspan(r * row_bytes, row_bytes));
    });
    file_.write(buffer_);
  }
}

void LogitsWriter::commit() {
  KVANT_ASSERT(file_.size() == shape_.file_bytes());
  file_.commit();
}

LogitsReader::LogitsReader(const std::filesystem::path& path) : path_(path.string()) {
  errno = 0;
  in_.open(path, std::ios::binary);
  KVANT_CHECK(in_.is_open(), ErrorCode::io, "{}: cannot open: {}", path_, std::strerror(errno));
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  KVANT_CHECK(!error, ErrorCode::io, "{}: cannot read: {}", path_, error.message());
  std::array<std::byte, LogitsShape::kHeaderBytes> head{};
  read(std::span(head).first(std::min<std::size_t>(head.size(), size)));
  shape_ = parse_logits_shape(head, size, path_);
  tokens_.resize(shape_.tokens());
  read(std::as_writable_bytes(std::span(tokens_)));
  check_logits_tokens(tokens_, shape_, path_);
  buffer_.resize(shape_.row_bytes());
}

CodedRow LogitsReader::next(std::span<float> log_probability) {
  KVANT_ASSERT(row_ < shape_.rows() && log_probability.size() == shape_.vocabulary);
  read(buffer_);
  return decode_logits_row(buffer_, log_probability, path_, row_++);
}

void LogitsReader::read(std::span<std::byte> bytes) {
  in_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  KVANT_CHECK(in_.good(), ErrorCode::io, "{}: ended early: {} of {} bytes of a part", path_, in_.gcount(),
              bytes.size());
}

}  // namespace kvant::eval
