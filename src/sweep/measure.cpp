#include "sweep/measure.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/utf8.h"
#include "calib/collect.h"
#include "eval/prompts.h"
#include "sweep/content.h"
#include "sweep/rows.h"

namespace kvant::sweep {
namespace {

using codec::PageSide;
using eval::CachePair;

/// f16 or f32 for keys and values.
CachePair reference_pair(const std::string& type) {
  return {codec::parse_cache_spec(type, PageSide::key), codec::parse_cache_spec(type, PageSide::value)};
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
  const Measured measured{grid_, hashes_, group, cells};
  try {
    if (group.kind == kChannels) {
      findings.channels = channels(group, progress);
      return findings;
    }
    findings.plans = plan_rows(measured);
    const Stopwatch watch;
    findings.cells = rows(group, cells, progress);
    complete(findings.cells, measured, watch.seconds(), options_.version);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::cancelled) throw;
    throw Error(e.code(), group.context == 0 ? fmt::format("{}: {}", text.name, e.what())
                                             : fmt::format("{}, context {}: {}", text.name, group.context, e.what()));
  }
  check_files(measured);
  return findings;
}

std::vector<CellRow> Laboratory::rows(const Group& group, std::span<const Cell> cells, const ProgressSink& progress) {
  if (group.kind == kRetrieval) return retrieve(group, cells, progress);
  if (group.kind == kAgreement) return agree(group, cells, progress);
  return compare(group, cells, progress);
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
  return compare_rows(eval::compare(*engine_, tokens_, options), grid_.reference);
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
  return retrieval_rows(eval::retrieve(*engine_, haystack, options), options);
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
  return agreement_rows(eval::agreement(*engine_, options));
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

}  // namespace kvant::sweep
