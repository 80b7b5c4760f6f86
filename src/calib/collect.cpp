#include "calib/collect.h"

#include <array>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "calib/statistics.h"
#include "model/plans.h"

namespace kvant::calib {
namespace {

/// Listens to a transformer as long as it lives.
class Listening {
 public:
  Listening(model::Transformer& transformer, model::Tap& tap) : transformer_(transformer) {
    transformer_.set_tap(&tap);
  }
  ~Listening() { transformer_.set_tap(nullptr); }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

 private:
  model::Transformer& transformer_;
};

}  // namespace

codec::Plan collect(engine::Engine& engine, std::span<const engine::Token> text, const CollectOptions& options) {
  const std::size_t context = options.context;
  KVANT_CHECK(context >= 2, ErrorCode::invalid_argument, "a window of {} tokens is too short, at least 2 are needed",
              context);
  KVANT_CHECK(options.tokens >= context, ErrorCode::invalid_argument,
              "{} tokens are asked for, less than one window of {}", options.tokens, context);
  KVANT_CHECK(text.size() >= options.tokens, ErrorCode::invalid_argument, "the text has {} tokens, {} are needed",
              text.size(), options.tokens);
  const std::size_t windows = options.tokens / context;

  codec::CacheSpec exact;
  exact.type = gguf::TensorType::f32;
  cache::KvCache cache = engine.make_cache(exact, exact, context);
  Statistics statistics(engine.config(), engine.pool());
  const Listening listening(engine.transformer(), statistics);
  std::vector<engine::Token> window;
  for (std::size_t i = 0; i < windows; ++i) {
    const auto source = text.subspan(i * context, context);
    window.assign(source.begin(), source.end());
    if (engine.tokenizer().add_bos()) window.front() = engine.tokenizer().bos();
    cache.truncate(0, 0);
    try {
      engine.transformer().forward(cache, std::array{model::Input{0, window, 0}});
    } catch (const Error& e) {
      throw Error(e.code(), fmt::format("{}: {}", engine.file().path(), e.what()));
    }
    if (options.progress) options.progress((i + 1) * context, windows * context, "");
  }

  codec::Plan plan;
  plan.model = model::plan_identity(engine.config(), engine.weights());
  plan.corpus = {options.corpus, hash_bytes(std::as_bytes(text.first(windows * context))), windows * context, context};
  plan.layers = statistics.result();
  return plan;
}

}  // namespace kvant::calib
