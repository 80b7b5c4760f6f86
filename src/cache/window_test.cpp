#include "cache/window.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/file_io.h"
#include "base/half.h"
#include "cache/test_text.h"

namespace kvant::cache {
namespace {

constexpr std::size_t kDims = 32;

/// Which tokens a window should hold, straight from what it promises.
struct Model {
  std::size_t sinks, recent;
  std::vector<char> held = {};   ///< of each token: whether a query that comes next can have it
  std::vector<char> batch = {};  ///< the same for the queries of the last batch
  std::size_t first = 0;         ///< query of the last batch

  void append(std::size_t count) {
    first = held.size();
    held.resize(first + count, 1);
    batch = held;
    for (std::size_t p = sinks; p + recent < held.size(); ++p) held[p] = 0;
  }
  bool in_window(std::size_t token, std::size_t query) const {
    return token < sinks || (batch[token] != 0 && token <= query && token + recent > query);
  }
  void truncate(std::size_t length) { held.resize(std::min(held.size(), length)); }
};

/// Appends tokens that are recognised by their values.
void append(Window& window, Model& model, std::size_t layer, std::size_t sequence, const std::vector<float>& marks,
            std::size_t count) {
  const Segment segment{static_cast<int>(sequence), 0, count, model.held.size()};
  model.append(count);
  window.begin(layer, {{&segment, 1}, count, nullptr});
  for (std::size_t head = 0; head < marks.size(); ++head) {
    for (std::size_t p = segment.position; p < model.held.size(); ++p) {
      const std::vector<float> x(kDims, static_cast<float>(p) + marks[head]);
      EXPECT_TRUE(window.store(layer, sequence, head, p, model.held.size(), x.data()));
    }
  }
}

/// Whether the runs of a page are what the queries from `first` on, and that at `query`, have in their windows.
testing::AssertionResult page_holds(Window& window, const Model& model, std::size_t layer, std::size_t sequence,
                                    std::size_t head, float mark, std::size_t start, std::size_t first,
                                    std::size_t query) {
  const std::size_t tokens = std::min<std::size_t>(64, query + 1 - start);
  const Window::Runs runs = window.runs(layer, sequence, head, start, tokens, first);
  std::vector<char> found(tokens);
  for (std::size_t i = 0; i < runs.count; ++i) {
    const Window::Run& run = runs.runs[i];
    if (run.count == 0 || run.token + run.count > tokens) {
      return testing::AssertionFailure() << "run of " << run.count << " tokens from " << run.token;
    }
    for (std::size_t t = 0; t < run.count; ++t) {
      F16 value;
      std::memcpy(&value, run.vectors + (t * kDims + kDims - 1) * 2, 2);
      if (found[run.token + t] != 0 || to_float(value) != static_cast<float>(start + run.token + t) + mark) {
        return testing::AssertionFailure() << "token " << start + run.token + t << " is " << to_float(value);
      }
      found[run.token + t] = t >= window.outside(run, start, query) ? 2 : 1;
    }
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    if ((found[t] == 2) != model.in_window(start + t, query)) {
      return testing::AssertionFailure() << "token " << start + t << " for query " << query << ": " << int{found[t]};
    }
  }
  return testing::AssertionSuccess();
}

/// The same of all pages, and of each query of the last batch, alone and after the batch's first.
testing::AssertionResult holds(Window& window, const Model& model, std::size_t layer, std::size_t sequence,
                               std::size_t head, float mark = 0) {
  for (std::size_t query = model.first; query < model.batch.size(); ++query) {
    for (const std::size_t first : {model.first, query}) {
      for (std::size_t start = 0; start <= query; start += 64) {
        const auto result = page_holds(window, model, layer, sequence, head, mark, start, first, query);
        if (!result) return result;
      }
    }
  }
  return testing::AssertionSuccess();
}

TEST(Window, HoldsTheFirstAndTheLastTokens) {
  for (const auto& [sinks, recent] : std::initializer_list<std::pair<std::size_t, std::size_t>>{
           {0, 1}, {0, 3}, {1, 0}, {4, 5}, {70, 3}, {3, 64}, {2, 100}, {0, 150}, {150, 0}, {64, 65}}) {
    Window window({sinks, recent, 1, 1, 1, kDims}, supported_isas().back());
    for (std::size_t length = 1; length <= 140; length += length < 12 || (length > 60 && length < 72) ? 1 : 9) {
      for (std::size_t cut = 0; cut <= length; ++cut) {
        // A new sequence in chunks, cut, and continued by a token and by many; the window has seen others before.
        SCOPED_TRACE(fmt::format("sinks {} recent {} length {} cut {}", sinks, recent, length, cut));
        window.truncate(0, 0, 0);
        Model model{sinks, recent};
        for (std::size_t left = length, chunk = 1 + cut % 9; left > 0; left -= std::min(left, chunk)) {
          append(window, model, 0, 0, {0}, std::min(left, chunk));
        }
        ASSERT_TRUE(holds(window, model, 0, 0, 0));
        window.truncate(0, 0, cut);
        model.truncate(cut);
        for (const std::size_t more : {1U, 2U, 70U}) {
          append(window, model, 0, 0, {0}, more);
          ASSERT_TRUE(holds(window, model, 0, 0, 0));
        }
      }
    }
  }
}

TEST(Window, HeadsSequencesAndLayersAreApart) {
  Window window({3, 5, 2, 2, 2, kDims}, Isa::scalar);
  std::vector<Model> models(8, Model{3, 5});
  Random random(3);
  const auto each = [&](auto action) {
    for (std::size_t i = 0; i < 8; ++i) action(i / 4, i / 2 % 2, i % 2, models[i], static_cast<float>(256 * i));
  };
  for (int round = 0; round < 5; ++round) {
    for (std::size_t i = 0; i < 8; i += 2) {  // the heads of a layer and sequence go together
      const std::size_t count = 1 + random.below(20);
      append(window, models[i], i / 4, i / 2 % 2, {static_cast<float>(256 * i), static_cast<float>(256 * (i + 1))},
             count);
      models[i + 1] = models[i];
      EXPECT_TRUE(holds(window, models[i], i / 4, i / 2 % 2, 0, static_cast<float>(256 * i)));
      EXPECT_TRUE(holds(window, models[i], i / 4, i / 2 % 2, 1, static_cast<float>(256 * (i + 1))));
    }
    each([&](std::size_t layer, std::size_t sequence, std::size_t head, Model model, float mark) {
      model.first = model.batch.size() - 1;  // what the others looked back to is there until the next layer's come
      EXPECT_TRUE(holds(window, model, layer, sequence, head, mark));
    });
  }
}

/// |error| of an output when every key and value is off by 2^-11 of its norm at most: each logit by 2^-11 of the
/// largest product, so weights by twice as much, relatively. Rounding of f32 is far below.
double f16_bound(const Exact& exact) { return 0x1p-11 * exact.largest_value * (1 + 2 * exact.largest_product) * 1.01; }

TEST(KvCacheWindow, TokensInTheWindowAreAsGoodAsInF16) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 150;
  for (const std::size_t head_dim : {8U, 80U, 128U}) {
    for (const char* window : {"recent=150", "sinks=150", "sinks=60,recent=90", "recent=1000000"}) {
      const std::string type = fmt::format("lm2,{}", window);
      const Text text(make_flat_config(head_dim, 2, 2, type, type, kTokens), kTokens, 3);
      const CacheConfig coarse = make_flat_config(head_dim, 2, 2, "lm2", "lm2", kTokens);
      for (const Isa isa : supported_isas()) {
        for (const std::size_t chunk : {std::size_t{7}, kTokens}) {
          const auto out = text.run(text.config, pool, isa, chunk), worse = text.run(coarse, pool, isa, chunk);
          for (const std::size_t token : {std::size_t{0}, std::size_t{70}, kTokens - 1}) {
            for (const std::size_t head : {0U, 3U}) {
              const Exact exact = attend_exactly(text, head, token);
              ASSERT_LT(std::sqrt(squared_error(text, out, head, token, exact.out)), f16_bound(exact))
                  << type << " " << name(isa) << " " << token;
              ASSERT_GT(std::sqrt(squared_error(text, worse, head, token, exact.out)), 3 * f16_bound(exact));
            }
          }
        }
      }
    }
  }
}

/// The logits of tokens in the window of keys are exact, those of others are not.
TEST(KvCacheWindow, KeysOutsideAreCoarse) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 100, kHeadDim = 128, kSinks = 4, kRecent = 10;
  Text text(make_flat_config(kHeadDim, 1, 1, "lm2,sinks=4,recent=10", "f32", kTokens), kTokens, 5);
  std::fill(text.v.begin(), text.v.end(), 0.0F);
  for (std::size_t t = 0; t < kTokens; ++t) text.v[t * kHeadDim + t] = 1;
  for (const std::size_t chunk : {1U, 10U}) {
    const std::vector<float> out = text.run(text.config, pool, supported_isas().back(), chunk);
    const std::size_t token = kTokens - 1;
    const Exact exact = attend_exactly(text, 0, token);
    // The common factor of all weights, from the first sink.
    const double zero = std::log(double{out[token * kHeadDim]}) - exact.logits[0];
    double outside = 0;
    for (std::size_t t = 0; t < kTokens; ++t) {
      const double error = std::log(double{out[token * kHeadDim + t]}) - exact.logits[t] - zero;
      const bool held = t < kSinks || t + kRecent >= kTokens;
      if (held) {
        EXPECT_LT(std::abs(error), 2 * 0x1p-11 * exact.largest_product) << t;
      } else {
        outside += error * error / (kTokens - kSinks - kRecent);
      }
    }
    EXPECT_GT(std::sqrt(outside), 10 * 0x1p-11 * exact.largest_product);
  }
}

