#include "sweep/recorder.h"

#include "base/error.h"
#include "sweep/content.h"
#include "sweep/rows.h"

namespace kvant::sweep {

Recorder::Recorder(const std::string& database, Grid grid, const engine::Engine& engine, std::string_view text,
                   std::string_view version)
    : database_(database), grid_(std::move(grid)), hashes_(read_hashes(grid_)), version_(version) {
  const NamedFile &model = grid_.models.front(), &corpus = grid_.texts.front();
  KVANT_CHECK(hashes_.models.front() == model_hash(engine.file()), ErrorCode::invalid_argument,
              "{}: was changed after it was read", model.name);
  KVANT_CHECK(hashes_.texts.front() == content_hash(text), ErrorCode::invalid_argument,
              "{}: was changed after it was read", corpus.name);
  groups_ = expand(grid_, hashes_, name(active_isa()));
  model_ = model_row(engine, model.name, hashes_.models.front());
  corpus_ = {hashes_.texts.front(), corpus.name, text.size()};
}

void Recorder::add(std::size_t context, const eval::CompareResult& result, double seconds) {
  const Group& group = groups_.at(context);
  const Measured measured{grid_, hashes_, group, group.cells};
  Findings findings{
      .models = {model_}, .corpora = {corpus_}, .plans = plan_rows(measured), .cells = {}, .channels = {}};
  findings.cells = compare_rows(result, grid_.reference);
  complete(findings.cells, measured, seconds, version_);
  check_files(measured);
  std::vector<std::string> keys;
  keys.reserve(group.cells.size());
  for (const Cell& cell : group.cells) keys.push_back(cell.key);
  database_.add(findings, keys);
}

}  // namespace kvant::sweep
