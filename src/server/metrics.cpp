#include "server/metrics.h"

#include <iterator>
#include <string_view>

namespace kvant::server {
namespace {

/// Writes families of metrics, each with its help and type.
class Writer {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(text_), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
  }
  /// name: with its labels, if it has any
  void value(std::string_view name, auto number) { fmt::format_to(std::back_inserter(text_), "{} {}\n", name, number); }
  void counter(std::string_view name, std::string_view help, auto number) {
    family(name, "counter", help);
    value(name, number);
  }
  void gauge(std::string_view name, std::string_view help, auto number) {
    family(name, "gauge", help);
    value(name, number);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace

CacheMemory cache_memory(const cache::CacheConfig& config, const cache::CacheUsage& usage, const Load& load) {
  const auto used = static_cast<double>(load.blocks - load.free_blocks);
  const double values = 2.0 * config.layers * config.kv_heads * static_cast<double>(config.head_dim);
  CacheMemory memory;
  memory.bytes = static_cast<double>(usage.bytes());
  memory.used_bytes = memory.bytes * used / static_cast<double>(load.blocks);
  memory.f16_bytes = used * static_cast<double>(cache::KvCache::kBlockTokens) * values * 2;
  return memory;
}

std::string metrics_text(const Load& load, const CacheMemory& memory, std::size_t connections) {
  Writer out;
  out.family("kvant_answers_total", "counter", "Answers that have ended, by how.");
  constexpr std::string_view kHow[] = {"stop", "length", "cancelled", "timed_out", "failed"};
  for (std::size_t i = 0; i < std::size(kHow); ++i) {
    out.value(fmt::format("kvant_answers_total{{finish=\"{}\"}}", kHow[i]), load.finished[i]);
  }
  out.counter("kvant_answers_refused_total", "Answers refused for want of room in the queue.", load.refused);
  out.gauge("kvant_answers_running", "Answers being made.", load.running);
  out.gauge("kvant_answers_waiting", "Answers in the queue.", load.waiting);
  out.counter("kvant_prompt_tokens_total", "Tokens of prompts.", load.prompt_tokens);
  out.counter("kvant_cached_tokens_total", "Tokens of prompts that were in the cache.", load.cached_tokens);
  out.counter("kvant_generated_tokens_total", "Tokens of answers that have ended.", load.generated_tokens);
  out.counter("kvant_passes_total", "Passes of the model.", load.passes);
  out.counter("kvant_rows_total", "Tokens that went through the model.", load.rows);
  out.gauge("kvant_conversations_kept", "Conversations kept in the cache.", load.kept);
  out.counter("kvant_conversations_evicted_total", "Kept conversations that gave way.", load.evicted);
  out.gauge("kvant_cache_blocks", "Blocks of the cache, of 64 tokens.", load.blocks);
  out.gauge("kvant_cache_blocks_free", "Blocks that hold nothing.", load.free_blocks);
  out.gauge("kvant_cache_bytes", "Bytes of the cache.", memory.bytes);
  out.gauge("kvant_cache_used_bytes", "Bytes of the blocks in use.", memory.used_bytes);
  out.gauge("kvant_cache_used_f16_bytes", "Bytes that the blocks in use would take in f16.", memory.f16_bytes);
  out.gauge("kvant_connections", "Open connections.", connections);
  return out.take();
}

}  // namespace kvant::server
