#include <gmock/gmock.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>

#include "base/file_io.h"
#include "base/hash.h"
#include "cache/state_file.h"
#include "cache/test_pool.h"

namespace kvant::cache {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

/// An empty folder of this test's own.
struct Folder {
  fs::path path;
  explicit Folder(std::string_view purpose)
      : path(fs::path(testing::TempDir()) / fmt::format("kvant_{}_{}_{}", purpose,
                                                        testing::UnitTest::GetInstance()->current_test_info()->name(),
                                                        ::getpid())) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(path)) list.push_back(entry.path().filename());
    return list;
  }
};

std::string saved(const KvCache& cache, std::optional<int> sequence = {}) {
  const Folder folder("saved");
  const fs::path path = folder.path / "cache";
  sequence ? cache.save(path, *sequence) : cache.save(path);
  return read_text(path.string());
}

/// Constants of all kinds for a configuration.
void add_constants(CacheConfig& config, const Text& text) {
  const auto heads = static_cast<std::size_t>(config.kv_heads);
  config.rope = text.rope;
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerConstants& c = config.constants.emplace_back();
    const auto seed = static_cast<std::uint64_t>(100 + 10 * layer);
    c.k_anchor = normals(heads * config.head_dim, seed);
    c.v_anchor = normals(heads * config.head_dim, seed + 1);
    for (auto* energy : {&c.k_energy, &c.q_energy}) {
      *energy = normals(heads * config.rope_pairs, energy == &c.k_energy ? seed + 2 : seed + 3);
      for (float& e : *energy) e = 0.1F + std::abs(e);
    }
  }
}

TEST(KvCacheState, AllTypesGoOnAfterALoadAsIfNothingHadHappened) {
  ThreadPool pool(2);
  const Folder folder("test");
  const std::vector<std::pair<const char*, const char*>> types{
      {"f32", "bf16"},
      {"f16", "q8_0"},
      {"rot-q4_0", "q5_1"},
      {"lm4", "lm4"},
      {"lm1,group=32", "uni8,norm=log8"},
      {"uni7,sinks=3,recent=10,scale=weights", "lm2,recent=70"},
      {"f32,anchor=bias,scale=weights,recent=5", "f16,anchor=bias,sinks=2"},
      {"flexfix:0:5:0:1:0", "lm6"}};
  constexpr std::size_t kTokens = 140;
  for (const auto& [k, v] : types) {
    SCOPED_TRACE(fmt::format("{} {}", k, v));
    CacheConfig config = make_config(128, 2, k, v, kTokens);
    config.sequences = 3;
    const Text text(config, kTokens, 3), other(config, kTokens, 4);
    add_constants(config, text);
    KvCache cache(config, pool, supported_isas().back());
    std::vector<float> out(text.q.size());
    text.feed(cache, 0, 0, 100, out);
    other.feed(cache, 2, 0, 65, out);  // sequence 1 stays empty
    const fs::path path = folder.path / "cache";
    cache.save(path);

    for (const std::size_t capacity : {kTokens, std::size_t{400}}) {
      config.capacity = capacity;
      KvCache loaded(config, pool, supported_isas().back());
      other.feed(loaded, 0, 0, 33, out);  // is forgotten
      other.feed(loaded, 1, 0, 140, out);
      loaded.load(path);
      EXPECT_EQ(loaded.length(0), 100u);
      EXPECT_EQ(loaded.length(1), 0u);
      EXPECT_EQ(loaded.length(2), 65u);
      EXPECT_EQ(saved(loaded), read_text(path.string()));
      std::vector<float> expected(text.q.size()), got(text.q.size());
      cache.load(path);
      text.feed(cache, 0, 100, 1, expected);
      text.feed(cache, 0, 101, 39, expected);
      text.feed(loaded, 0, 100, 1, got);
      text.feed(loaded, 0, 101, 39, got);
      ASSERT_EQ(got, expected);
      other.feed(cache, 2, 65, 7, expected);
      other.feed(loaded, 2, 65, 7, got);
      ASSERT_EQ(got, expected);
      text.feed(loaded, 1, 0, 10, got);
      cache.load(path);
      text.feed(cache, 1, 0, 10, expected);
      ASSERT_EQ(got, expected);
    }
  }
}

