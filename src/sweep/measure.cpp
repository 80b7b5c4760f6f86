#include "sweep/measure.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/utf8.h"
#include "calib/collect.h"
#include "eval/prompts.h"
#include "eval/retrieval.h"
#include "sweep/content.h"

namespace kvant::sweep {
namespace {

using codec::PageSide;
using eval::CachePair;

/// f16 or f32 for keys and values.
CachePair reference_pair(const std::string& type) {
  return {codec::parse_cache_spec(type, PageSide::key), codec::parse_cache_spec(type, PageSide::value)};
}

/// The plan file of a cache; empty: none.
const std::string& plan_of(const CachePair& pair) { return pair.k.plan.empty() ? pair.v.plan : pair.k.plan; }

/// A side as tables have it: plan:FILE for one that a plan codes whole.
std::string side_text(const GridCache& cache, PageSide side) {
  const codec::CacheSpec& spec = side == PageSide::key ? cache.named.k : cache.named.v;
  const bool planned = cache.text.starts_with("plan:") && spec.coding == codec::CacheSpec::Coding::plan;
  return planned ? cache.text : codec::to_string(spec, side);
}

/// What the two sides together are called where a command takes a cache.
std::string cache_text(const GridCache& cache) {
  return cache.text.starts_with("plan:") ? cache.text : eval::to_string(cache.named);
}

/// In quotes where a shell would take it apart.
std::string quoted(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-./:=,+@%").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// The command that measures a cell alone, in the grid's folder.
std::string command_of(const Grid& grid, const Group& group, const GridCache& cache) {
  const GridRetrieval& retrieval = grid.retrieval;
  std::string options;
  if (group.kind == kRetrieval) {
    options = fmt::format("retrieve -c {} --depths {} --keys {} --values {} --trials {} --seed {}", group.context,
                          fmt::join(retrieval.depths, ","), fmt::join(retrieval.keys, ","), retrieval.values,
                          retrieval.trials, retrieval.seed);
  } else if (group.kind == kAgreement) {
    options = fmt::format("agree -n {}", grid.agreement.tokens);
  } else {
    options = fmt::format("eval -c {}", group.context);
    if (grid.chunks > 0) options += fmt::format(" --chunks {}", grid.chunks);
    if (group.kind == kDecode) options += " --decode";
    if (grid.reference != "f16") options += " --reference " + grid.reference;
  }
  if (grid.precision != "reference") options += " --precision " + grid.precision;
  return fmt::format("kvant {} -m {} -f {} --cache {}", options, quoted(grid.models[group.model].name),
                     quoted(text_of(grid, group).name), quoted(cache_text(cache)));
}

void set_usage(CellRow& row, const cache::CacheUsage& usage) {
  row.k_bpv = usage.k_bpv;
  row.v_bpv = usage.v_bpv;
  row.cache_bytes = usage.bytes();
  row.constant_bytes = usage.constant_bytes;
}

std::string now_text() { return fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr))); }

void add_summary(std::vector<MetricRow>& rows, const std::string& scope, const eval::Summary& s) {
  const std::pair<const char*, double> values[] = {{"tokens", static_cast<double>(s.tokens)},
                                                   {"kld_mean", s.kld_mean},
                                                   {"kld_se", s.kld_se},
                                                   {"kld_median", s.kld_median},
                                                   {"kld_p90", s.kld_p90},
                                                   {"kld_p95", s.kld_p95},
                                                   {"kld_p99", s.kld_p99},
                                                   {"kld_p999", s.kld_p999},
                                                   {"kld_max", s.kld_max},
                                                   {"top1", s.top1},
                                                   {"top1_lo", s.top1_range.low},
                                                   {"top1_hi", s.top1_range.high},
                                                   {"rms_probability", s.rms_probability},
                                                   {"ln_ppl_ratio", s.log_ppl_ratio},
                                                   {"ppl_ratio", s.ppl_ratio},
                                                   {"ppl_ratio_lo", s.ppl_ratio_range.low},
                                                   {"ppl_ratio_hi", s.ppl_ratio_range.high}};
  for (const auto& [name, value] : values) rows.push_back({scope, name, value});
}

/// The ids of a text, or a prompt, that errors call `name`.
std::vector<engine::Token> encode(const tokenizer::Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                  const std::string& name) {
  try {
    return tokenizer.encode_prompt(text, parse_special);
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}: {}", name, e.what()));
  }
}

/// The text of a file, as it was when the sweep began.
std::string checked_text(const NamedFile& file, const std::string& hash) {
  std::string text = read_text(file.path.string());
  const std::string name = file.path.string();
  KVANT_CHECK(content_hash(text) == hash, ErrorCode::invalid_argument, "{}: was changed while the sweep ran", name);
  KVANT_CHECK(is_valid_utf8(text), ErrorCode::invalid_argument, "{}: not valid UTF-8", name);
  return text;
}

}  // namespace

