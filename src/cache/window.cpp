#include "cache/window.h"

#include <algorithm>

namespace kvant::cache {

Window::Window(const Shape& shape, Isa isa)
    : shape_(shape),
      encode_(kernels::encoders(isa).of(gguf::TensorType::f16)),
      kernels_(&kernels::attention(isa).of(gguf::TensorType::f16)),
      held_from_(shape.layers * shape.sequences),
      memory_(bytes(shape) + (kernels::kScoreTokens - 1) * shape.dims * 2) {}

std::size_t Window::bytes(const Shape& s) {
  return s.layers * s.sequences * s.kv_heads * (s.sinks + s.recent) * s.dims * 2;
}

std::byte* Window::slot(std::size_t layer, std::size_t sequence, std::size_t kv_head,
                        std::size_t index) const noexcept {
  const std::size_t head = (layer * shape_.sequences + sequence) * shape_.kv_heads + kv_head;
  return memory_.data() + (head * (shape_.sinks + shape_.recent) + index) * shape_.dims * 2;
}

void Window::extend(std::size_t layer, std::size_t sequence, std::size_t end) {
  std::size_t& from = held_from_[layer * shape_.sequences + sequence];
  from = std::max(from, end - std::min(end, shape_.recent));
}

void Window::truncate(std::size_t layer, std::size_t sequence, std::size_t length) {
  std::size_t& from = held_from_[layer * shape_.sequences + sequence];
  from = std::min(from, length);
}

bool Window::store(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t position, std::size_t end,
                   const float* x) const {
  if (position < shape_.sinks) return encode_(x, shape_.dims, slot(layer, sequence, kv_head, position));
  if (position + shape_.recent < end) return true;
  if (shape_.recent == 0) return true;
  return encode_(x, shape_.dims, slot(layer, sequence, kv_head, shape_.sinks + position % shape_.recent));
}

Window::Runs Window::runs(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t start,
                          std::size_t tokens) const {
  Runs result;
  std::size_t at = start;
  const std::size_t end = start + tokens;
  if (at < shape_.sinks) {
    const std::size_t count = std::min(end, shape_.sinks) - at;
    result.runs[result.count++] = {slot(layer, sequence, kv_head, at), 0, count};
    at += count;
  }
  at = std::max(at, held_from_[layer * shape_.sequences + sequence]);
  while (at < end && shape_.recent > 0 && result.count < result.runs.size()) {
    const std::size_t index = at % shape_.recent;
    const std::size_t count = std::min(end - at, shape_.recent - index);
    result.runs[result.count++] = {slot(layer, sequence, kv_head, shape_.sinks + index), at - start, count};
    at += count;
  }
  return result;
}

}  // namespace kvant::cache
