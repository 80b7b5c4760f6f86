#include "sweep/rows.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "sweep/content.h"

namespace kvant::sweep {
namespace {

using codec::PageSide;

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

std::vector<CellRow> compare_rows(const eval::CompareResult& result, const std::string& reference) {
  std::vector<CellRow> rows;
  for (const eval::CacheResult& found : result.caches) {
    CellRow& row = rows.emplace_back();
    row.context = result.context;
    row.chunks = result.chunks;
    row.reference = reference;
    row.tokens = result.tokens;
    set_usage(row, found.usage);
    row.metrics = compare_metrics(found, result.perplexity);
  }
  return rows;
}

std::vector<CellRow> retrieval_rows(std::span<const eval::RetrievalResult> results,
                                    const eval::RetrievalOptions& options) {
  std::vector<CellRow> rows;
  for (const eval::RetrievalResult& found : results) {
    CellRow& row = rows.emplace_back();
    row.context = options.context;
    row.chunks = options.trials;
    row.tokens = found.cells.size() * options.trials * options.context;
    set_usage(row, found.usage);
    for (const eval::RetrievalCell& cell : found.cells) {
      row.retrieval.push_back({cell.keys, cell.depth, cell.trials, cell.found, cell.range.low, cell.range.high});
    }
  }
  return rows;
}

std::vector<CellRow> agreement_rows(const eval::Agreement& result) {
  std::vector<CellRow> rows;
  for (const eval::AgreementResult& found : result.caches) {
    CellRow& row = rows.emplace_back();
    row.context = result.context;
    row.chunks = result.reference.size();
    row.reference = "f16";
    for (const eval::Continuation& one : found.continuations) row.tokens += one.tokens.size();
    set_usage(row, found.usage);
    row.metrics = agreement_metrics(found);
  }
  return rows;
}

void complete(std::vector<CellRow>& rows, const Measured& measured, double seconds, std::string_view version) {
  const auto& [grid, hashes, group, cells] = measured;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const GridCache& cache = grid.caches[cells[i].cache];
    const std::string& plan = eval::plan_file(cache.pair);
    CellRow& row = rows[i];
    row.key = cells[i].key;
    row.kind = group.kind;
    row.model = hashes.models[group.model];
    row.corpus = text_hash(hashes, group);
    if (!plan.empty()) row.plan = hashes.files.at(plan);
    row.k = side_text(cache, PageSide::key);
    row.v = side_text(cache, PageSide::value);
    row.precision = grid.precision;
    row.version = version;
    row.command = command_of(grid, group, cache);
    row.seconds = seconds / static_cast<double>(cells.size());
    row.finished = now_text();
  }
}

std::vector<PlanRow> plan_rows(const Measured& measured) {
  std::vector<PlanRow> rows;
  for (const Cell& cell : measured.cells) {
    const GridCache& cache = measured.grid.caches[cell.cache];
    for (const auto& [path, name] :
         {std::pair(cache.pair.k.plan, cache.named.k.plan), std::pair(cache.pair.v.plan, cache.named.v.plan)}) {
      if (path.empty()) continue;
      const std::string& hash = measured.hashes.files.at(path);
      const auto same = [&](const PlanRow& row) { return row.hash == hash; };
      if (std::none_of(rows.begin(), rows.end(), same)) rows.push_back(plan_row(path, name, hash));
    }
  }
  return rows;
}

void check_files(const Measured& measured) {
  for (const Cell& cell : measured.cells) {
    const eval::CachePair& pair = measured.grid.caches[cell.cache].pair;
    for (const codec::CacheSpec* spec : {&pair.k, &pair.v}) {
      for (const std::string* file : {&spec->plan, &spec->permutations}) {
        KVANT_CHECK(file->empty() || file_hash(*file) == measured.hashes.files.at(*file), ErrorCode::invalid_argument,
                    "{}: was changed while the sweep ran", *file);
      }
    }
  }
}

}  // namespace kvant::sweep
