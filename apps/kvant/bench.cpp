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
  std::vector<std::size_t> depths;
  OutputOptions output;
  bool suite = false, json = false;
};

/// What the suite measures: from the plain types that everybody knows to the smallest codes.
constexpr const char* kSuiteCaches[] = {"f16", "q8_0", "q4_0", "lm5", "lm4", "lm3", "lm2"};
const std::vector<std::size_t> kSuiteDepths{0, 4096, 16384, 32768};

/// What was measured, on what.
struct Results {
  const Options& options;
  engine::Engine& engine;
  bench::Roofline peak;
  std::vector<bench::CacheTypes> caches;
  std::vector<bench::SpeedRow> rows;

  bench::AttentionFloor floor(const bench::SpeedRow& row) const {
    return attention_floor(attention_work(engine.config(), caches[row.cache], row.speed), peak);
  }
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

std::string header(const Results& results) {
  const bench::Roofline& peak = results.peak;
  std::string out = fmt::format("machine  {}, {}, {} threads: reads {:.1f} GB/s; GFLOP/s f32 {:.0f}", cpu_name(),
                                name(active_isa()), results.engine.pool().threads(), peak.read_gb_s, peak.f32_gflops);
  if (peak.bf16_gflops > 0) out += fmt::format(", bf16 {:.0f}", peak.bf16_gflops);
  if (peak.int8_gops > 0) out += fmt::format("; int8 GOP/s {:.0f}", peak.int8_gops);
  const std::string& title = results.engine.config().name;
  return out + fmt::format("\nmodel    {}, {} of weights a token\n",
                           title.empty() ? results.options.model.model : printable(title),
                           format_bytes(static_cast<double>(results.engine.weights().bytes_per_token())));
}

/// The names of keys and values, or of both.
std::string cache_name(const bench::CacheTypes& cache) {
  const auto [k, v] = side_names({cache.k, cache.v});
  return k == v ? k : k + "/" + v;
}

double tokens_per_second(const bench::SpeedResult& speed) { return speed.decode_ms > 0 ? 1e3 / speed.decode_ms : 0; }

std::string mebibytes(double bytes) { return fmt::format("{:.1f}", bytes / (1 << 20)); }

/// One cache, a row for each depth.
std::string result_text(const Results& results, bool colour) {
  const bench::Roofline& peak = results.peak;
  const bench::SpeedResult& first = results.rows.front().speed;
  std::string out =
      header(results) + fmt::format("cache    {}, made in {:.0f} ms\n\n",
                                    describe(results.caches[0].k, results.caches[0].v, first.usage), first.create_ms);
  Table table({"depth", fmt::format("prefill {}, t/s", results.options.prompt), "GFLOP/s", "decode, t/s", "ms",
               "weights ms", "attention ms", "GB/s", "cache MiB"});
  for (const bench::SpeedRow& row : results.rows) {
    const bench::SpeedResult& r = row.speed;
    table.add({fmt::format("{}", row.depth), number(r.prefill_tps, 1), with_share(r.prefill_gflops, prefill_peak(peak)),
               number(tokens_per_second(r), 1), number(r.decode_ms, 2), number(r.weights_ms, 2),
               number(r.attention_ms, 2), with_share(r.decode_gb_s, peak.read_gb_s), mebibytes(r.cache_bytes)});
  }
  out += table.text(colour);
  out += fmt::format(
      "Medians of {}. GFLOP/s: weight products of the prefill (share of the {} peak); GB/s: weights and "
      "cache\nread per decoded token (share of the read rate).\n",
      results.options.repetitions, peak.bf16_gflops > 0 ? "bf16" : "f32");
  return out;
}

/// All caches of a depth below each other, attention beside what the first cache and the machine's peaks take.
std::string suite_text(const Results& results, bool colour) {
  std::string out = header(results) + "\n";
  Table table({"depth", "cache", "bits K, V", "MiB", fmt::format("prefill {}, t/s", results.options.prompt),
               "decode, t/s", "attention ms", "of the first", "memory ms", "compute ms"});
  double first_ms = 0;
  for (const bench::SpeedRow& row : results.rows) {
    const bench::SpeedResult& r = row.speed;
    const bench::AttentionFloor floor = results.floor(row);
    if (row.cache == 0) first_ms = r.attention_ms;
    table.add({fmt::format("{}", row.depth), cache_name(results.caches[row.cache]),
               fmt::format("{:.2f} {:.2f}", r.usage.k_bpv, r.usage.v_bpv), mebibytes(r.cache_bytes),
               number(r.prefill_tps, 1), number(tokens_per_second(r), 1), number(r.attention_ms, 2),
               number(first_ms > 0 ? r.attention_ms / first_ms : 0, 2), number(floor.memory_ms, 2),
               number(floor.compute_ms, 2)});
  }
  out += table.text(colour);
  out += fmt::format(
      "Medians of {} interleaved repetitions. attention: of a decoded token; memory: reading its keys and values once\n"
      "at the machine's read rate; compute: its products at the f32 peak, over codes at the int8 peak.\n",
      results.options.repetitions);
  return out;
}

ordered_json row_json(const Results& results, const bench::SpeedRow& row) {
  const bench::SpeedResult& r = row.speed;
  const bench::CacheTypes& cache = results.caches[row.cache];
  const bench::Roofline& peak = results.peak;
  const bench::AttentionFloor floor = results.floor(row);
  return {{"k", codec::to_string(cache.k)},
          {"v", codec::to_string(cache.v, codec::PageSide::value)},
          {"depth", row.depth},
          {"prompt", results.options.prompt},
          {"tokens", results.options.tokens},
          {"prefill_tps", r.prefill_tps},
          {"prefill_gflops", r.prefill_gflops},
          {"prefill_share", prefill_peak(peak) > 0 ? r.prefill_gflops / prefill_peak(peak) : 0},
          {"decode_ms", r.decode_ms},
          {"decode_tps", tokens_per_second(r)},
          {"attention_ms", r.attention_ms},
          {"attention_memory_ms", floor.memory_ms},
          {"attention_compute_ms", floor.compute_ms},
          {"weights_ms", r.weights_ms},
          {"decode_gb_s", r.decode_gb_s},
          {"decode_share", peak.read_gb_s > 0 ? r.decode_gb_s / peak.read_gb_s : 0},
          {"k_bpv", r.usage.k_bpv},
          {"v_bpv", r.usage.v_bpv},
          {"cache_bytes", r.cache_bytes},
          {"constant_bytes", r.usage.constant_bytes},
          {"create_ms", r.create_ms},
          {"rss_bytes", r.rss_bytes}};
}

std::string result_json(const Results& results) {
  const bench::Roofline& peak = results.peak;
  ordered_json document = {{"machine",
                            {{"cpu", cpu_name()},
                             {"isa", std::string(name(active_isa()))},
                             {"threads", results.engine.pool().threads()},
                             {"read_gb_s", peak.read_gb_s},
                             {"f32_gflops", peak.f32_gflops},
                             {"bf16_gflops", peak.bf16_gflops},
                             {"int8_gops", peak.int8_gops}}},
                           {"model", results.options.model.model},
                           {"precision", results.options.model.precision},
                           {"bytes_per_token", results.engine.weights().bytes_per_token()},
                           {"results", ordered_json::array()}};
  for (const bench::SpeedRow& row : results.rows) document["results"].push_back(row_json(results, row));
  return json_text(document);
}

/// Those of the suite and, where one was asked for, the cache of the options.
std::vector<bench::CacheTypes> caches_of(const Options& options) {
  const eval::CachePair asked = options.cache.pair();
  std::vector<bench::CacheTypes> caches;
  if (options.suite) {
    for (const char* type : kSuiteCaches) {
      caches.push_back({codec::parse_cache_spec(type), codec::parse_cache_spec(type, codec::PageSide::value)});
    }
    if (asked == eval::CachePair{}) return caches;
  }
  caches.push_back({asked.k, asked.v});
  return caches;
}

void run(const Options& options) {
  bench::SpeedOptions settings;
  settings.caches = caches_of(options);
  settings.depths = options.depths;
  if (settings.depths.empty()) settings.depths = options.suite ? kSuiteDepths : std::vector<std::size_t>{0};
  settings.prompt = options.prompt;
  settings.tokens = options.tokens;
  settings.repetitions = options.repetitions;
  Output output(options.output);
  engine::Engine engine = options.model.open();
  if (stderr_is_terminal()) write_stderr("measuring the machine ...");
  Results results{options, engine, bench::measure_roofline(engine.pool(), active_isa()), settings.caches, {}};
  if (stderr_is_terminal()) write_stderr("\r\x1b[K");
  {
    Progress progress("speed", "measurements");
    settings.progress = [&](std::size_t done, std::size_t total, std::string_view) { progress.update(done, total); };
    results.rows = measure_speed(engine, settings);
  }
  output.write(options.json    ? result_json(results)
               : options.suite ? suite_text(results, output.colour())
                               : result_text(results, output.colour()));
  output.finish();
}

}  // namespace

