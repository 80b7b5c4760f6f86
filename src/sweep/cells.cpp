#include "sweep/cells.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file_io.h"
#include "eval/prompts.h"
#include "gguf/reader.h"
#include "sweep/content.h"
#include "sweep/database.h"

namespace kvant::sweep {
namespace {

using codec::PageSide;

/// Part of every key; another one when results change for other reasons than those that a key names.
constexpr int kResults = 1;
/// What a token of text takes, about; only for estimates of how long work takes.
constexpr std::size_t kTokenBytes = 4;

/// A spec with its files' hashes in place of their paths.
std::string spec_key(codec::CacheSpec spec, PageSide side, const Hashes& hashes) {
  for (std::string* file : {&spec.plan, &spec.permutations}) {
    if (!file->empty()) *file = hashes.files.at(*file);
  }
  return codec::to_string(spec, side);
}

/// Tokens of a file, about.
std::size_t expected_tokens(const NamedFile& file) { return std::filesystem::file_size(file.path) / kTokenBytes; }

/// What a kind measures, as a key has it, and about how many tokens that takes for each cache.
struct Work {
  std::string key;
  std::size_t tokens = 0;
};

Work compare_work(const Grid& grid, const Group& group) {
  const std::size_t windows = expected_tokens(grid.texts[group.text]) / group.context;
  const std::string chunks = grid.chunks == 0 ? "all" : std::to_string(grid.chunks);
  return {fmt::format("context={} chunks={} reference={}", group.context, chunks, grid.reference),
          group.context * std::max<std::size_t>(1, grid.chunks == 0 ? windows : grid.chunks)};
}

Work retrieval_work(const Grid& grid, const Group& group) {
  const GridRetrieval& r = grid.retrieval;
  return {fmt::format("context={} depths={} keys={} values={} trials={} seed={}", group.context,
                      fmt::join(r.depths, ","), fmt::join(r.keys, ","), r.values, r.trials, r.seed),
          r.depths.size() * r.keys.size() * r.trials * group.context};
}

Work agreement_work(const Grid& grid, const Group& group) {
  const NamedFile& file = grid.agreement.prompts[group.text];
  const std::size_t prompts = eval::parse_prompts(read_text(file.path.string()), file.name).size();
  return {fmt::format("tokens={}", grid.agreement.tokens), expected_tokens(file) + prompts * grid.agreement.tokens};
}

/// The group with a cell for each cache.
Group with_cells(const Grid& grid, const Hashes& hashes, Group group, const Work& work, std::string_view isa) {
  group.cell_tokens = work.tokens;
  for (std::size_t i = 0; i < grid.caches.size(); ++i) {
    const eval::CachePair& pair = grid.caches[i].pair;
    group.cells.push_back({fmt::format("results={} kind={} model={} text={} {} k={} v={} precision={} isa={}", kResults,
                                       group.kind, hashes.models[group.model], text_hash(hashes, group), work.key,
                                       spec_key(pair.k, PageSide::key, hashes),
                                       spec_key(pair.v, PageSide::value, hashes), grid.precision, isa),
                           i});
  }
  return group;
}

}  // namespace

Hashes read_hashes(const Grid& grid) {
  Hashes hashes;
  for (const NamedFile& model : grid.models) hashes.models.push_back(model_hash(gguf::File::open(model.path)));
  for (const NamedFile& text : grid.texts) hashes.texts.push_back(file_hash(text.path));
  for (const NamedFile& prompts : grid.agreement.prompts) hashes.prompts.push_back(file_hash(prompts.path));
  for (const GridCache& cache : grid.caches) {
    for (const codec::CacheSpec* spec : {&cache.pair.k, &cache.pair.v}) {
      for (const std::string* file : {&spec->plan, &spec->permutations}) {
        if (!file->empty() && !hashes.files.contains(*file)) hashes.files[*file] = file_hash(*file);
      }
    }
  }
  return hashes;
}

const NamedFile& text_of(const Grid& grid, const Group& group) {
  return (group.kind == kAgreement ? grid.agreement.prompts : grid.texts)[group.text];
}

const std::string& text_hash(const Hashes& hashes, const Group& group) {
  return (group.kind == kAgreement ? hashes.prompts : hashes.texts)[group.text];
}

std::vector<Group> expand(const Grid& grid, const Hashes& hashes, std::string_view isa) {
  std::vector<Group> groups;
  const auto add = [&](const Group& group, const Work& work) {
    groups.push_back(with_cells(grid, hashes, group, work, isa));
  };
  const auto has = [&](const char* kind) {
    return std::find(grid.kinds.begin(), grid.kinds.end(), kind) != grid.kinds.end();
  };
  for (std::size_t model = 0; model < grid.models.size(); ++model) {
    for (std::size_t text = 0; text < grid.texts.size(); ++text) {
      for (const std::size_t context : grid.contexts) {
        for (const std::string& kind : grid.kinds) {
          const Group group{kind, model, text, context, {}, 0};
          if (kind == kRetrieval) add(group, retrieval_work(grid, group));
          if (kind == kCompare || kind == kDecode) add(group, compare_work(grid, group));
        }
      }
      if (!grid.channels) continue;
      groups.push_back({kChannels, model, text, 0, {}, kChannelTokens});
      groups.back().cells.push_back({channels_unit(hashes.models[model], hashes.texts[text]), 0});
    }
    if (!has(kAgreement)) continue;
    for (std::size_t prompts = 0; prompts < grid.agreement.prompts.size(); ++prompts) {
      const Group group{kAgreement, model, prompts, 0, {}, 0};
      add(group, agreement_work(grid, group));
    }
  }
  return groups;
}

}  // namespace kvant::sweep
