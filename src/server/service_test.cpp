/// The routes without a socket: what handle() answers.
#include "server/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_io.h"

namespace kvant::server {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() : folder_(testing::TempDir() + "kvant-service-test-" + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~ServiceTest() override { std::filesystem::remove_all(folder_); }

  /// A server as after a start, with this cache type.
  void start(std::string_view type, bool may_save = true) {
    service_.reset();
    scheduler_.reset();
    const auto k = codec::parse_cache_spec(type, codec::PageSide::key);
    const auto v = codec::parse_cache_spec(type, codec::PageSide::value);
    cache::CacheConfig config = engine().make_cache(k, v, 256).config();
    config.sequences = 5;
    config.pool_tokens = 512;
    scheduler_ = std::make_unique<Scheduler>(engine(), cache::KvCache(config, engine().pool(), active_isa()),
                                             Scheduler::Options{.running = 2});
    Service::Options options{.model = "small"};
    if (may_save) options.slot_folder = folder_;
    service_ = std::make_unique<Service>(engine(), *scheduler_, options);
  }
  static engine::Engine& engine() {
    static engine::Engine one{KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf",
                              {.threads = 1, .isa = active_isa(), .precision = kernels::Precision::reference}};
    return one;
  }
  std::pair<int, json> ask(const std::string& method, const std::string& path, const json& body = {}) {
    const HttpResponse response = service_->handle({method, path, body.dump(), [] { return true; }});
    return {response.status, json::parse(response.body)};
  }
  json complete(const std::string& prompt) {
    const auto [status, answer] = ask(
        "POST", "/v1/completions", {{"prompt", prompt}, {"max_tokens", 12}, {"temperature", 0}, {"ignore_eos", true}});
    EXPECT_EQ(status, 200) << answer;
    return answer;
  }

  std::filesystem::path folder_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Service> service_;
};

TEST_F(ServiceTest, SavedConversationsGoOnBitForBitAfterARestart) {
  start("lm4");
  const std::string prompt = "The king gave his answer on the third day, and the old road was long.";
  const std::string all = prompt + complete(prompt)["choices"][0]["text"].get<std::string>();
  const json slots = ask("GET", "/slots").second["slots"];
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0]["state"], "kept");
  const std::string slot = "/slots/" + std::to_string(slots[0]["id"].get<int>());
  const auto [status, saved] = ask("POST", slot + "/save", {{"filename", "story.kv"}});
  ASSERT_EQ(status, 200) << saved;
  EXPECT_EQ(saved["tokens"], slots[0]["tokens"]);
  const json expected = complete(all);
  EXPECT_GT(expected["usage"]["prompt_tokens_details"]["cached_tokens"], 10);

  start("lm4");
  ASSERT_EQ(ask("POST", "/slots/3/restore", {{"filename", "story.kv"}}).first, 200);
  const json after = complete(all);
  EXPECT_EQ(after["choices"], expected["choices"]);
  EXPECT_EQ(after["usage"], expected["usage"]);
}

TEST_F(ServiceTest, SlotsAreRefusedWithTheReason) {
  start("lm4");
  complete("The old road was long and went to the sea.");
  ASSERT_EQ(ask("POST", "/slots/0/save", {{"filename", "a.kv"}}).first, 200);
  for (const char* bad : {"../a.kv", "/a.kv", "none.kv", "..", ".a.kv"}) {
    EXPECT_EQ(ask("POST", "/slots/0/restore", {{"filename", bad}}).first, 400) << bad;
  }
  EXPECT_EQ(ask("POST", "/slots/x/save", {{"filename", "a"}}).first, 404);
  EXPECT_EQ(ask("POST", "/slots/0/erase", {{"filename", "a"}}).first, 404);
  EXPECT_EQ(ask("POST", "/slots/99/save", {{"filename", "a"}}).first, 400);
  EXPECT_EQ(ask("POST", "/slots/4/save", {{"filename", "a"}}).second["error"]["message"],
            "slot 4 holds no conversation");

  std::string bytes = read_text((folder_ / "a.kv").string());
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  AtomicFile damaged(folder_ / "b.kv");
  damaged.write(bytes);
  damaged.commit();
  const auto [status, why] = ask("POST", "/slots/1/restore", {{"filename", "b.kv"}});
  EXPECT_EQ(status, 400);
  EXPECT_THAT(why["error"]["message"].get<std::string>(), testing::StartsWith("b.kv: "));

  start("f16");
  const auto other = ask("POST", "/slots/0/restore", {{"filename", "a.kv"}}).second["error"]["message"];
  EXPECT_THAT(other.get<std::string>(),
              testing::AllOf(testing::StartsWith("a.kv: saved with keys lm4"), HasSubstr("f16")));
  start("f16", false);
  EXPECT_EQ(ask("POST", "/slots/0/restore", {{"filename", "a.kv"}}).first, 403);
}

TEST_F(ServiceTest, LeftoversOfSavesGo) {
  AtomicFile part(folder_ / ".a.kv.part");
  part.write("x");
  part.commit();
  remove_leftovers(folder_);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_THROW(remove_leftovers(folder_ / "none"), Error);
}

}  // namespace
}  // namespace kvant::server
