#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"
#include "base/thread_pool.h"
#include "base/view.h"

namespace kvant::eval {

/// The file of llama-perplexity's --kl-divergence-base (--save-all-logits): the log-probabilities of a text's scored
/// rows in 16 bits. All numbers little-endian, nothing aligned:
///
///     char[8]   "_logits_"
///     int32     n_ctx, n_vocab, n_chunk
///     int32     tokens[n_chunk][n_ctx], as the text has them: each window's first is fed as BOS where the vocabulary
///               adds one, which the file does not show
///     row       rows[n_chunk][n_ctx - 1 - n_ctx / 2], of the tokens from n_ctx / 2 on
///
///     row       float32 step, float32 lowest, uint16 codes[n_vocab], uint16 0 where n_vocab is odd
///
/// Of a row of logits x, all in f32 but for the sum: top = max x, low = max(min x, top - 16), step = (top - low) /
/// 65535, lowest = low - top - ln sum_i exp(x_i - top), code_i = round((1 / step) (x_i - low)) to nearest even, 0 where
/// x_i <= low or step = 0. A reader takes log p_i = step code_i + lowest; code 0 stands for everything from 16 nats
/// below the most probable token on.
/// Source: llama.cpp, tools/perplexity/perplexity.cpp (functions perplexity, log_softmax, kl_divergence).
struct LogitsShape {
  std::size_t context = 0, vocabulary = 0, chunks = 0;

  std::size_t first_scored() const noexcept { return context / 2; }
  /// Scored rows of each window.
  std::size_t scored() const noexcept { return context - 1 - first_scored(); }
  std::size_t tokens() const noexcept { return context * chunks; }
  std::size_t rows() const noexcept { return scored() * chunks; }
  std::size_t row_bytes() const noexcept { return 8 + (vocabulary + vocabulary % 2) * 2; }
  /// Where the rows start.
  std::size_t head_bytes() const noexcept { return kHeaderBytes + 4 * tokens(); }
  std::size_t file_bytes() const noexcept { return head_bytes() + rows() * row_bytes(); }
  friend bool operator==(const LogitsShape&, const LogitsShape&) = default;

  static constexpr std::size_t kHeaderBytes = 20;
};

/// Parses the first bytes of a file of `file_bytes` bytes. Throws format, naming `file` and what differs, unless there
/// are the magic, counts that make sense (n_ctx >= 3, others >= 1) and exactly the size that these imply.
LogitsShape parse_logits_shape(std::span<const std::byte> bytes, std::size_t file_bytes, std::string_view file);
/// Throws format, naming the first token that the vocabulary has not.
void check_logits_tokens(std::span<const std::int32_t> tokens, const LogitsShape& shape, std::string_view file);

/// Codes a row of finite logits as row.size() = LogitsShape::row_bytes() bytes.
void encode_logits_row(std::span<const float> logits, std::span<std::byte> row) noexcept;

/// What a row of a file says.
struct CodedRow {
  float step = 0;  ///< between neighbouring codes, nats: an error of up to half of it
  /// Tokens at or below this log-probability have it as an upper bound only; -infinity where all are known.
  float floor = 0;
};
/// log p of each token, f32. Throws format, naming `file` and `row` (a number), when step or lowest are no such thing:
/// not finite, a negative step, a probability above 1; or when no token has the highest code.
CodedRow decode_logits_row(std::span<const std::byte> bytes, std::span<float> log_probability, std::string_view file,
                           std::size_t row);

/// Writes such a file; without commit() nothing is left.
class LogitsWriter {
 public:
  /// `tokens` are those of the text, shape.tokens() of them. Throws io; invalid_argument when a count is beyond int32.
  LogitsWriter(const std::filesystem::path& path, const LogitsShape& shape, std::span<const std::int32_t> tokens);
  /// Appends rows of finite logits [rows, vocabulary]. Holds the codes of at most kRows rows.
  void add(MatView<const float> logits, ThreadPool& pool);
  /// Completes the file, all rows of which must have been added.
  void commit();

  static constexpr std::size_t kRows = 32;

 private:
  LogitsShape shape_;
  AtomicFile file_;
  std::vector<std::byte> buffer_;
};

/// Reads such a file from front to back; holds its tokens and one row.
class LogitsReader {
 public:
  /// Throws io when the file cannot be read; format as the functions above.
  explicit LogitsReader(const std::filesystem::path& path);

  const std::string& path() const noexcept { return path_; }
  const LogitsShape& shape() const noexcept { return shape_; }
  /// The text's, window after window.
  std::span<const std::int32_t> tokens() const noexcept { return tokens_; }
  /// The next row; there are shape().rows(). Throws format as decode_logits_row, io when the file has changed.
  CodedRow next(std::span<float> log_probability);

 private:
  void read(std::span<std::byte> bytes);

  std::string path_;
  std::ifstream in_;
  LogitsShape shape_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::byte> buffer_;
  std::size_t row_ = 0;
};

}  // namespace kvant::eval
