#include "server/reply.h"

#include <gtest/gtest.h>

#include <thread>

namespace kvant::server {
namespace {

using namespace std::chrono_literals;

std::string text(const std::optional<Reply::Event>& event) { return std::get<Piece>(event.value().what).text; }

TEST(Reply, JoinsWhatWaitsAndEndsOnce) {
  Reply reply(1);
  reply.push(0, {"ab", {}});
  reply.push(0, {"c", {}});
  reply.end(0, {.finish = Finish::length, .generated_tokens = 2});
  EXPECT_EQ(text(reply.next(0ms)), "abc");
  EXPECT_FALSE(reply.done());
  EXPECT_EQ(std::get<Ending>(reply.next(0ms).value().what).generated_tokens, 2u);
  EXPECT_TRUE(reply.done());
  EXPECT_FALSE(reply.next(0ms).has_value());
}

TEST(Reply, ChoicesTakeTurns) {
  Reply reply(2);
  reply.push(0, {"a", {}});
  reply.push(1, {"b", {}});
  EXPECT_EQ(reply.next(0ms).value().choice, 0u);
  reply.push(0, {"a", {}});
  EXPECT_EQ(reply.next(0ms).value().choice, 1u) << "the other one has waited longer";
  reply.end(1, {});
  EXPECT_EQ(reply.next(0ms).value().choice, 0u);
  EXPECT_EQ(reply.next(0ms).value().choice, 1u);
  EXPECT_FALSE(reply.done());
}

TEST(Reply, IsFullUntilItIsRead) {
  Reply reply(2);
  reply.push(0, {std::string(Reply::kFullBytes - 1, 'x'), {}});
  EXPECT_FALSE(reply.full());
  reply.push(1, {"x", {}});
  EXPECT_TRUE(reply.full());
  reply.next(0ms);
  EXPECT_FALSE(reply.full());
}

TEST(Reply, ProbabilitiesCountToo) {
  Reply reply(1);
  Piece piece{"", std::vector<engine::LogProbabilities>(Reply::kFullBytes / 64)};
  reply.push(0, std::move(piece));
  EXPECT_TRUE(reply.full());
}

TEST(Reply, AWaitEndsWhenSomethingComes) {
  Reply reply(1);
  std::jthread writer([&] {
    std::this_thread::sleep_for(20ms);
    reply.push(0, {"late", {}});
  });
  EXPECT_EQ(text(reply.next(60s)), "late");
}

}  // namespace
}  // namespace kvant::server
