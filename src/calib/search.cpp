#include "calib/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/hash.h"
#include "calib/allocation.h"
#include "eval/compare.h"

namespace kvant::calib {
namespace {

using codec::Plan;
using engine::Token;

constexpr double kPageTokens = static_cast<double>(codec::kPageTokens);
constexpr double kF16Bits = 16;
constexpr std::size_t kMostPositions = 32768;
constexpr std::size_t kTogether = 16;  ///< caches that one comparison measures: they share the reference's passes
constexpr std::array kTrust = {1.0, 0.5, 0.0};  ///< in measured sensitivities
constexpr std::array<std::size_t, 5> kWindows = {4, 8, 16, 32, 64};
constexpr double kWindowShare = 0.4;  ///< of a budget, at most
constexpr int kBisections = 6;
constexpr double kClose = 0.9;  ///< a divergence above this share of max_kld ends the bisection

/// The two sides of a cache by index: 0 keys, 1 values.
using Chosen = std::array<std::vector<std::size_t>, 2>;

eval::CachePair planned_cache(std::shared_ptr<const Plan> plan, bool keys, bool values) {
  eval::CachePair pair;
  const auto spec = [&](bool planned) {
    codec::CacheSpec s;
    if (!planned) return s;
    s.coding = codec::CacheSpec::Coding::plan;
    s.anchor = codec::Anchor::mean;
    s.recent = plan->recent;
    return s;
  };
  pair.k = spec(keys);
  pair.v = spec(values);
  pair.plan = std::move(plan);
  return pair;
}

class Search {
 public:
  Search(engine::Engine& engine, Plan& plan, const SearchOptions& options)
      : engine_(engine), plan_(plan), options_(options), goal_(options.goal) {
    const model::ModelConfig& config = engine.config();
    std::size_t positions = options.positions > 0 ? options.positions : goal_.context;
    if (positions == 0) positions = plan.positions;  // where the statistics come from a plan
    if (positions == 0) positions = std::min(config.context, kMostPositions);
    plan.positions = positions;
    sides_[0] = key_curves(plan, config, positions, options.without, engine.pool());
    if (goal_.codes_values()) sides_[1] = value_curves(plan, config, engine.weights(), options.without, engine.pool());
  }

  void run() {
    plan_.codes.clear();
    plan_.predicted_kld = 0;
    plan_.certificates.clear();
    const double budget = goal_.max_kld ? bytes_of(kFirstBits) : budget_bytes();
    const bool refine = !options_.refine_text.empty();
    std::size_t recent = std::exchange(plan_.recent, 0);
    if (refine || options_.without.window) recent = 0;
    first_ = allocation(budget, 0);
    if (!options_.measure_text.empty() && !options_.without.sensitivity) measure();
    if (options_.without.sensitivity || !measured()) plan_.trust = 0;
    plan_.recent = fitting_window(recent, budget);
    Chosen chosen;
    if (refine) {
      choose_trust(budget);
      if (!options_.without.window) choose_window(budget);
    }
    if (goal_.max_kld) {
      chosen = smallest_within(plan_.trust, budget);
    } else {
      chosen = allocation(budget, plan_.trust);
      if (!refine && measured()) plan_.predicted_kld = predicted(chosen);
    }
    set_codes(plan_, chosen);
    plan_.goal = goal_.text();
  }

 private:
  static constexpr double kFirstBits = 3.5;

  std::size_t sides() const { return goal_.codes_values() ? 2 : 1; }
  std::size_t heads() const { return sides_[0].heads.size(); }
  double& sensitivity(std::size_t side, std::size_t layer) const {
    codec::LayerStatistics& s = plan_.layers[layer];
    return side == 0 ? s.k_sensitivity : s.v_sensitivity;
  }
  bool measured() const {
    for (std::size_t side = 0; side < sides(); ++side) {
      for (std::size_t layer = 0; layer < plan_.layers.size(); ++layer) {
        if (!(sensitivity(side, layer) > 0)) return false;
      }
    }
    return true;
  }

