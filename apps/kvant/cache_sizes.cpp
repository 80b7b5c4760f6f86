#include "cache_sizes.h"

#include "base/thread_pool.h"
#include "model/cache_constants.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr const char* kTypes[] = {"f16", "q8_0", "q5_1", "q4_0", "uni8", "uni6", "lm5", "lm4", "lm3", "lm2"};

}  // namespace

std::vector<CacheSize> cache_sizes(const model::ModelConfig& config, const model::Weights& weights) {
  ThreadPool pool(0);
  cache::CacheConfig sizes;
  sizes.layers = config.layers;
  sizes.heads = config.heads;
  sizes.kv_heads = config.kv_heads;
  sizes.head_dim = config.head_dim;
  sizes.rope = kernels::rope_frequencies(config.rope);
  sizes.rope_pairs = sizes.rope.theta.size();
  sizes.capacity = config.context;
  std::vector<CacheSize> result;
  for (const char* type : kTypes) {
    sizes.k = codec::parse_cache_spec(type, codec::PageSide::key);
    sizes.v = codec::parse_cache_spec(type, codec::PageSide::value);
    if (sizes.k.coded() && config.head_dim % 8 != 0) continue;
    // Constants have the same size for all coded types.
    if (sizes.k.coded() && sizes.constants.empty()) {
      sizes.constants = model::cache_constants(config, weights, sizes.k, sizes.v, nullptr, nullptr, pool);
    }
    result.push_back({type, cache::planned_usage(sizes, active_isa())});
  }
  return result;
}

std::string cache_sizes_text(const std::vector<CacheSize>& sizes, const model::ModelConfig& config, bool colour) {
  Table table({"K and V cache", "K bits", "V bits", "bytes a token", fmt::format("MiB of {} tokens", config.context),
               "constants KiB"});
  for (const CacheSize& size : sizes) {
    const auto bytes = static_cast<double>(size.usage.bytes());
    table.add({size.type, fmt::format("{:.3f}", size.usage.k_bpv), fmt::format("{:.3f}", size.usage.v_bpv),
               fmt::format("{:.0f}", bytes / static_cast<double>(config.context)),
               fmt::format("{:.1f}", bytes * 0x1p-20),
               fmt::format("{:.1f}", static_cast<double>(size.usage.constant_bytes) * 0x1p-10)});
  }
  return table.text(colour) +
         "Bits of a value: 8 * bytes / values, scales and padding included. Constants (anchors, scales, tables) do "
         "not\n"
         "grow with the context, but for the anchors' angles: 8 bytes a RoPE pair and 64 tokens.\n";
}

}  // namespace kvant::app
