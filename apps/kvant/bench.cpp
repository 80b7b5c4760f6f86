#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/cpu.h"
#include "bench/roofline.h"
#include "bench/speed.h"
#include "json.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  CacheOptions cache;
  std::size_t prompt = 512, tokens = 128, repetitions = 3;
  std::vector<std::size_t> depths{0};
  OutputOptions output;
  bool json = false;
};

struct Row {
  std::size_t depth;
  bench::SpeedResult speed;
};

/// "12.3 (45 %)": a rate and its share of what the machine reaches; without a peak the rate alone, "-" for none.
std::string with_share(double rate, double peak) {
  if (rate <= 0) return "-";
  const std::string text = fmt::format("{:.{}f}", rate, rate < 100 ? 1 : 0);
  return peak > 0 ? fmt::format("{} ({:.0f} %)", text, 100 * rate / peak) : text;
}

std::string number(double value, int decimals) { return value > 0 ? fmt::format("{:.{}f}", value, decimals) : "-"; }

/// The peak that prefill is measured against: bf16 where the processor has it, else f32.
double prefill_peak(const bench::Roofline& peak) { return peak.bf16_gflops > 0 ? peak.bf16_gflops : peak.f32_gflops; }

std::string result_text(const Options& options, const eval::CachePair& cache, engine::Engine& engine,
                        const bench::Roofline& peak, const std::vector<Row>& rows, bool colour) {
  std::string out = fmt::format("machine  {}, {}, {} threads: reads {:.1f} GB/s; GFLOP/s f32 {:.0f}", cpu_name(),
                                name(active_isa()), engine.pool().threads(), peak.read_gb_s, peak.f32_gflops);
  if (peak.bf16_gflops > 0) out += fmt::format(", bf16 {:.0f}", peak.bf16_gflops);
  if (peak.int8_gops > 0) out += fmt::format("; int8 GOP/s {:.0f}", peak.int8_gops);
  out += fmt::format("\nmodel    {}, {} of weights a token\n",
                     engine.config().name.empty() ? options.model.model : printable(engine.config().name),
                     format_bytes(static_cast<double>(engine.weights().bytes_per_token())));
  const cache::CacheUsage& usage = rows.front().speed.usage;
  out += fmt::format("cache    {}, made in {:.0f} ms\n\n", describe(cache.k, cache.v, usage),
                     rows.front().speed.create_ms);
  Table table({"depth", fmt::format("prefill {}, t/s", options.prompt), "GFLOP/s", "decode, t/s", "ms", "weights ms",
               "attention ms", "GB/s", "cache MiB"});
  for (const Row& row : rows) {
    const bench::SpeedResult& r = row.speed;
    table.add({fmt::format("{}", row.depth), number(r.prefill_tps, 1), with_share(r.prefill_gflops, prefill_peak(peak)),
               number(r.decode_ms > 0 ? 1e3 / r.decode_ms : 0, 1), number(r.decode_ms, 2), number(r.weights_ms, 2),
               number(r.attention_ms, 2), with_share(r.decode_gb_s, peak.read_gb_s),
               fmt::format("{:.1f}", static_cast<double>(r.usage.bytes()) / (1 << 20))});
  }
  out += table.text(colour);
  out += fmt::format(
      "Medians of {}. GFLOP/s: weight products of the prefill (share of the {} peak); GB/s: weights and "
      "cache\nread per decoded token (share of the read rate).\n",
      options.repetitions, peak.bf16_gflops > 0 ? "bf16" : "f32");
  return out;
}