/// The same of values: only those that are not zero tell.
TEST(KvCacheWindow, ValuesOutsideAreCoarse) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 200, kHeadDim = 64, kSinks = 4, kRecent = 70;
  for (const bool inside : {true, false}) {
    Text text(make_flat_config(kHeadDim, 1, 1, "f32", "lm2,sinks=4,recent=70", kTokens), kTokens, 7);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const bool held = t < kSinks || t + kRecent >= kTokens;
      if (held != inside) std::fill_n(text.v.begin() + static_cast<std::ptrdiff_t>(t * kHeadDim), kHeadDim, 0.0F);
    }
    const std::vector<float> out = text.run(text.config, pool, supported_isas().back(), 70);
    const Exact exact = attend_exactly(text, 0, kTokens - 1);
    const double error = std::sqrt(squared_error(text, out, 0, kTokens - 1, exact.out));
    const double norm = std::sqrt(std::inner_product(exact.out.begin(), exact.out.end(), exact.out.begin(), 0.0));
    EXPECT_EQ(error < 0x1p-11 * exact.largest_value, inside) << error;
    EXPECT_EQ(error > 0.1 * norm, !inside) << error / norm;
  }
}

std::string saved(const KvCache& cache) {
  const auto path = std::filesystem::path(testing::TempDir()) / fmt::format("kvant_window_{}", ::getpid());
  cache.save(path);
  const std::string bytes = read_text(path.string());
  std::filesystem::remove(path);
  return bytes;
}

