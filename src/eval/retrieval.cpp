#include "eval/retrieval.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "eval/greedy.h"

namespace kvant::eval {
namespace {

using engine::Token;

constexpr std::size_t kDigits = 4, kNumbers = 10000;  ///< of a value, and how many there are

constexpr std::array kPlaces = {"archive", "bridge", "garden",  "gate",    "harbour", "library",
                                "locker",  "museum", "station", "theatre", "tower",   "vault"};
constexpr std::array kTowns = {"Bergen", "Cairo",  "Dublin", "Hanoi",   "Havana", "Kyoto", "Leeds",
                               "Lima",   "Lisbon", "Malaga", "Nairobi", "Osaka",  "Oslo",  "Perth",
                               "Prague", "Quito",  "Riga",   "Tallinn", "Turin",  "Zurich"};
static_assert(kPlaces.size() * kTowns.size() == RetrievalOptions::kMostKeys);
static_assert(RetrievalOptions::kMostKeys * RetrievalOptions::kMostValues < kNumbers);

/// `count` of the numbers below `n`, all different, in a random order.
std::vector<std::size_t> draw(std::size_t n, std::size_t count, Random& random) {
  std::vector<std::size_t> numbers(n);
  for (std::size_t i = 0; i < n; ++i) numbers[i] = i;
  for (std::size_t i = 0; i < count; ++i) std::swap(numbers[i], numbers[i + random.below(n - i)]);
  numbers.resize(count);
  return numbers;
}

std::string key_name(std::size_t key) {
  return fmt::format("{} in {}", kPlaces[key % kPlaces.size()], kTowns[key / kPlaces.size()]);
}

/// "8040" as "8 0 4 0"
std::string spelled(std::string_view value) { return fmt::format("{}", fmt::join(value, " ")); }

std::string fill(std::string text, std::string_view placeholder, std::string_view value) {
  for (std::size_t at = text.find(placeholder); at != text.npos; at = text.find(placeholder, at + value.size())) {
    text.replace(at, placeholder.size(), value);
  }
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::vector<std::string> numbers_of(std::string_view text) {
  std::vector<std::string> numbers;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!is_digit(text[at])) continue;
    const bool goes_on =
        at > 0 && (is_digit(text[at - 1]) || (text[at - 1] == ' ' && at > 1 && is_digit(text[at - 2])));
    if (!goes_on) numbers.emplace_back();
    numbers.back() += text[at];
  }
  return numbers;
}

/// Whether so many numbers of an answer have come to their end.
bool has_numbers(std::string_view answer, std::size_t count) {
  while (!answer.empty() && (is_digit(answer.back()) || answer.back() == ' ')) answer.remove_suffix(1);
  return numbers_of(answer).size() >= count;
}

std::size_t answer_room(const RetrievalOptions& options) { return options.values * RetrievalOptions::kAnswerTokens; }

/// Runs the trials of all cells, one after the other.
class Trials {
 public:
  Trials(engine::Engine& engine, const Haystack& haystack, const RetrievalOptions& options)
      : engine_(engine), haystack_(haystack), options_(options) {}

  std::size_t cells() const { return options_.keys.size() * options_.depths.size(); }
  std::size_t count() const { return cells() * options_.trials; }
  std::size_t keys(std::size_t cell) const { return options_.keys[cell / options_.depths.size()]; }
  double depth(std::size_t cell) const { return options_.depths[cell % options_.depths.size()]; }

  /// Which of them a cache answers.
  std::vector<bool> run(cache::KvCache& cache) {
    const auto together = static_cast<std::size_t>(cache.config().sequences);
    std::vector<bool> found;
    while (found.size() < count()) {
      std::vector<std::vector<Token>> prompts;
      std::vector<std::vector<std::string>> values;
      for (std::size_t i = found.size(); i < std::min(found.size() + together, count()); ++i) {
        RetrievalTrial trial =
            make_trial(haystack_, options_, keys(i / options_.trials), depth(i / options_.trials), i % options_.trials);
        prompts.push_back(std::move(trial.prompt));
        values.push_back(std::move(trial.values));
      }
      const auto answers = continue_greedily(engine_, cache, prompts, greedy());
      for (std::size_t i = 0; i < answers.size(); ++i) {
        found.push_back(is_found(engine_.tokenizer().decode(answers[i]), values[i]));
      }
      done_ += answers.size();
      fed_ = 0;
      found_ += static_cast<std::size_t>(
          std::count(found.end() - static_cast<std::ptrdiff_t>(answers.size()), found.end(), true));
    }
    return found;
  }

 private:
  GreedyOptions greedy() {
    GreedyOptions greedy{.tokens = answer_room(options_)};
    greedy.enough = [this](std::span<const Token> tokens) {
      return has_numbers(engine_.tokenizer().decode(tokens), options_.values);
    };
    greedy.on_fed = [this](std::size_t tokens) {
      fed_ += tokens;
      if (!options_.progress) return;
      options_.progress(done_ * options_.context + fed_, options_.caches.size() * count() * options_.context,
                        done_ > 0 ? fmt::format("{} of {} found", found_, done_) : std::string());
    };
    return greedy;
  }