std::string result_json(const Options& options, const eval::CachePair& cache, engine::Engine& engine,
                        const bench::Roofline& peak, const std::vector<Row>& rows) {
  ordered_json document = {{"machine",
                            {{"cpu", cpu_name()},
                             {"isa", std::string(name(active_isa()))},
                             {"threads", engine.pool().threads()},
                             {"read_gb_s", peak.read_gb_s},
                             {"f32_gflops", peak.f32_gflops},
                             {"bf16_gflops", peak.bf16_gflops},
                             {"int8_gops", peak.int8_gops}}},
                           {"model", options.model.model},
                           {"precision", options.model.precision},
                           {"bytes_per_token", engine.weights().bytes_per_token()},
                           {"results", ordered_json::array()}};
  for (const Row& row : rows) {
    const bench::SpeedResult& r = row.speed;
    document["results"].push_back(
        {{"k", codec::to_string(cache.k)},
         {"v", codec::to_string(cache.v, codec::PageSide::value)},
         {"depth", row.depth},
         {"prompt", options.prompt},
         {"tokens", options.tokens},
         {"prefill_tps", r.prefill_tps},
         {"prefill_gflops", r.prefill_gflops},
         {"prefill_share", prefill_peak(peak) > 0 ? r.prefill_gflops / prefill_peak(peak) : 0},
         {"decode_ms", r.decode_ms},
         {"decode_tps", r.decode_ms > 0 ? 1e3 / r.decode_ms : 0},
         {"attention_ms", r.attention_ms},
         {"weights_ms", r.weights_ms},
         {"decode_gb_s", r.decode_gb_s},
         {"decode_share", peak.read_gb_s > 0 ? r.decode_gb_s / peak.read_gb_s : 0},
         {"k_bpv", r.usage.k_bpv},
         {"v_bpv", r.usage.v_bpv},
         {"cache_bytes", r.usage.bytes()},
         {"constant_bytes", r.usage.constant_bytes},
         {"create_ms", r.create_ms},
         {"rss_bytes", r.rss_bytes}});
  }
  return json_text(document);
}

void run(const Options& options) {
  bench::SpeedOptions settings;
  const eval::CachePair cache = options.cache.pair();
  settings.k = cache.k;
  settings.v = cache.v;
  settings.prompt = options.prompt;
  settings.tokens = options.tokens;
  settings.repetitions = options.repetitions;
  Output output(options.output);
  engine::Engine engine = options.model.open();
  if (stderr_is_terminal()) write_stderr("measuring the machine ...");
  const bench::Roofline peak = bench::measure_roofline(engine.pool(), active_isa());
  if (stderr_is_terminal()) write_stderr("\r\x1b[K");
  std::vector<Row> rows;
  for (const std::size_t depth : options.depths) {
    Progress progress(fmt::format("depth {}", depth), "repetitions");
    settings.depth = depth;
    settings.progress = [&](std::size_t done, std::size_t total, std::string_view) { progress.update(done, total); };
    rows.push_back({depth, bench::measure_speed(engine, settings)});
  }
  output.write(options.json ? result_json(options, cache, engine, peak, rows)
                            : result_text(options, cache, engine, peak, rows, output.colour()));
  output.finish();
}

}  // namespace

Command add_bench(CLI::App& app) {
  CLI::App& command = add_command(app, "bench", "Speed of prefill and decode, against what the machine can do",
                                  "At a depth above 0 the cache is filled with random keys and values beforehand.\n"
                                  "Example: kvant bench -m model.gguf -p 512 -n 128 -d 0,4096 --cache-k q8_0");
  auto options = std::make_shared<Options>();
  const auto limit = CLI::Range(std::size_t{0}, std::size_t{1} << 30).description("");
  add_model_options(command, options->model, "fast");
  command.add_option("-p,--prompt", options->prompt, "Tokens of the timed prefill, 0: none (default: 512)")
      ->check(limit)
      ->type_name("N");
  command.add_option("-n,--tokens", options->tokens, "Tokens decoded one by one, 0: none (default: 128)")
      ->check(limit)
      ->type_name("N");
  command.add_option("-d,--depth", options->depths, "Tokens in the cache beforehand, a list (default: 0)")
      ->check(limit)
      ->delimiter(',')
      ->type_name("N,...");
  command.add_option("-r,--repetitions", options->repetitions, "Repetitions, of which medians are shown (default: 3)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1000}).description(""))
      ->type_name("N");
  add_output_option(command, options->output);
  command.add_flag("--json", options->json, "Print one JSON document");
  add_cache_options(command, options->cache);
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