struct Types {
  std::string k, v;
};
std::vector<Types> all_types() {
  std::vector<Types> types;
  for (const char* type : {"f32",
                           "f16",
                           "bf16",
                           "q8_0",
                           "q5_1",
                           "q5_0",
                           "q4_1",
                           "q4_0",
                           "rot-q8_0",
                           "rot-q5_1",
                           "rot-q5_0",
                           "rot-q4_1",
                           "rot-q4_0",
                           "lm1",
                           "lm2",
                           "lm3",
                           "lm4",
                           "lm5",
                           "lm6",
                           "uni2",
                           "uni3",
                           "uni4",
                           "uni5",
                           "uni6",
                           "uni7",
                           "uni8",
                           "lm3,group=32",
                           "uni5,norm=log8",
                           "lm2,sinks=3,recent=20",
                           "q4_0,sinks=70,recent=65"}) {
    types.push_back({type, type});
  }
  types.push_back({"flex:0:6:0:0:0", "f16"});
  types.push_back({"flexfix:0:5:0:1:0", "lm2"});
  return types;
}

/// What is stored depends on the tokens alone: not on how they came, nor on others that were there and are forgotten.
TEST(KvCacheWindow, AllTypesStoreTheSameBytesHoweverTokensCome) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 150;
  for (const auto& [k, v] : all_types()) {
    SCOPED_TRACE(k + " " + v);
    const Text text(make_config(128, 1, k, v, kTokens), kTokens, 9);
    KvCache whole(text.config, pool, supported_isas().back());
    const std::vector<float> expected = text.run(whole, kTokens);
    const std::string bytes = saved(whole);
    const bool window = text.config.k.recent > 0;
    for (const std::size_t chunk : {1U, 41U}) {
      KvCache cache(text.config, pool, supported_isas().front());
      const std::vector<float> out = text.run(cache, chunk);
      ASSERT_EQ(saved(cache), bytes);
      if (chunk > 1) continue;
      KvCache same(text.config, pool, supported_isas().back());
      ASSERT_EQ(text.run(same, chunk), expected);
    }
    for (const std::size_t cut : {0U, 1U, 64U, 77U}) {
      whole.truncate(0, cut);
      std::vector<float> out(expected.size());
      text.feed(whole, 0, cut, kTokens - cut, out);
      ASSERT_EQ(saved(whole), bytes) << cut;
      const auto from = static_cast<std::ptrdiff_t>((window ? kTokens : cut) * text.query_width());
      ASSERT_TRUE(std::equal(out.begin() + from, out.end(), expected.begin() + from)) << cut;
    }
  }
}

}  // namespace
}  // namespace kvant::cache