/// Symmetric and positive, [heads][dims][dims].
std::vector<float> metrics(std::size_t heads, std::size_t dims, std::uint64_t seed) {
  const std::vector<float> x = normals(heads * dims, seed);
  std::vector<float> m;
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t i = 0; i < dims * dims; ++i) {
      m.push_back(x[h * dims + i / dims] * x[h * dims + i % dims] + (i / dims == i % dims ? 1.0F : 0.0F));
    }
  }
  return m;
}

TEST(KvCacheState, AllHeadSizesStoreTheSameBytesOnEveryTier) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 70;
  const std::vector<std::pair<const char*, const char*>> types{{"f32,anchor=bias,scale=weights", "f16,anchor=bias"},
                                                               {"rot-q4_0,anchor=bias", "rot-q5_1"},
                                                               {"q8_0", "q5_0"},
                                                               {"lm4", "lm4"},
                                                               {"lm1,group=32", "lm2,group=32"},
                                                               {"lm6,norm=log8,scale=weights", "uni8,norm=log8"},
                                                               {"uni5,sinks=2,recent=7", "lm3,shape=none,recent=3"},
                                                               {"lm3,shape=weights", "uni2"}};
  for (const std::size_t head_dim : {8U, 16U, 64U, 80U, 96U, 112U, 128U, 256U}) {
    for (const auto& [k, v] : types) {
      CacheConfig config = make_config(head_dim, 1, k, v, kTokens);
      const Text text(config, kTokens, 13);
      add_constants(config, text);
      for (LayerConstants& c : config.constants) c.v_metric = metrics(2, head_dim, 17);
      std::string first;
      for (const Isa isa : supported_isas()) {
        KvCache cache(config, pool, isa);
        text.append(cache, 0, 0, kTokens);
        const std::string bytes = saved(cache);
        if (first.empty()) first = bytes;
        ASSERT_TRUE(bytes == first) << name(isa) << " " << k << " " << v << " " << head_dim;
      }
    }
  }
}

/// Sequences whose blocks and windows held, or share, tokens of another one: their files do not depend on it.
TEST(KvCacheState, AllTypesSaveNothingOfOtherSequences) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 140;
  std::vector<CacheConfig> configs{make_planned_config(3, kTokens, 0)};
  for (const auto& [k, v] :
       std::vector<std::pair<const char*, const char*>>{{"f32", "bf16"},
                                                        {"f16", "q8_0"},
                                                        {"rot-q4_0", "q5_1"},
                                                        {"lm4,norm=log8", "lm3,sinks=4,recent=20"},
                                                        {"lm1,group=32,recent=9", "uni5,norm=log8"},
                                                        {"f32,anchor=bias,scale=weights,sinks=50,recent=70", "lm2"},
                                                        {"flexfix:0:5:0:1:0", "lm6"}}) {
    configs.push_back(make_config(128, 2, k, v, kTokens));
    configs.back().sequences = 3;
    add_constants(configs.back(), Text(configs.back(), 1, 3));
    for (LayerConstants& c : configs.back().constants) c.v_metric = metrics(2, 128, 17);
  }
  for (const CacheConfig& config : configs) {
    SCOPED_TRACE(codec::to_string(config.k) + " " + codec::to_string(config.v, codec::PageSide::value));
    const Text text(config, kTokens, 3), others[] = {{config, kTokens, 5}, {config, kTokens, 8}};
    const auto recycled = [&](const Text* other) {
      KvCache cache(config, pool, supported_isas().back());
      for (int s = 0; s < 3 && other != nullptr; ++s) other->append(cache, s, 0, kTokens);
      for (int s = 0; s < 3; ++s) cache.truncate(s, 0);
      text.append(cache, 1, 0, 40);
      text.append(cache, 1, 40, 37);
      return saved(cache, 1) + saved(cache);
    };
    const auto forked = [&](const Text& other) {
      KvCache cache(config, pool, supported_isas().back());
      text.append(cache, 0, 0, 77);
      other.append(cache, 0, 77, 60);
      cache.fork(0, 1, 77);
      const std::string file = saved(cache, 1);
      cache.truncate(0, 77);
      return file + saved(cache);
    };
    const std::string fresh = recycled(nullptr);
    for (const Text& other : others) ASSERT_TRUE(recycled(&other) == fresh);
    ASSERT_TRUE(forked(others[0]) == forked(others[1]));
  }
}