std::vector<MetricRow> compare_metrics(const eval::CacheResult& result, double reference_perplexity) {
  std::vector<MetricRow> rows;
  add_summary(rows, "all", result.all);
  rows.push_back({"all", "perplexity", result.perplexity});
  rows.push_back({"all", "reference_perplexity", reference_perplexity});
  add_summary(rows, "last_quarter", result.last_quarter);
  for (const eval::PositionRange& part : result.positions) {
    const std::string scope = fmt::format("positions:{}-{}", part.begin, part.end);
    rows.push_back({scope, "kld_mean", part.kld_mean});
    rows.push_back({scope, "kld_se", part.kld_se});
  }
  return rows;
}

std::vector<MetricRow> agreement_metrics(const eval::AgreementResult& r) {
  const std::pair<const char*, double> values[] = {{"prompts", static_cast<double>(r.continuations.size())},
                                                   {"agreement_length", r.length.mean},
                                                   {"agreement_length_se", r.length.se},
                                                   {"agreement_length_median", r.length_median},
                                                   {"identical", r.identical},
                                                   {"identical_lo", r.identical_range.low},
                                                   {"identical_hi", r.identical_range.high},
                                                   {"token_agreement", r.same.mean},
                                                   {"token_agreement_se", r.same.se},
                                                   {"script_errors", r.script_errors.mean},
                                                   {"script_errors_se", r.script_errors.se}};
  std::vector<MetricRow> rows;
  for (const auto& [name, value] : values) rows.push_back({"all", name, value});
  return rows;
}

Laboratory::Laboratory(const Grid& grid, const Hashes& hashes, Options options)
    : grid_(grid), hashes_(hashes), options_(std::move(options)) {}
Laboratory::~Laboratory() = default;

void Laboratory::load(const Group& group) {
  if (model_ != group.model) {
    model_.reset();
    tokens_.clear();
    engine_.reset();  // before the next one takes as much memory
    const std::string path = grid_.models[group.model].path.string();
    engine::Engine::Options options;
    options.threads = options_.threads;
    options.isa = options_.isa;
    options.precision = grid_.precision == "fast" ? kernels::Precision::fast : kernels::Precision::reference;
    engine_ = std::make_unique<engine::Engine>(path, options);
    KVANT_CHECK(model_hash(engine_->file()) == hashes_.models[group.model], ErrorCode::invalid_argument,
                "{}: was changed while the sweep ran", path);
    model_ = group.model;
  }
  if (const std::string& hash = text_hash(hashes_, group); text_hash_ != hash) {
    text_hash_.clear();
    tokens_.clear();
    text_ = checked_text(text_of(grid_, group), hash);
    text_hash_ = hash;
  }
  if (tokens_.empty() && group.kind != kRetrieval && group.kind != kAgreement) {
    tokens_ = encode(engine_->tokenizer(), text_, false, text_of(grid_, group).name);
  }
}

Findings Laboratory::measure(const Group& group, std::span<const Cell> cells, const ProgressSink& progress) {
  load(group);
  const NamedFile& text = text_of(grid_, group);
  Findings findings;
  findings.models = {model_row(*engine_, grid_.models[group.model].name, hashes_.models[group.model])};
  findings.corpora = {{text_hash_, text.name, text_.size()}};
  try {
    if (group.kind == kChannels) {
      findings.channels = channels(group, progress);
      return findings;
    }
    findings.plans = plans(cells);
    findings.cells = rows(group, cells, progress);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::cancelled) throw;
    throw Error(e.code(), group.context == 0 ? fmt::format("{}: {}", text.name, e.what())
                                             : fmt::format("{}, context {}: {}", text.name, group.context, e.what()));
  }
  check_files(cells);
  return findings;
}

/// The rows of cells: what a kind measures, and what is the same for all kinds.
std::vector<CellRow> Laboratory::rows(const Group& group, std::span<const Cell> cells, const ProgressSink& progress) {
  const Stopwatch watch;
  std::vector<CellRow> rows = group.kind == kRetrieval   ? retrieve(group, cells, progress)
                              : group.kind == kAgreement ? agree(group, cells, progress)
                                                         : compare(group, cells, progress);
  const double seconds = watch.seconds() / static_cast<double>(cells.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const GridCache& cache = grid_.caches[cells[i].cache];
    const std::string& plan = plan_of(cache.pair);
    CellRow& row = rows[i];
    row.key = cells[i].key;
    row.kind = group.kind;
    row.model = hashes_.models[group.model];
    row.corpus = text_hash_;
    if (!plan.empty()) row.plan = hashes_.files.at(plan);
    row.k = side_text(cache, PageSide::key);
    row.v = side_text(cache, PageSide::value);
    row.precision = grid_.precision;
    row.version = options_.version;
    row.command = command_of(grid_, group, cache);
    row.seconds = seconds;
    row.finished = now_text();
  }
  return rows;
}

std::vector<CachePair> Laboratory::pairs(std::span<const Cell> cells) const {
  std::vector<CachePair> pairs;
  for (const Cell& cell : cells) pairs.push_back(grid_.caches[cell.cache].pair);
  return pairs;
}

