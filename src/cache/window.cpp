#include "cache/window.h"

#include <algorithm>

namespace kvant::cache {

Window::Window(const Shape& shape, Isa isa)
    : shape_(shape),
      encode_(kernels::encoders(isa).of(gguf::TensorType::f16)),
      kernels_(&kernels::attention(isa).of(gguf::TensorType::f16)),
      held_from_(shape.layers * shape.sequences),
      memory_(bytes(shape) + (kernels::kScoreTokens - 1) * shape.dims * 2),
      stretches_(shape.sequences) {}

std::size_t Window::bytes(const Shape& s) {
  return s.layers * s.sequences * s.kv_heads * (s.sinks + s.recent) * s.dims * 2;
}

std::byte* Window::slot(std::size_t layer, std::size_t sequence, std::size_t kv_head,
                        std::size_t index) const noexcept {
  const std::size_t head = (layer * shape_.sequences + sequence) * shape_.kv_heads + kv_head;
  return memory_.data() + (head * (shape_.sinks + shape_.recent) + index) * shape_.dims * 2;
}

const Window::Stretch* Window::stretch(std::size_t layer, std::size_t sequence) const noexcept {
  const Stretch& s = stretches_[sequence];
  return s.count > 0 && s.layer == layer ? &s : nullptr;
}

std::byte* Window::batch_slot(const Stretch& stretch, std::size_t kv_head, std::size_t position) const noexcept {
  return batch_.data() + stretch.offset + (kv_head * stretch.count + position - stretch.from) * shape_.dims * 2;
}

void Window::begin(std::size_t layer, const Batch& batch) {
  const std::size_t vector = shape_.dims * 2;
  std::size_t bytes = 0;
  for (Stretch& s : stretches_) s.count = 0;
  for (const Segment& s : batch.segments) {
    const auto sequence = static_cast<std::size_t>(s.sequence);
    const std::size_t held = std::max(held_from(layer, sequence), shape_.sinks);
    const std::size_t before =
        s.count > 1 && s.position > held && shape_.recent > 0 ? std::min(s.position - held, shape_.recent - 1) : 0;
    stretches_[sequence] = {layer, s.position - before, s.count > 1 && shape_.recent > 0 ? before + s.count : 0, bytes};
    bytes += shape_.kv_heads * stretches_[sequence].count * vector;
  }
  if (bytes > 0) bytes += (kernels::kScoreTokens - 1) * vector;
  if (bytes > batch_.bytes()) batch_ = Memory(bytes);

  for (const Segment& s : batch.segments) {
    const auto sequence = static_cast<std::size_t>(s.sequence);
    if (const Stretch* to = stretch(layer, sequence)) {
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        for (std::size_t p = to->from; p < s.position; ++p) {
          const std::byte* from = slot(layer, sequence, head, shape_.sinks + p % shape_.recent);
          std::copy_n(from, vector, batch_slot(*to, head, p));
        }
      }
    }
    const std::size_t end = s.position + s.count;
    std::size_t& from = held_from(layer, sequence);
    from = std::max(from, end - std::min(end, shape_.recent));
  }
}

void Window::truncate(std::size_t layer, std::size_t sequence, std::size_t length) {
  held_from(layer, sequence) = std::min(held_from(layer, sequence), length);
}

void Window::fork(std::size_t layer, std::size_t from, std::size_t to, std::size_t length) {
  const std::span<const std::byte> kept = vectors(layer, from);
  std::copy(kept.begin(), kept.end(), vectors(layer, to).begin());
  held_from(layer, to) = std::min(held_from(layer, from), length);
  forget_batch(to);
}

std::span<std::byte> Window::vectors(std::size_t layer, std::size_t sequence) noexcept {
  return {slot(layer, sequence, 0, 0), shape_.kv_heads * (shape_.sinks + shape_.recent) * shape_.dims * 2};
}

void Window::clear_rest(std::size_t layer, std::size_t sequence, std::size_t length, std::span<std::byte> copy) const {
  const std::size_t slots = shape_.sinks + shape_.recent, vector = shape_.dims * 2;
  std::vector<char> held(slots);
  std::fill_n(held.begin(), std::min(shape_.sinks, length), char{1});
  const std::size_t from = std::max(held_from_[layer * shape_.sequences + sequence], shape_.sinks);
  for (std::size_t p = from; p < length && shape_.recent > 0; ++p) held[shape_.sinks + p % shape_.recent] = 1;
  for (std::size_t i = 0; i < shape_.kv_heads * slots; ++i) {
    if (held[i % slots] == 0) std::fill_n(copy.begin() + static_cast<std::ptrdiff_t>(i * vector), vector, std::byte{0});
  }
}

bool Window::store(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t position, std::size_t end,
                   const float* x) const {
  if (position < shape_.sinks) return encode_(x, shape_.dims, slot(layer, sequence, kv_head, position));
  if (shape_.recent == 0) return true;
  std::byte* kept = slot(layer, sequence, kv_head, shape_.sinks + position % shape_.recent);
  const Stretch* s = stretch(layer, sequence);
  if (s == nullptr) return encode_(x, shape_.dims, kept);
  std::byte* to = batch_slot(*s, kv_head, position);
  if (!encode_(x, shape_.dims, to)) return false;
  if (position + shape_.recent >= end) std::copy_n(to, shape_.dims * 2, kept);
  return true;
}

Window::Runs Window::runs(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t start,
                          std::size_t tokens, std::size_t query) const {
  Runs result;
  std::size_t at = start;
  const std::size_t end = start + tokens;
  if (at < shape_.sinks) {
    const std::size_t count = std::min(end, shape_.sinks) - at;
    result.runs[result.count++] = {slot(layer, sequence, kv_head, at), 0, count, true};
    at += count;
  }
  at = std::max(at, query + 1 - std::min(query + 1, shape_.recent));
  if (const Stretch* s = stretch(layer, sequence)) {
    at = std::max(at, s->from);
    if (at < end) result.runs[result.count++] = {batch_slot(*s, kv_head, at), at - start, end - at, false};
    return result;
  }
  at = std::max(at, held_from_[layer * shape_.sequences + sequence]);
  while (at < end && shape_.recent > 0 && result.count < result.runs.size()) {
    const std::size_t index = at % shape_.recent;
    const std::size_t count = std::min(end - at, shape_.recent - index);
    result.runs[result.count++] = {slot(layer, sequence, kv_head, shape_.sinks + index), at - start, count, false};
    at += count;
  }
  return result;
}

}  // namespace kvant::cache