/// A small saved cache with everything in it, and one like it that holds something else.
struct State : testing::Test {
  ThreadPool pool{1};
  CacheConfig config = make_small_config();
  Text text{config, 12, 5};
  KvCache cache{config, pool, Isa::scalar};
  std::string file, before;

  static CacheConfig make_small_config() {
    CacheConfig c = make_config(8, 1, "lm2,sinks=1,recent=2", "q4_0", 70);
    c.sequences = 2;
    const Text text(c, 1, 1);
    add_constants(c, text);
    return c;
  }
  State() {
    KvCache other(config, pool, Isa::scalar);
    std::vector<float> out(text.q.size());
    text.feed(other, 0, 0, 12, out);
    text.feed(other, 1, 0, 5, out);
    file = saved(other);
    text.feed(cache, 1, 0, 9, out);
    before = saved(cache);
  }
  static std::span<const std::byte> bytes(const std::string& s) { return std::as_bytes(std::span(s)); }
  std::string error(ErrorCode code, const std::string& content) {
    return error_of(code, [&] { cache.load(bytes(content), "the/file"); });
  }
  /// Offsets of the sections' headers, and the end.
  std::vector<std::size_t> sections() const {
    std::vector<std::size_t> at{16};
    while (at.back() < file.size()) {
      std::uint64_t size = 0;
      std::memcpy(&size, file.data() + at.back(), 8);
      at.push_back(at.back() + 16 + size);
    }
    return at;
  }
  /// The file with a section changed and its hash made right.
  std::string with_section(std::size_t index, const std::function<void(std::string&)>& change) const {
    const auto at = sections();
    std::string content = file.substr(at[index] + 16, at[index + 1] - at[index] - 16);
    change(content);
    const std::uint64_t header[] = {content.size(), hash_bytes(bytes(content))};
    return file.substr(0, at[index]) + std::string(reinterpret_cast<const char*>(header), sizeof header) + content +
           file.substr(at[index + 1]);
  }
  void TearDown() override { EXPECT_EQ(saved(cache), before); }  // refused files leave no trace
};

TEST_F(State, FormatIsAsDescribed) {
  EXPECT_EQ(file.substr(0, 8), kStateMagic);
  EXPECT_EQ(file.substr(8, 8), std::string("\1\0\0\0\0\0\0\0", 8));
  // Description, lengths; keys: 2 layers x 2 sequences x 2 heads, window, its positions; values.
  const auto at = sections();
  ASSERT_EQ(at.back(), file.size());
  EXPECT_EQ(at.size() - 1, 2u + 8 + 2 + 8);
  EXPECT_THAT(file.substr(32, 40), StartsWith("keys lm2,sinks=1,recent=2\nvalues q4_0\n"));
  std::uint64_t lengths[4];
  std::memcpy(lengths, file.data() + at[1] + 16, sizeof lengths);
  EXPECT_THAT(lengths, testing::ElementsAre(12, 5, 12, 5));
}

TEST_F(State, CutFilesAreRefused) {
  std::vector<std::size_t> cuts{0, 1, 7, 8, 15};
  for (std::size_t at = 0; at < file.size(); at += 97) cuts.push_back(at);
  for (const std::size_t at : sections()) {
    for (const std::size_t offset : {0U, 1U, 8U, 15U, 16U, 17U}) {
      if (at + offset < file.size()) cuts.push_back(at + offset);
    }
  }
  for (const std::size_t size : cuts) {
    ASSERT_THAT(error(ErrorCode::format, file.substr(0, size)),
                AllOf(StartsWith("the/file: "), HasSubstr("bytes, the file has")))
        << size;
  }
}

