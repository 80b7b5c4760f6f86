#include "cache/side.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "cache/kv_cache.h"
#include "codec/permutation_file.h"

namespace kvant::cache {
namespace {

using codec::CacheSpec;
using codec::PageSide;

/// A layer of flex keys.
struct FlexLayer {
  std::optional<codec::FlexSpec> layout;   ///< none: f16
  std::span<const std::uint8_t> channels;  ///< [KV heads][head_dim] by falling importance; empty: not known
};

/// Where the layers of flex keys come from: a permutation file, constants of a plan, or the type's name alone.
class FlexLayers {
 public:
  FlexLayers(const CacheSpec& spec, const CacheConfig& config) : spec_(spec), config_(config) {
    if (spec.planned_flex()) {
      KVANT_CHECK(config.constants.size() == static_cast<std::size_t>(config.layers), ErrorCode::invalid_argument,
                  "cache: type {}, but constants of {} layers, expected {}", codec::to_string(spec),
                  config.constants.size(), config.layers);
    }
    if (spec.permutations.empty()) return;
    file_ = codec::read_permutation_file(spec.permutations);
    codec::check_fits_model(*file_, spec.permutations, static_cast<std::size_t>(config.layers),
                            static_cast<std::size_t>(config.kv_heads), config.head_dim);
    KVANT_CHECK(spec.flex.hi_bits != 0 || !file_->layouts.empty(), ErrorCode::invalid_argument,
                "{}: holds no layouts of layers, expected some for type flex", spec.permutations);
  }
  FlexLayer of(std::size_t layer) const {
    FlexLayer result{spec_.flex, {}};
    if (spec_.planned_flex()) {
      result = {config_.constants[layer].k_layout, config_.constants[layer].k_channels};
      const std::size_t expected = static_cast<std::size_t>(config_.kv_heads) * config_.head_dim;
      KVANT_CHECK(result.channels.size() == expected, ErrorCode::invalid_argument,
                  "cache: channels of the keys of layer {}: {} values, expected {}", layer, result.channels.size(),
                  expected);
    } else if (file_) {
      const std::int32_t index = file_->layer_map[layer];
      KVANT_CHECK(index >= 0, ErrorCode::invalid_argument, "{}: layer {} has no keys, the model's has",
                  spec_.permutations, layer);
      const auto at = static_cast<std::size_t>(index);
      result.channels = file_->layer_permutations(at);
      if (!file_->layouts.empty()) result.layout = file_->layouts[at];
    }
    if (spec_.flex.hi_bits != 0) result.layout = spec_.flex;
    return result;
  }