  /// Bytes of 64 tokens on one side with so many bits a value.
  double side_bytes(double bits) const {
    return bits / 8 * kPageTokens * static_cast<double>(plan_.model.head_dim) * static_cast<double>(heads());
  }
  double bytes_of(double bits) const { return static_cast<double>(sides()) * side_bytes(bits); }
  /// Of both sides together, unless the sides have budgets of their own: then of keys only.
  double budget_bytes() const {
    if (goal_.bits) return goal_.v_bits ? side_bytes(*goal_.bits) : bytes_of(*goal_.bits);
    const double constants = static_cast<double>(sides() * heads() * 2 * sizeof(Bf16) * plan_.model.head_dim *
                                                 codec::coded_dims(plan_.model.head_dim));
    const std::size_t pages = (goal_.context + codec::kPageTokens - 1) / codec::kPageTokens;
    return (*goal_.memory - constants) / static_cast<double>(pages);
  }
  /// Of 64 of `positions` tokens on one side.
  double window_bytes(std::size_t recent) const {
    return side_bytes(kF16Bits) * std::min(1.0, static_cast<double>(recent) / static_cast<double>(plan_.positions));
  }
  /// Whether a window leaves enough of the budget for codes.
  bool window_fits(std::size_t recent, double budget) const {
    const auto fits = [&](std::size_t begin, std::size_t end, double bytes) {
      double least = 0;
      for (std::size_t side = begin; side < end; ++side) {
        for (const auto& head : sides_[side].heads) least += static_cast<double>(head.options.front().bytes);
      }
      const double window = static_cast<double>(end - begin) * window_bytes(recent);
      return window <= kWindowShare * bytes && least + window <= bytes;
    };
    if (separate()) return fits(0, 1, budget) && fits(1, 2, side_bytes(*goal_.v_bits));
    return fits(0, sides(), budget);
  }
  std::size_t fitting_window(std::size_t recent, double budget) const {
    while (recent > 0 && !window_fits(recent, budget)) recent /= 2;
    return recent;
  }
  bool separate() const { return goal_.v_bits.has_value() && goal_.codes_values(); }

  /// Unit cost of a layer with these options.
  double layer_cost(std::size_t side, std::size_t layer, const Chosen& chosen) const {
    double cost = 0;
    for (std::size_t h = layer * plan_.model.kv_heads; h < (layer + 1) * plan_.model.kv_heads; ++h) {
      cost += sides_[side].heads[h].options[chosen[side][h]].cost;
    }
    return cost;
  }

  /// The worth of a unit of cost. Where nothing is chosen yet, every layer loses the same at kFirstBits.
  double weight(std::size_t side, std::size_t layer, double trust) const {
    double cost = 0;
    if (first_[side].empty()) {
      for (std::size_t h = layer * plan_.model.kv_heads; h < (layer + 1) * plan_.model.kv_heads; ++h) {
        cost += uniform_cost(table_, sides_[side].heads[h].transform.energies, 3);
      }
    } else {
      cost = layer_cost(side, layer, first_);
    }
    const double flat = cost > 0 ? 1 / cost : 0;
    return trust > 0 ? std::pow(sensitivity(side, layer), trust) * std::pow(flat, 1 - trust) : flat;
  }

  Chosen allocation(double bytes, double trust) const {
    if (separate())
      return {side_allocation(0, 1, bytes, trust)[0], side_allocation(1, 2, side_bytes(*goal_.v_bits), trust)[1]};
    return side_allocation(0, sides(), bytes, trust);
  }