  engine::Engine& engine_;
  const Haystack& haystack_;
  const RetrievalOptions& options_;
  std::size_t done_ = 0, found_ = 0;  ///< trials, of all caches
  std::size_t fed_ = 0;               ///< tokens of those that run
};

}  // namespace

std::string_view question_of(const RetrievalOptions& options) {
  if (!options.question.empty()) return options.question;
  return options.values == 1 ? RetrievalOptions::kQuestion : RetrievalOptions::kQuestions;
}

bool is_found(std::string_view answer, std::span<const std::string> values) {
  std::vector<std::string> numbers = numbers_of(answer), expected(values.begin(), values.end());
  if (numbers.size() < expected.size()) return false;
  numbers.resize(expected.size());
  std::ranges::sort(numbers);
  std::ranges::sort(expected);
  return numbers == expected;
}

RetrievalTrial make_trial(const Haystack& haystack, const RetrievalOptions& options, std::size_t keys, double depth,
                          std::size_t number) {
  const std::array<std::uint64_t, 6> name = {
      options.seed, options.context, keys, options.values, std::bit_cast<std::uint64_t>(depth), number};
  Random random(hash_bytes(std::as_bytes(std::span(name))));
  const auto places = draw(RetrievalOptions::kMostKeys, keys, random);
  const auto numbers = draw(kNumbers, keys * options.values, random);

  RetrievalTrial trial;
  std::vector<Needle> needles;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::size_t key = i / options.values;
    const std::string value = fmt::format("{:0{}}", numbers[i], kDigits);
    const std::string text = fill(fill(options.needle, "{key}", key_name(places[key])), "{value}", spelled(value));
    needles.push_back({haystack.encode_inside(text), i == 0 ? depth : random.uniform()});
    if (key == 0) trial.values.push_back(value);
  }
  const std::string question = fill(fill(std::string(question_of(options)), "{key}", key_name(places[0])), "{count}",
                                    std::to_string(options.values));
  const std::size_t room = answer_room(options);
  KVANT_CHECK(room < options.context, ErrorCode::invalid_argument,
              "a context of {} tokens has no room for an answer of {}", options.context, room);
  trial.prompt = haystack.prompt(options.context - room, needles, haystack.encode_inside(question), random);
  return trial;
}

void check_retrieval(const Haystack& haystack, const RetrievalOptions& options) {
  const auto range = [](std::string_view option, auto value, auto low, auto high) {
    KVANT_CHECK(value >= low && value <= high, ErrorCode::invalid_argument, "{} is {}, expected {} to {}", option,
                value, low, high);
  };
  const auto placeholder = [](std::string_view option, std::string_view text, std::string_view name) {
    KVANT_CHECK(text.find(name) != text.npos, ErrorCode::invalid_argument, "{} \"{}\": {} is missing", option,
                printable(text), name);
  };
  for (const double depth : options.depths) range("depth", depth, 0.0, 1.0);
  for (const std::size_t keys : options.keys) range("keys", keys, std::size_t{1}, RetrievalOptions::kMostKeys);
  range("values", options.values, std::size_t{1}, RetrievalOptions::kMostValues);
  range("trials", options.trials, std::size_t{1}, RetrievalOptions::kMostTrials);
  placeholder("needle", options.needle, "{key}");
  placeholder("needle", options.needle, "{value}");
  placeholder("question", question_of(options), "{key}");
  if (!options.keys.empty()) make_trial(haystack, options, *std::ranges::max_element(options.keys), 0, 0);
}

std::vector<RetrievalResult> retrieve(engine::Engine& engine, const Haystack& haystack,
                                      const RetrievalOptions& options) {
  check_retrieval(haystack, options);
  Trials trials(engine, haystack, options);
  const std::size_t together = texts_together(options.context, trials.count());
  std::vector<RetrievalResult> results;
  for (const CachePair& spec : options.caches) {
    cache::KvCache cache =
        engine.make_cache(spec.k, spec.v, options.context, static_cast<int>(together), spec.plan.get());
    const std::vector<bool> found = trials.run(cache);
    RetrievalResult& result = results.emplace_back(RetrievalResult{spec, {}, cache.usage()});
    result.usage.k_bytes /= together;
    result.usage.v_bytes /= together;
    for (std::size_t cell = 0; cell < trials.cells(); ++cell) {
      const auto begin = found.begin() + static_cast<std::ptrdiff_t>(cell * options.trials);
      const auto hits =
          static_cast<std::size_t>(std::count(begin, begin + static_cast<std::ptrdiff_t>(options.trials), true));
      result.cells.push_back(
          {trials.keys(cell), trials.depth(cell), options.trials, hits, wilson(hits, options.trials)});
    }
  }
  return results;
}

}  // namespace kvant::eval