 private:
  const CacheSpec& spec_;
  const CacheConfig& config_;
  std::optional<codec::PermutationFile> file_;
};

/// Makes the tokens of a page from `first` on those of vectors of zeros.
void store_zeros(const PageCodec& codec, std::byte* page, std::size_t first) {
  std::vector<float> x(codec.dims());
  for (std::size_t token = first; token < kPageTokens; ++token) {
    std::fill(x.begin(), x.end(), 0.0F);
    codec.store(x.data(), page, token);
  }
}

std::span<std::byte> copy(std::span<const std::byte> bytes, Side::Copies& copies) {
  AlignedBuffer<std::byte>& buffer = copies.emplace_back(bytes.size());
  std::copy(bytes.begin(), bytes.end(), buffer.begin());
  return buffer.span();
}

}  // namespace

Side::Side(const CacheConfig& config, PageSide side, Isa isa)
    : spec_(side == PageSide::key ? config.k : config.v),
      side_(side),
      isa_(isa),
      layer_count_(static_cast<std::size_t>(config.layers)),
      kv_heads_(static_cast<std::size_t>(config.kv_heads)),
      head_dim_(config.head_dim),
      rope_pairs_(config.rope_pairs),
      sequences_(static_cast<std::size_t>(config.sequences)),
      slots_(config.blocks()),
      heads_(layer_count_ * kv_heads_),
      add_anchor_(kernels::add_anchor(isa)) {
  add_codecs(config, isa);
  window_shape_ = {std::min(spec_.sinks, config.capacity),
                   std::min(spec_.recent, config.capacity),
                   layer_count_,
                   sequences_,
                   kv_heads_,
                   dims()};
}

void Side::add_codecs(const CacheConfig& config, Isa isa) {
  if (spec_.coding == CacheSpec::Coding::flex) return add_flex_codecs(config, isa);
  if (spec_.coding == CacheSpec::Coding::plan) return add_planned_codecs(config, isa);
  codecs_.push_back(spec_.coded() ? make_plane_codec(spec_, side_, head_dim_, isa)
                                  : make_block_codec(spec_.type, spec_.rotated, head_dim_, isa));
  for (Head& head : heads_) head.codec = codecs_.back().get();
}

void Side::add_flex_codecs(const CacheConfig& config, Isa isa) {
  KVANT_CHECK(head_dim_ == codec::kFlexDims, ErrorCode::invalid_argument,
              "cache type '{}': head_dim {}, flex layouts are for {}", codec::to_string(spec_), head_dim_,
              codec::kFlexDims);
  const FlexLayers layers(spec_, config);
  for (std::size_t layer = 0; layer < layer_count_; ++layer) {
    const FlexLayer of = layers.of(layer);
    std::shared_ptr<const codec::FlexCodec> flex;
    if (of.layout) flex = std::make_shared<const codec::FlexCodec>(*of.layout);
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      codec::FlexChannels channels;
      if (!of.channels.empty()) {
        channels = codec::make_flex_channels(of.channels.subspan(head * head_dim_, head_dim_));
      }
      codecs_.push_back(flex ? make_flex_codec(flex, channels, isa)
                             : make_block_codec(gguf::TensorType::f16, false, head_dim_, isa));
      heads_[layer * kv_heads_ + head].codec = codecs_.back().get();
    }
  }
}

/// Its vectors as they are, in f16.
void Side::add_uncoded_layer(std::size_t layer) {
  codecs_.push_back(make_block_codec(gguf::TensorType::f16, false, head_dim_, isa_));
  for (std::size_t head = 0; head < kv_heads_; ++head) {
    heads_[layer * kv_heads_ + head].codec = codecs_.back().get();
  }
}

/// Heads with the same parts share a codec; layers without codes stay in f16.
void Side::add_planned_codecs(const CacheConfig& config, Isa isa) {
  const char* what = side_ == PageSide::key ? "keys" : "values";
  KVANT_CHECK(config.constants.size() == layer_count_, ErrorCode::invalid_argument,
              "cache: type plan, but constants of {} layers, expected {}", config.constants.size(), layer_count_);
  std::vector<std::pair<const std::vector<codec::CodePart>*, const PageCodec*>> known;
  for (std::size_t layer = 0; layer < layer_count_; ++layer) {
    const LayerConstants& of = config.constants[layer];
    const std::vector<codec::HeadCode>& codes = side_ == PageSide::key ? of.k_codes : of.v_codes;
    KVANT_CHECK(codes.empty() || codes.size() == kv_heads_, ErrorCode::invalid_argument,
                "cache: type plan, but codes for the {} of {} heads of layer {}, expected {} or none", what,
                codes.size(), layer, kv_heads_);
    if (codes.empty()) {
      add_uncoded_layer(layer);
      continue;
    }
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      check_head_code(codes[head], head_dim_, fmt::format("cache: {} of layer {}, KV head {}", what, layer, head));
      const auto& parts = codes[head].parts;
      const auto same = std::find_if(known.begin(), known.end(), [&](const auto& k) { return *k.first == parts; });
      const PageCodec* codec = same == known.end() ? nullptr : same->second;
      if (codec == nullptr) {
        codecs_.push_back(make_parts_codec(parts, side_, isa));
        codec = codecs_.back().get();
        known.emplace_back(&parts, codec);
      }
      heads_[layer * kv_heads_ + head].codec = codec;
    }
  }
}