  Chosen side_allocation(std::size_t begin, std::size_t end, double bytes, double trust) const {
    std::vector<Choice> choices;
    for (std::size_t side = begin; side < end; ++side) {
      for (std::size_t h = 0; h < heads(); ++h) {
        choices.push_back({sides_[side].heads[h].options, weight(side, h / plan_.model.kv_heads, trust)});
      }
    }
    const double window = static_cast<double>(end - begin) * window_bytes(plan_.recent);
    const std::vector<std::size_t> all = allocate(choices, bytes - window);
    const double least = total_bytes(choices, all) + window;
    KVANT_CHECK(least <= bytes, ErrorCode::invalid_argument,
                "{}: {:.3f} bits a value, but the smallest codes take {:.3f}", goal_.text(),
                bytes / side_bytes(1) / static_cast<double>(end - begin),
                least / side_bytes(1) / static_cast<double>(end - begin));
    Chosen chosen;
    for (std::size_t i = 0; i < all.size(); ++i) chosen[begin + i / heads()].push_back(all[i]);
    return chosen;
  }

  void set_codes(Plan& plan, const Chosen& chosen) const {
    plan.codes.assign(plan_.layers.size(), {});
    for (std::size_t layer = 0; layer < plan.codes.size(); ++layer) {
      plan.codes[layer].keys = layer_codes(sides_[0], layer, chosen[0]);
      if (sides() == 2) plan.codes[layer].values = layer_codes(sides_[1], layer, chosen[1]);
    }
  }

  /// In f16, as planned caches store what has no codes.
  static eval::CachePair uncoded(std::shared_ptr<const Plan> plan) {
    eval::CachePair pair = planned_cache(std::move(plan), false, false);
    pair.k.anchor = pair.v.anchor = codec::Anchor::mean;
    return pair;
  }
  /// With only one layer's keys, or values, coded.
  eval::CachePair single(std::size_t side, std::size_t layer) const {
    auto plan = std::make_shared<Plan>(plan_);
    plan->recent = 0;
    plan->codes.assign(plan_.layers.size(), {});
    (side == 0 ? plan->codes[layer].keys : plan->codes[layer].values) = layer_codes(sides_[side], layer, first_[side]);
    eval::CachePair pair = uncoded(plan);
    (side == 0 ? pair.k : pair.v).coding = codec::CacheSpec::Coding::plan;
    return pair;
  }

  std::vector<eval::CacheResult> compare(std::span<const Token> text, std::vector<eval::CachePair> caches,
                                         std::size_t done, std::size_t total, std::string_view what,
                                         eval::CompareOptions settings = {}) {
    settings.context = std::min(plan_.corpus.context, text.size());
    settings.caches = std::move(caches);
    const std::size_t count = settings.caches.size();
    if (options_.progress) {
      settings.progress = [&, count](std::size_t fed, std::size_t all, std::string_view) {
        options_.progress(std::min(done * text.size() + fed * count * text.size() / all, total * text.size()),
                          total * text.size(), what);
      };
    }
    return eval::compare(engine_, text, settings).caches;
  }

  /// The caches' mean divergences on measure_text beyond what any other rounding of the cache would cause: quantized
  /// activations jump with the smallest change.
  std::vector<double> divergences(std::vector<eval::CachePair> caches, std::vector<int> differs_from, std::size_t done,
                                  std::size_t total) {
    eval::CachePair exact;
    exact.k.type = exact.v.type = gguf::TensorType::f32;
    caches.push_back(exact);
    differs_from.push_back(0);
    eval::CompareOptions settings;
    settings.reference = uncoded(std::make_shared<Plan>(plan_));
    settings.differs_from = std::move(differs_from);
    const auto results =
        compare(options_.measure_text, std::move(caches), done, total, "sensitivities", std::move(settings));
    const double floor = results.back().all.kld_mean;
    std::vector<double> beyond;
    for (const eval::CacheResult& result : std::span(results).first(results.size() - 1)) {
      beyond.push_back(std::max({result.all.kld_mean - floor, kLeastShare * floor, kLeastDivergence}));
    }
    return beyond;
  }