std::vector<CellRow> Laboratory::compare(const Group& group, std::span<const Cell> cells,
                                         const ProgressSink& progress) {
  eval::CompareOptions options;
  options.context = group.context;
  options.chunks = grid_.chunks;
  options.reference = reference_pair(grid_.reference);
  options.decode = group.kind == kDecode;
  options.progress = progress;
  options.caches = pairs(cells);
  const eval::CompareResult result = eval::compare(*engine_, tokens_, options);
  std::vector<CellRow> rows;
  for (const eval::CacheResult& found : result.caches) {
    CellRow& row = rows.emplace_back();
    row.context = result.context;
    row.chunks = result.chunks;
    row.reference = grid_.reference;
    row.tokens = result.tokens;
    set_usage(row, found.usage);
    row.metrics = compare_metrics(found, result.perplexity);
  }
  return rows;
}

std::vector<CellRow> Laboratory::retrieve(const Group& group, std::span<const Cell> cells,
                                          const ProgressSink& progress) {
  eval::RetrievalOptions options;
  options.context = group.context;
  options.depths.clear();
  for (const double percent : grid_.retrieval.depths) options.depths.push_back(percent / 100);
  options.keys = grid_.retrieval.keys;
  options.values = grid_.retrieval.values;
  options.trials = grid_.retrieval.trials;
  options.seed = grid_.retrieval.seed;
  options.caches = pairs(cells);
  options.progress = progress;
  const eval::Haystack haystack(engine_->tokenizer(), text_, text_of(grid_, group).name);
  std::vector<CellRow> rows;
  for (const eval::RetrievalResult& found : eval::retrieve(*engine_, haystack, options)) {
    CellRow& row = rows.emplace_back();
    row.context = group.context;
    row.chunks = options.trials;
    row.tokens = found.cells.size() * options.trials * group.context;
    set_usage(row, found.usage);
    for (const eval::RetrievalCell& cell : found.cells) {
      row.retrieval.push_back({cell.keys, cell.depth, cell.trials, cell.found, cell.range.low, cell.range.high});
    }
  }
  return rows;
}

std::vector<CellRow> Laboratory::agree(const Group& group, std::span<const Cell> cells, const ProgressSink& progress) {
  const std::string& name = text_of(grid_, group).name;
  eval::AgreementOptions options;
  options.tokens = grid_.agreement.tokens;
  options.caches = pairs(cells);
  options.progress = progress;
  for (const std::string& prompt : eval::parse_prompts(text_, name)) {
    options.prompts.push_back(encode(engine_->tokenizer(), prompt, true, name));
  }
  const eval::Agreement result = eval::agreement(*engine_, options);
  std::vector<CellRow> rows;
  for (const eval::AgreementResult& found : result.caches) {
    CellRow& row = rows.emplace_back();
    row.context = result.context;
    row.chunks = options.prompts.size();
    row.reference = "f16";
    for (const eval::Continuation& one : found.continuations) row.tokens += one.tokens.size();
    set_usage(row, found.usage);
    row.metrics = agreement_metrics(found);
  }
  return rows;
}

std::vector<ChannelRow> Laboratory::channels(const Group& group, const ProgressSink& progress) {
  calib::CollectOptions options;
  options.corpus = text_of(grid_, group).name;
  options.context = std::min(kChannelContext, tokens_.size());
  options.tokens =
      std::min(kChannelTokens, tokens_.size() / std::max<std::size_t>(1, options.context) * options.context);
  options.progress = progress;
  return channel_rows(calib::collect(*engine_, tokens_, options));
}

std::vector<PlanRow> Laboratory::plans(std::span<const Cell> cells) const {
  std::vector<PlanRow> rows;
  for (const Cell& cell : cells) {
    const GridCache& cache = grid_.caches[cell.cache];
    for (const auto& [path, name] :
         {std::pair(cache.pair.k.plan, cache.named.k.plan), std::pair(cache.pair.v.plan, cache.named.v.plan)}) {
      if (path.empty()) continue;
      const std::string& hash = hashes_.files.at(path);
      const auto same = [&](const PlanRow& row) { return row.hash == hash; };
      if (std::none_of(rows.begin(), rows.end(), same)) rows.push_back(plan_row(path, name, hash));
    }
  }
  return rows;
}

/// Throws when plans or permutations are not what they were when the sweep began.
void Laboratory::check_files(std::span<const Cell> cells) const {
  for (const Cell& cell : cells) {
    const CachePair& pair = grid_.caches[cell.cache].pair;
    for (const codec::CacheSpec* spec : {&pair.k, &pair.v}) {
      for (const std::string* file : {&spec->plan, &spec->permutations}) {
        KVANT_CHECK(file->empty() || file_hash(*file) == hashes_.files.at(*file), ErrorCode::invalid_argument,
                    "{}: was changed while the sweep ran", *file);
      }
    }
  }
}

}  // namespace kvant::sweep
