#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "gguf/blocks.h"
#include "gguf/reader.h"

// Parses arbitrary bytes as a GGUF file; what is accepted is read through the public interface: all metadata by every
// accessor, and the first row of each tensor decoded. Anything but a result or a kvant::Error is a finding.
namespace kvant::gguf {
namespace {

/// Calls `action`, which may refuse.
template <class Action>
void attempt(Action action) {
  try {
    action();
  } catch (const Error&) {
  }
}

void read_metadata(const File& file) {
  for (const File::Entry& entry : file.metadata()) {
    if (file.find(entry.key) != &entry.value) std::abort();
    attempt([&] { file.integer(entry.key); });
    attempt([&] { file.number(entry.key); });
    attempt([&] { file.boolean(entry.key, false); });
    attempt([&] { file.text(entry.key); });
    attempt([&] { file.texts(entry.key); });
    attempt([&] { file.floats(entry.key); });
    attempt([&] { file.integers(entry.key); });
  }
}

void read_tensors(const File& file) {
  for (const Tensor& tensor : file.tensors()) {
    if (&file.tensor(tensor.name) != &tensor) std::abort();
    if (tensor.data.size() != tensor.rows() * row_bytes(tensor.type, tensor.cols())) std::abort();
    std::vector<float> row(tensor.cols());
    attempt([&] { dequantize(tensor.type, tensor.data.data(), row); });
    // Whatever a file decodes to, encoding it again is defined.
    if (row.size() % kBlock == 0) {
      for (const TensorType type : {TensorType::q4_0, TensorType::q5_1, TensorType::q8_0}) {
        std::vector<std::byte> encoded(row_bytes(type, row.size()));
        quantize(type, row, encoded.data());
      }
    }
  }
}

}  // namespace
}  // namespace kvant::gguf

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using kvant::gguf::File;
  try {
    const File file = File::parse(std::as_bytes(std::span(data, size)), "fuzz.gguf");
    kvant::gguf::read_metadata(file);
    kvant::gguf::read_tensors(file);
  } catch (const kvant::Error&) {
  }
  return 0;
}