  void measure() {
    std::vector<std::pair<std::size_t, std::size_t>> open;
    for (std::size_t side = 0; side < sides(); ++side) {
      for (std::size_t layer = 0; layer < plan_.layers.size(); ++layer) {
        if (!(sensitivity(side, layer) > 0)) open.emplace_back(side, layer);
      }
    }
    for (std::size_t at = 0; at < open.size(); at += kTogether) {
      const auto some = std::span(open).subspan(at, std::min(kTogether, open.size() - at));
      std::vector<eval::CachePair> caches;
      caches.reserve(some.size());
      std::vector<int> differs_from;
      for (const auto& [side, layer] : some) {
        caches.push_back(single(side, layer));
        differs_from.push_back(static_cast<int>(layer));
      }
      const std::vector<double> measured = divergences(std::move(caches), std::move(differs_from), at, open.size());
      for (std::size_t i = 0; i < some.size(); ++i) {
        const auto [side, layer] = some[i];
        const double cost = layer_cost(side, layer, first_);
        sensitivity(side, layer) = cost > 0 ? measured[i] / cost : 1;
      }
      if (options_.checkpoint) options_.checkpoint(plan_);
    }
  }
  static constexpr double kLeastDivergence = 1e-9, kLeastShare = 0.02;

  double predicted(const Chosen& chosen) const {
    double sum = 0;
    for (std::size_t side = 0; side < sides(); ++side) {
      for (std::size_t layer = 0; layer < plan_.layers.size(); ++layer) {
        sum += sensitivity(side, layer) * layer_cost(side, layer, chosen);
      }
    }
    return sum;
  }

  eval::CachePair candidate(const Chosen& chosen) const {
    auto plan = std::make_shared<Plan>(plan_);
    set_codes(*plan, chosen);
    return planned_cache(std::move(plan), true, sides() == 2);
  }

  /// The candidate that diverges least, and how far.
  std::pair<std::size_t, double> best_of(std::vector<eval::CachePair> caches) {
    const std::size_t count = caches.size();
    const auto results = compare(options_.refine_text, std::move(caches), 0, count, "candidates");
    std::size_t best = 0;
    for (std::size_t i = 1; i < results.size(); ++i) {
      if (results[i].all.kld_mean < results[best].all.kld_mean) best = i;
    }
    return {best, results[best].all.kld_mean};
  }

  void choose_trust(double budget) {
    std::vector<eval::CachePair> caches;
    const bool one = options_.without.sensitivity || !measured();
    for (const double trust : kTrust) {
      if (!one || trust == 0) caches.push_back(candidate(allocation(budget, trust)));
    }
    const auto [best, kld] = best_of(std::move(caches));
    plan_.trust = one ? 0 : kTrust[best];
    plan_.predicted_kld = kld;
  }

  /// What the codes lose to a window of tokens, these must be worth.
  void choose_window(double budget) {
    std::vector<eval::CachePair> caches;
    for (const std::size_t recent : kWindows) {
      plan_.recent = recent;
      if (window_fits(recent, budget)) caches.push_back(candidate(allocation(budget, plan_.trust)));
    }
    plan_.recent = 0;
    if (caches.empty()) return;
    const auto [best, kld] = best_of(std::move(caches));
    if (kld >= plan_.predicted_kld) return;
    plan_.recent = kWindows[best];
    plan_.predicted_kld = kld;
  }

  /// The smallest allocation found whose divergence stays below max_kld.
  Chosen smallest_within(double trust, double bytes) {
    const double most = *goal_.max_kld;
    const std::size_t recent = plan_.recent;
    Chosen best;
    std::size_t best_recent = 0;
    double best_bytes = 0, low = 0, high = 0;  // bytes that are too few, and enough
    for (int i = 0; i < kBisections; ++i) {
      plan_.recent = fitting_window(recent, bytes);
      const Chosen chosen = allocation(bytes, trust);
      const eval::Summary summary =
          compare(options_.refine_text, {candidate(chosen)}, static_cast<std::size_t>(i), kBisections, "candidates")
              .front()
              .all;
      const double kld = summary.kld_mean + 2 * summary.kld_se;
      if (kld <= most) {
        if (best[0].empty() || bytes < best_bytes) {
          best = chosen;
          best_bytes = high = bytes;
          best_recent = plan_.recent;
          plan_.predicted_kld = summary.kld_mean;
        }
        if (kld > kClose * most) break;
      } else {
        low = bytes;
      }
      // A bit halves the error's amplitude.
      const double wanted = bytes + bytes_of(0.5 * std::log2(std::max(kld, kLeastDivergence) / (0.95 * most)));
      bytes = high > 0 && low > 0 && (wanted <= low || wanted >= high) ? (low + high) / 2 : wanted;
      bytes = std::clamp(bytes, bytes_of(kFewestBits), bytes_of(kMostBits));
    }
    KVANT_CHECK(!best[0].empty(), ErrorCode::invalid_argument, "{}: not reached with {:.2f} bits a value", goal_.text(),
                low / bytes_of(1));
    plan_.recent = best_recent;
    return best;
  }
  static constexpr double kFewestBits = 0.75, kMostBits = 8.25;