TEST_F(State, EveryByteCounts) {
  for (std::size_t i = 0; i < file.size(); ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ (1 << i % 8));
    const auto code = i >= 8 && i < 16 ? ErrorCode::unsupported : ErrorCode::format;
    ASSERT_THAT(error(code, changed), StartsWith("the/file: ")) << i;
  }
}

TEST_F(State, SizesOfSectionsAreChecked) {
  const auto at = sections();
  for (std::size_t i = 0; i + 1 < at.size(); ++i) {
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}, ~std::uint64_t{0} - 15}) {
      std::string changed = file;
      std::memcpy(changed.data() + at[i], &size, sizeof size);
      ASSERT_THAT(error(ErrorCode::format, changed), StartsWith("the/file: ")) << i << " " << size;
    }
    // With a right hash the size itself is what is wrong; of the first section it is the text.
    const auto code = i == 0 ? ErrorCode::invalid_argument : ErrorCode::format;
    const std::string shorter = with_section(i, [](std::string& s) { s.pop_back(); });
    ASSERT_THAT(error(code, shorter), StartsWith("the/file: ")) << i;
    const std::string longer = with_section(i, [](std::string& s) { s.push_back('\0'); });
    ASSERT_THAT(error(code, longer), StartsWith("the/file: ")) << i;
    const std::string empty = with_section(i, [](std::string& s) { s.clear(); });
    ASSERT_THAT(error(code, empty), StartsWith("the/file: ")) << i;
  }
}

TEST_F(State, WhatIsWrongIsNamed) {
  EXPECT_THAT(error(ErrorCode::format, "GGUF" + file.substr(4)), HasSubstr("the/file: not the file of a saved cache"));
  std::string changed = file;
  changed[8] = 2;
  EXPECT_THAT(error(ErrorCode::unsupported, changed), HasSubstr("the/file: saved cache of version 2, expected 1"));
  EXPECT_THAT(error(ErrorCode::format, file + "x"),
              HasSubstr(fmt::format("{} bytes, expected {}", file.size() + 1, file.size())));
  changed = file;
  changed[sections()[1] + 20] ^= 1;
  EXPECT_THAT(error(ErrorCode::format, changed), testing::ContainsRegex("lengths: hash [0-9a-f]{16}, expected"));
  const auto lengths = [&](std::uint64_t length) {
    return with_section(1, [&](std::string& s) { std::memcpy(s.data() + 8, &length, 8); });
  };
  EXPECT_THAT(error(ErrorCode::invalid_argument, lengths(71)),
              HasSubstr("the/file: a sequence of 71 tokens, the capacity is 70"));
  for (const std::uint64_t length : {~std::uint64_t{0}, ~std::uint64_t{0} - 62, std::uint64_t{1} << 63}) {
    error(ErrorCode::invalid_argument, lengths(length));
  }
  EXPECT_THAT(error(ErrorCode::format, lengths(65)), StartsWith("the/file: keys: "));  // another page
  EXPECT_THAT(error(ErrorCode::invalid_argument,
                    with_section(0, [](std::string& s) { s.replace(s.find("lm2"), 3, "l\x1b\n"); })),
              HasSubstr("saved with keys l\\x1b, expected keys lm2"));
}

/// Descriptions that end early, or go on: nothing behind their ends is looked at.
TEST_F(State, DescriptionsMayEndAnywhere) {
  const std::string description = file.substr(32, sections()[1] - 32);
  for (std::size_t size = 0; size < description.size(); ++size) {
    ASSERT_THAT(error(ErrorCode::invalid_argument, with_section(0, [&](std::string& s) { s.resize(size); })),
                StartsWith("the/file: saved with "))
        << size;
  }
  for (const char* more : {"\n", "more\n", "keys"}) {
    EXPECT_THAT(error(ErrorCode::invalid_argument, with_section(0, [&](std::string& s) { s += more; })),
                StartsWith("the/file: saved with "));
  }
}