void Side::prepare(const CacheConfig& config, Maps& maps) {
  if (config.constants.empty()) return;
  if (side_ == PageSide::key && !config.rope.theta.empty()) angles_.emplace(config.rope, config.capacity);
  bool anchored = false;
  for (std::size_t layer = 0; layer < layer_count_; ++layer) {
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      HeadBasis& basis = heads_[layer * kv_heads_ + head].basis;
      const LayerConstants& of = config.constants[layer];
      basis = side_ == PageSide::key ? make_key_basis(spec_, of, head, head_dim_, angles(), maps, isa_)
                                     : make_value_basis(spec_, of, head, head_dim_, maps, isa_);
      anchored = anchored || !basis.pairs.re.empty();
    }
  }
  if (!anchored) angles_.reset();
  if (spec_.shape != codec::Shape::none) shape_codecs(config);
}

/// The metric of a head's codes: what its constants say an error costs. Of keys it is diagonal, as RoPE turns the
/// queries of a pair through all angles: E|Q_j|^2 over the square of the pair's scale.
std::vector<float> Side::metric(const LayerConstants& constants, std::size_t layer, std::size_t kv_head) const {
  const std::size_t size = head_dim_ * head_dim_;
  if (side_ == PageSide::value) {
    if (constants.v_metric.empty()) return {};
    const auto first = constants.v_metric.begin() + static_cast<std::ptrdiff_t>(kv_head * size);
    return {first, first + static_cast<std::ptrdiff_t>(size)};
  }
  if (constants.q_energy.empty()) return {};
  std::vector<float> metric(size);
  const std::vector<float>& inverse = head(layer, kv_head).basis.inverse;
  const float* energy = constants.q_energy.data() + kv_head * rope_pairs_;
  const float mean = std::accumulate(energy, energy + rope_pairs_, 0.0F) / static_cast<float>(rope_pairs_);
  for (std::size_t i = 0; i < head_dim_; ++i) {
    const float factor = inverse.empty() ? 1.0F : inverse[i];
    metric[i * head_dim_ + i] = (i < 2 * rope_pairs_ ? energy[i % rope_pairs_] : mean) * factor * factor;
  }
  return metric;
}

/// Gives each head with a metric a codec of its own.
void Side::shape_codecs(const CacheConfig& config) {
  for (std::size_t layer = 0; layer < layer_count_; ++layer) {
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      const std::vector<float> m = metric(config.constants[layer], layer, head);
      if (m.empty()) continue;
      Head& h = heads_[layer * kv_heads_ + head];
      codecs_.push_back(h.codec->shaped(m));
      h.codec = codecs_.back().get();
    }
  }
}

PageGrid Side::grid(std::size_t layer) const {
  PageGrid grid{slots_, {}};
  for (std::size_t h = 0; h < kv_heads_; ++h) grid.page_bytes.push_back(head(layer, h).codec->page_bytes());
  return grid;
}

double Side::planned_bytes() const {
  double bytes = static_cast<double>(layer_count_ * sequences_ * kv_heads_) *
                 static_cast<double>(window_shape_.sinks + window_shape_.recent) * static_cast<double>(2 * dims());
  for (const Head& head : heads_) {
    bytes += static_cast<double>(slots_) * static_cast<double>(head.codec->page_bytes());
  }
  return bytes;
}

void Side::allocate() {
  layers_.reserve(layer_count_);
  std::size_t bytes = 0;
  for (std::size_t layer = 0; layer < layer_count_; ++layer) bytes += grid(layer).bytes();
  memory_.emplace(bytes);
  for (std::size_t layer = 0, offset = 0; layer < layer_count_; offset += grid(layer++).bytes()) {
    layers_.emplace_back(grid(layer), memory_->data() + offset);
  }
  if (window_shape_.sinks + window_shape_.recent > 0) window_.emplace(window_shape_, isa_);
}