  engine::Engine& engine_;
  Plan& plan_;
  const SearchOptions& options_;
  const Goal& goal_;
  DistortionTable table_{plan_.model.head_dim};
  std::array<SideCurves, 2> sides_;
  Chosen first_;
};

}  // namespace

std::string Goal::text() const {
  if (max_kld) return fmt::format("--max-kld {}", *max_kld);
  if (memory) return fmt::format("--memory {}@{}", *memory, context);
  return fmt::format("--bits {}", bits.value_or(0)) + (v_bits ? fmt::format(" --bits-v {}", *v_bits) : "");
}

void check_goal(const Goal& goal) {
  KVANT_CHECK(!goal.v_bits || goal.bits, ErrorCode::invalid_argument, "--bits-v goes with --bits only");
  const int goals = static_cast<int>(goal.bits.has_value()) + static_cast<int>(goal.memory.has_value()) +
                    static_cast<int>(goal.max_kld.has_value());
  KVANT_CHECK(goals == 1, ErrorCode::invalid_argument, "{} of --bits, --memory and --max-kld are given, expected one",
              goals);
  const auto in_range = [](std::optional<double> x, double low, double high, std::string_view name) {
    KVANT_CHECK(!x || (*x >= low && *x <= high), ErrorCode::invalid_argument, "{} {}: expected {} to {}", name, *x, low,
                high);
  };
  in_range(goal.bits, 0.5, 8.5, "--bits");
  in_range(goal.v_bits, 0.5, kF16Bits, "--bits-v");
  in_range(goal.max_kld, 1e-6, 10, "--max-kld");
  KVANT_CHECK(!goal.memory || goal.context > 0, ErrorCode::invalid_argument, "--memory: expected SIZE@CONTEXT");
}

void search(engine::Engine& engine, Plan& plan, const SearchOptions& options) {
  check_goal(options.goal);
  KVANT_CHECK(!options.goal.max_kld || !options.refine_text.empty(), ErrorCode::invalid_argument,
              "--max-kld needs text to compare on");
  Search(engine, plan, options).run();
}

void certify(engine::Engine& engine, Plan& plan, std::span<const Token> text, std::size_t context,
             const std::string& corpus, const ProgressSink& progress) {
  const bool values = !plan.codes.empty() && !plan.codes.front().values.empty();
  eval::CompareOptions settings;
  settings.context = context;
  settings.caches = {planned_cache(std::make_shared<Plan>(plan), true, values)};
  settings.progress = progress;
  const eval::CompareResult result = eval::compare(engine, text, settings);
  const eval::Summary& all = result.caches.front().all;
  codec::Certificate c;
  c.corpus = corpus;
  c.hash = hash_bytes(std::as_bytes(text.first(result.chunks * context)));
  c.context = context;
  c.tokens = result.tokens;
  c.kld_mean = all.kld_mean;
  c.kld_error = all.kld_se;
  c.kld_p99 = all.kld_p99;
  c.top1 = all.top1;
  c.ppl_ratio = all.ppl_ratio;
  c.ppl_ratio_lo = all.ppl_ratio_range.low;
  c.ppl_ratio_hi = all.ppl_ratio_range.high;
  plan.certificates.push_back(std::move(c));
}

}  // namespace kvant::calib