Command add_bench(CLI::App& app) {
  CLI::App& command =
      add_command(app, "bench", "Speed of prefill and decode, against what the machine can do",
                  "At a depth above 0 the cache is filled with random keys and values beforehand.\n"
                  "--suite compares f16 with smaller caches at depths from 0 to 32,768, every repetition taking all\n"
                  "of them in turn; a cache or plan that is given joins them.\n"
                  "Example: kvant bench -m model.gguf -p 512 -n 128 -d 0,4096 --cache-k q8_0\n"
                  "         kvant bench -m model.gguf --suite -n 16 --plan plan.gguf --json -o suite.json");
  auto options = std::make_shared<Options>();
  const auto limit = CLI::Range(std::size_t{0}, std::size_t{1} << 30).description("");
  add_model_options(command, options->model, "fast");
  command.add_option("-p,--prompt", options->prompt, "Tokens of the timed prefill, 0: none (default: 512)")
      ->check(limit)
      ->type_name("N");
  command.add_option("-n,--tokens", options->tokens, "Tokens decoded one by one, 0: none (default: 128)")
      ->check(limit)
      ->type_name("N");
  command
      .add_option("-d,--depth", options->depths,
                  "Tokens in the cache beforehand, a list (default: 0, of a suite 0,4096,16384,32768)")
      ->check(limit)
      ->delimiter(',')
      ->type_name("N,...");
  command.add_option("-r,--repetitions", options->repetitions, "Repetitions, of which medians are shown (default: 3)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1000}).description(""))
      ->type_name("N");
  add_output_option(command, options->output);
  command.add_flag("--suite", options->suite, "All kinds of caches at several depths, in turn");
  command.add_flag("--json", options->json, "Print one JSON document");
  add_cache_options(command, options->cache);
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