/// A saved cache and one that it does not fit, which is the field that differs.
TEST_F(State, OtherCachesAreNamed) {
  const auto message = [&](const std::function<void(CacheConfig&)>& change) {
    CacheConfig c = config;
    change(c);
    KvCache other(c, pool, Isa::scalar);
    return error_of(ErrorCode::invalid_argument, [&] { other.load(bytes(file), "f"); });
  };
  EXPECT_EQ(message([](CacheConfig&) {}), "no error");
  EXPECT_EQ(message([](CacheConfig& c) { c.capacity = 12; }), "no error");
  EXPECT_THAT(message([](CacheConfig& c) { c.capacity = 11; }), HasSubstr("a sequence of 12 tokens"));
  EXPECT_EQ(message([](CacheConfig& c) { c.k = codec::parse_cache_spec("lm3,sinks=1,recent=2"); }),
            "f: saved with keys lm2,sinks=1,recent=2, expected keys lm3,sinks=1,recent=2");
  EXPECT_EQ(message([](CacheConfig& c) { c.k.recent = 3; }),
            "f: saved with keys lm2,sinks=1,recent=2, expected keys lm2,sinks=1,recent=3");
  EXPECT_EQ(message([](CacheConfig& c) { c.v.rotated = true; }), "f: saved with values q4_0, expected values rot-q4_0");
  EXPECT_EQ(message([](CacheConfig& c) {
              c.layers = 1;
              c.constants.pop_back();
            }),
            "f: saved with layers 2, expected layers 1");
  EXPECT_EQ(message([](CacheConfig& c) { c.sequences = 1; }), "f: saved with sequences 2, expected sequences 1");
  const auto without = [](CacheConfig& c) { c.constants.clear(), c.rope = {}; };
  EXPECT_EQ(message([&](CacheConfig& c) { without(c), c.kv_heads = 1; }),
            "f: saved with KV heads 2, expected KV heads 1");
  EXPECT_EQ(message([&](CacheConfig& c) { without(c), c.head_dim = 16; }),
            "f: saved with head_dim 8, expected head_dim 16");
  EXPECT_EQ(message([&](CacheConfig& c) { without(c), c.rope_pairs = 3; }),
            "f: saved with RoPE pairs 4, expected RoPE pairs 3");
  EXPECT_THAT(message(without), HasSubstr("f: saved with RoPE angles "));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants.clear(); }), HasSubstr("f: saved with constants of the keys "));
  EXPECT_THAT(message([](CacheConfig& c) { c.rope.theta[1] *= 1.5; }), HasSubstr("f: saved with RoPE angles "));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[1].k_anchor[3] += 1; }), HasSubstr("constants of the keys "));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[0].q_energy[3] *= 10000; }),
              HasSubstr("constants of the keys "));
}

TEST_F(State, FilesAreWrittenWholeOrNotAtAll) {
  const Folder folder("test");
  const fs::path path = folder.path / "cache";
  cache.save(path);
  KvCache other(config, pool, Isa::scalar);
  other.load(path);
  std::vector<float> out(text.q.size());
  text.feed(other, 0, 0, 3, out);
  other.save(path);  // over a file that is there, and could be mapped
  EXPECT_NE(read_text(path.string()), before);
  EXPECT_EQ(read_text(path.string()), saved(other));
  EXPECT_THAT(folder.names(), testing::ElementsAre("cache"));
  // What cannot be written leaves nothing behind.
  fs::create_directories(folder.path / "full" / "inside");
  const std::string full = (folder.path / "full").string(), none = (folder.path / "none" / "cache").string();
  EXPECT_THAT(error_of(ErrorCode::io, [&] { cache.save(full); }), StartsWith(full + ": cannot write: "));
  EXPECT_THAT(error_of(ErrorCode::io, [&] { cache.save(none); }), StartsWith(none + ": cannot write: "));
  EXPECT_THAT(folder.names(), testing::UnorderedElementsAre("cache", "full"));
  EXPECT_THAT(error_of(ErrorCode::io, [&] { cache.load(none); }), StartsWith(none + ": cannot open: "));
  EXPECT_THAT(error_of(ErrorCode::io, [&] { cache.load(folder.path); }), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace kvant::cache