void Side::reserve(QueryRows& q, std::size_t rows) const {
  for (const auto& codec : codecs_) codec->reserve(q, rows);
}

bool Side::store(const NewToken& to, const float* vector, const float* angles, float* x) const {
  const Head& h = head(to.layer, to.kv_head);
  if (side_ == PageSide::key) {
    h.basis.key({vector, head_dim_}, angles, rope_pairs_, x);
  } else {
    h.basis.value({vector, head_dim_}, x);
  }
  if (!h.codec->store(x, layers_[to.layer].page(to.kv_head, to.slot), to.position % kPageTokens)) return false;
  return !window_ || window_->store(to.layer, to.sequence, to.kv_head, to.position, to.end, x);
}

void Side::copy_block(const BlockTable::Copy& slots) {
  for (const PageStore& pages : layers_) {
    for (std::size_t h = 0; h < kv_heads_; ++h) {
      std::copy_n(pages.page(h, slots.from), pages.page_bytes(h), pages.page(h, slots.to));
    }
  }
}

std::vector<Side::Pieces> Side::contents(const BlockTable& blocks, std::span<const std::size_t> sequences,
                                         std::span<const std::size_t> lengths, Copies* copies) {
  std::vector<Pieces> sections;
  for (std::size_t layer = 0; layer < layer_count_; ++layer) {
    const PageStore& pages = layers_[layer];
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::size_t length = lengths[layer * sequences.size() + i], count = blocks_of(length);
      for (std::size_t h = 0; h < kv_heads_ && count > 0; ++h) {
        Pieces& pieces = sections.emplace_back();
        for (std::size_t block = 0; block < count; ++block) {
          pieces.emplace_back(pages.page(h, blocks.slot(sequences[i], block)), pages.page_bytes(h));
        }
        if (copies == nullptr || length % kPageTokens == 0) continue;
        pieces.back() = copy(pieces.back(), *copies);
        store_zeros(*head(layer, h).codec, pieces.back().data(), length % kPageTokens);
      }
    }
  }
  if (window_) {
    Pieces vectors, held_from;
    for (std::size_t layer = 0; layer < layer_count_; ++layer) {
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const std::size_t sequence = sequences[i];
        vectors.push_back(window_->vectors(layer, sequence));
        held_from.push_back(std::as_writable_bytes(std::span(&window_->held_from(layer, sequence), 1)));
        if (copies == nullptr) continue;
        vectors.back() = copy(vectors.back(), *copies);
        window_->clear_rest(layer, sequence, lengths[layer * sequences.size() + i], vectors.back());
      }
    }
    sections.push_back(std::move(vectors));
    sections.push_back(std::move(held_from));
  }
  return sections;
}

std::uint64_t Side::identity() const {
  std::vector<std::uint64_t> hashes{window_shape_.sinks, window_shape_.recent};
  for (const Head& head : heads_) {
    hashes.push_back(head.codec->identity());
    for (const auto* v : {&head.basis.anchor, &head.basis.mean, &head.basis.scale}) {
      hashes.push_back(hash_bytes(std::as_bytes(std::span(*v))));
    }
    if (head.basis.transform.empty()) continue;
    for (const auto* m : {&head.basis.transform, &head.basis.inverse_transform}) {
      hashes.push_back(hash_bytes(std::as_bytes(std::span(*m))));
    }
  }
  return hash_bytes(std::as_bytes(std::span(hashes)));
}

std::size_t Side::bytes() const noexcept { return (memory_ ? memory_->bytes() : 0) + (window_ ? window_->bytes() : 0); }

std::size_t Side::constant_bytes() const noexcept {
  std::size_t bytes = angles_ ? angles_->bytes() : 0;
  for (const auto& codec : codecs_) bytes += codec->constant_bytes();
  for (const Head& head : heads_) bytes += head.basis.constant_bytes();
  return bytes;
}

}  // namespace kvant::cache
