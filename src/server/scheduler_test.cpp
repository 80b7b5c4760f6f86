#include "server/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/engine.h"

namespace kvant::server {
namespace {

using namespace std::chrono_literals;
using kernels::Precision;

const codec::CacheSpec kF32{gguf::TensorType::f32, false};

engine::Engine open_engine(Precision precision) {
  return {KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf", {.threads = 1, .isa = active_isa(), .precision = precision}};
}

/// One answer, with its ending.
struct Result {
  std::string text;
  std::vector<Token> tokens;  ///< where probabilities were asked for
  Ending ending;
  friend bool operator==(const Result& a, const Result& b) { return a.text == b.text && a.tokens == b.tokens; }
};

/// All answers of a reply, read until their end; without one within a minute the test fails.
std::vector<Result> read(Reply& reply) {
  std::vector<Result> results(reply.choices());
  while (!reply.done()) {
    const auto event = reply.next(60s);
    if (!event) {
      ADD_FAILURE() << "nothing came within a minute";
      break;
    }
    Result& result = results[event->choice];
    if (const auto* piece = std::get_if<Piece>(&event->what)) {
      result.text += piece->text;
      for (const auto& p : piece->tokens) result.tokens.push_back(p.chosen.token);
    } else {
      result.ending = std::get<Ending>(event->what);
    }
  }
  return results;
}

class SchedulerTest : public testing::Test {
 protected:
  engine::Engine& engine() {
    static engine::Engine reference = open_engine(Precision::reference);
    return reference;
  }
  /// A scheduler that keeps up to four conversations.
  static std::unique_ptr<Scheduler> start(engine::Engine& engine, std::size_t parallel, Scheduler::Options options = {},
                                          std::size_t context = 512, std::size_t pool_tokens = 0) {
    options.running = parallel;
    cache::CacheConfig config = engine.make_cache(kF32, kF32, context).config();
    config.sequences = static_cast<int>(parallel) + 4;
    config.pool_tokens = pool_tokens > 0 ? pool_tokens : (parallel + 1) * context;
    return std::make_unique<Scheduler>(engine, cache::KvCache(config, engine.pool(), active_isa()), options);
  }
  std::unique_ptr<Scheduler> start(std::size_t parallel, Scheduler::Options options = {}, std::size_t context = 512,
                                   std::size_t pool_tokens = 0) {
    return start(engine(), parallel, options, context, pool_tokens);
  }
  /// `count` tokens of a prompt that no other number has the start of.
  std::vector<Token> prompt(std::size_t number, std::size_t count) {
    std::vector<Token> tokens;
    std::size_t x = number * 7919 + 1;
    while (tokens.size() < count) {
      x = (x * 6364136223846793005u + 1442695040888963407u);
      const auto token = static_cast<Token>((x >> 33) % engine().tokenizer().size());
      if (!engine().tokenizer().is_special(token)) tokens.push_back(token);
    }
    return tokens;
  }
  /// A greedy job whose tokens can be compared.
  Job job(std::vector<Token> tokens, std::size_t max_tokens = 8) {
    return {.prompt = std::move(tokens), .max_tokens = max_tokens, .log_probabilities = 0, .stop_at_end = false};
  }
  static Result one(Scheduler& scheduler, Job j) {
    std::vector<Job> jobs;
    jobs.push_back(std::move(j));
    return read(*scheduler.submit(std::move(jobs))).front();
  }
};

TEST_F(SchedulerTest, AnAnswerIsWhatASessionGenerates) {
  const auto tokens = prompt(1, 300);
  engine::Session session(engine(), engine().make_cache(kF32, kF32, 512));
  const auto expected = session.generate(tokens, {.max_tokens = 12, .stop_at_end = false}).tokens;
  const auto scheduler = start(1);
  const Result result = one(*scheduler, job(tokens, 12));
  EXPECT_EQ(result.tokens, expected);
  EXPECT_EQ(result.ending.finish, Finish::length);
  EXPECT_EQ(result.ending.prompt_tokens, 300u);
  EXPECT_EQ(result.ending.generated_tokens, 12u);
  EXPECT_EQ(result.ending.cached_tokens, 0u);
}

/// 16 answers at a time equal each alone, in both precisions, with prompts of few rows, one chunk and several.
TEST_F(SchedulerTest, AnswersDoNotDependOnWhatElseRuns) {
  const std::size_t lengths[] = {1, 5, 16, 17, 40, 255, 256, 257, 270, 300, 64, 3, 128, 90, 33, 200};
  engine::Engine fast = open_engine(Precision::fast);
  for (engine::Engine* engine_ : {&engine(), &fast}) {
    std::vector<Result> alone;
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
      alone.push_back(one(*start(*engine_, 1, {}, 320), job(prompt(i, lengths[i]), 4 + i / 4)));
    }
    const auto scheduler = start(*engine_, 16, {}, 320);
    std::vector<std::shared_ptr<Reply>> replies;
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
      std::vector<Job> jobs;
      jobs.push_back(job(prompt(i, lengths[i]), 4 + i / 4));
      replies.push_back(scheduler->submit(std::move(jobs)));
    }
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
      EXPECT_EQ(read(*replies[i]).front(), alone[i]) << "prompt of " << lengths[i];
    }
  }
}

TEST_F(SchedulerTest, AShortPromptDoesNotWaitForALongOne) {
  const auto scheduler = start(2, {.prompt_step = 64});
  std::vector<Job> both;
  both.push_back(job(prompt(1, 500), 2));
  both.push_back(job(prompt(2, 30), 2));
  const auto results = read(*scheduler->submit(std::move(both)));
  EXPECT_LT(results[1].ending.prefill_seconds, results[0].ending.prefill_seconds);
}

TEST_F(SchedulerTest, AConversationGoesOnWhereTheCacheEnds) {
  const auto scheduler = start(2);
  auto tokens = prompt(1, 100);
  const Result first = one(*scheduler, job(tokens, 10));
  tokens.insert(tokens.end(), first.tokens.begin(), first.tokens.end());
  const auto more = prompt(2, 20);
  tokens.insert(tokens.end(), more.begin(), more.end());
  const Result other = one(*scheduler, job(prompt(3, 50)));
  EXPECT_EQ(other.ending.cached_tokens, 0u);
  const Result second = one(*scheduler, job(tokens, 10));
  EXPECT_EQ(second.ending.cached_tokens, 109u) << "the last token of an answer is not computed until something follows";
  EXPECT_EQ(second, one(*start(1), job(tokens, 10))) << "as without a cache";
  EXPECT_EQ(scheduler->load().cached_tokens, 109u);
  EXPECT_EQ(scheduler->load().kept, 2u);
}

TEST_F(SchedulerTest, TheSamePromptAgainComputesItsLastTokenOnly) {
  const auto scheduler = start(1);
  const Result first = one(*scheduler, job(prompt(1, 80)));
  const Result again = one(*scheduler, job(prompt(1, 80)));
  EXPECT_EQ(again.ending.cached_tokens, 79u);
  EXPECT_EQ(first, again);
}

TEST_F(SchedulerTest, AnswersToOnePromptShareIt) {
  const auto scheduler = start(3);
  std::vector<Job> jobs(3, job(prompt(1, 200), 5));
  const auto results = read(*scheduler->submit(jobs));
  EXPECT_EQ(results[0].ending.cached_tokens, 0u);
  for (const std::size_t i : {1u, 2u}) {
    EXPECT_EQ(results[i].ending.cached_tokens, 199u);
    EXPECT_EQ(results[i], results[0]);
  }
}

TEST_F(SchedulerTest, ASmallPoolServesOneAfterTheOther) {
  // 6 blocks of 64: two answers of 160 tokens at a time, though five may run.
  const auto scheduler = start(5, {}, 384, 384);
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < 8; ++i) jobs.push_back(job(prompt(i, 150), 10));
  const auto results = read(*scheduler->submit(jobs));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(results[i], one(*start(1), jobs[i]));
  EXPECT_EQ(scheduler->load().blocks, 6u);
  EXPECT_GT(scheduler->load().evicted, 0u);
  EXPECT_EQ(start(1, {}, 512, 128)->context(), 128u) << "an answer cannot be longer than the pool";
}

TEST_F(SchedulerTest, StopStringsEndTokensAndLimitsEndAnAnswer) {
  const auto scheduler = start(1);
  const Result free = one(*scheduler, job(prompt(5, 30), 30));
  ASSERT_GT(free.text.size(), 12u);
  Job stopped = job(prompt(5, 30), 30);
  const std::string stop = free.text.substr(8, 4);
  stopped.stops = {stop};
  const Result result = one(*scheduler, stopped);
  EXPECT_EQ(result.text, free.text.substr(0, free.text.find(stop)));
  EXPECT_EQ(result.ending.finish, Finish::stop);
  EXPECT_LT(result.ending.generated_tokens, 30u);
  // As many tokens as the context has room for.
  const Result full = one(*start(1, {}, 64), job(prompt(5, 60), 100));
  EXPECT_EQ(full.ending.finish, Finish::length);
  EXPECT_EQ(full.ending.generated_tokens, 4u);
}

TEST_F(SchedulerTest, SeedsMakeSamplesThatCanBeRepeated) {
  const auto scheduler = start(3);
  const auto sample = [&](std::uint64_t seed) {
    Job j = job(prompt(1, 20), 12);
    j.sampler.temperature = 1.5;
    j.sampler.seed = seed;
    return j;
  };
  std::vector<Job> jobs{sample(1), sample(2), sample(1)};
  const auto results = read(*scheduler->submit(jobs));
  EXPECT_EQ(results[0], results[2]);
  EXPECT_NE(results[0].tokens, results[1].tokens);
}

TEST_F(SchedulerTest, ProbabilitiesAreOfTheChosenTokens) {
  const auto scheduler = start(1);
  Job j = job(prompt(1, 20), 3);
  j.log_probabilities = 2;
  std::vector<Job> jobs{j};
  const auto reply = scheduler->submit(std::move(jobs));
  std::size_t tokens = 0;
  while (!reply->done()) {
    const auto event = reply->next(60s);
    ASSERT_TRUE(event);
    const auto* piece = std::get_if<Piece>(&event->what);
    if (piece == nullptr) continue;
    for (const auto& p : piece->tokens) {
      ASSERT_EQ(p.top.size(), 2u);
      EXPECT_EQ(p.chosen.token, p.top[0].token) << "greedy";
      EXPECT_LE(p.top[1].log_probability, p.top[0].log_probability);
      EXPECT_LT(p.top[0].log_probability, 0);
      ++tokens;
    }
  }
  EXPECT_EQ(tokens, 3u);
}

TEST_F(SchedulerTest, ReadersThatStallHoldUpNobodyElse) {
  const auto scheduler = start(2);
  Job long_job = job(prompt(1, 10), 200);
  long_job.log_probabilities = 20;  // fills the reply within some fifty tokens
  std::vector<Job> jobs{long_job};
  const auto stalled = scheduler->submit(std::move(jobs));
  const Result other = one(*scheduler, job(prompt(2, 10), 100));
  EXPECT_EQ(other.ending.generated_tokens, 100u);
  EXPECT_EQ(scheduler->load().finished[static_cast<std::size_t>(Finish::length)], 1u)
      << "the stalled one has not ended";
  EXPECT_EQ(read(*stalled).front().ending.generated_tokens, 200u);
}

TEST_F(SchedulerTest, WhoLeavesFreesTheSequence) {
  const auto scheduler = start(1);
  std::vector<Job> jobs{job(prompt(1, 10), 400)};
  const auto left = scheduler->submit(jobs);
  ASSERT_TRUE(left->next(60s));
  const auto waiting = scheduler->submit(jobs);
  waiting->cancel();
  left->cancel();
  const Result next = one(*scheduler, job(prompt(2, 10), 2));
  EXPECT_EQ(next.ending.finish, Finish::length);
  EXPECT_EQ(read(*left).front().ending.finish, Finish::cancelled);
  EXPECT_EQ(read(*waiting).front().ending.finish, Finish::cancelled);
}

TEST_F(SchedulerTest, WhatTakesTooLongEnds) {
  const auto scheduler = start(1, {.timeout = 100ms}, 4096);
  std::vector<Job> jobs{job(prompt(1, 10), 4000), job(prompt(2, 10), 4000)};
  const auto results = read(*scheduler->submit(std::move(jobs)));
  EXPECT_EQ(results[0].ending.finish, Finish::timed_out);
  EXPECT_EQ(results[1].ending.finish, Finish::timed_out) << "its wait counts";
}

TEST_F(SchedulerTest, RefusesWhatItCannotTake) {
  const auto scheduler = start(1, {.queue = 2}, 64);
  const auto why = [&](std::vector<Job> jobs) -> std::optional<Refused::Why> {
    try {
      scheduler->submit(std::move(jobs));
    } catch (const Refused& refusal) {
      return refusal.why();
    }
    return std::nullopt;
  };
  EXPECT_EQ(why({job(prompt(1, 64))}), Refused::Why::too_long);
  EXPECT_EQ(why({job(prompt(1, 5)), job(prompt(2, 5)), job(prompt(3, 5))}), Refused::Why::busy);
  EXPECT_EQ(scheduler->load().refused, 3u);
  EXPECT_THROW(scheduler->submit({job({})}), Error);
  Job hot = job(prompt(1, 5));
  hot.sampler.temperature = -1;
  EXPECT_THROW(scheduler->submit({hot}), Error);
  scheduler->drain();
  EXPECT_EQ(why({job(prompt(1, 5))}), Refused::Why::stopping);
}

/// A token that the model refuses, among others' rows: at once, in a second chunk, and while others generate.
TEST_F(SchedulerTest, AnErrorOfTheModelEndsItsOwnAnswerOnly) {
  const auto scheduler = start(4);
  std::vector<Job> jobs{job(prompt(1, 40), 30), job(prompt(2, 300), 10), job(prompt(3, 20), 10),
                        job(prompt(4, 300), 10)};
  std::vector<Job> good{jobs[0], jobs[3]};
  jobs[1].prompt[280] = 1 << 30;
  jobs[2].prompt[5] = 1 << 30;
  const auto results = read(*scheduler->submit(jobs));
  for (const std::size_t bad : {1u, 2u}) {
    EXPECT_EQ(results[bad].ending.finish, Finish::failed);
    EXPECT_THAT(results[bad].ending.error, testing::HasSubstr("token 1073741824 is outside the vocabulary"));
    EXPECT_EQ(results[bad].text, "");
  }
  EXPECT_EQ(results[0], one(*start(1), good[0]));
  EXPECT_EQ(results[3], one(*start(1), good[1]));
  EXPECT_EQ(scheduler->load().finished[static_cast<std::size_t>(Finish::failed)], 2u);
  // What was computed before the error is kept, and is right.
  Job again = jobs[1];
  again.prompt[280] = 7;
  const Result after = one(*scheduler, again);
  EXPECT_EQ(after.ending.cached_tokens, 256u);
  EXPECT_EQ(after, one(*start(1), again));
}

TEST_F(SchedulerTest, DrainingFinishesWhatWasAccepted) {
  const auto scheduler = start(1);
  std::vector<Job> jobs{job(prompt(1, 10), 20), job(prompt(2, 10), 20)};
  const auto reply = scheduler->submit(std::move(jobs));
  scheduler->drain();
  for (const Result& result : read(*reply)) EXPECT_EQ(result.ending.finish, Finish::length);
  EXPECT_TRUE(scheduler->idle());
}

TEST_F(SchedulerTest, StoppingEndsEverything) {
  const auto scheduler = start(1, {}, 4096);
  std::vector<Job> jobs{job(prompt(1, 10), 4000), job(prompt(2, 10), 4000)};
  const auto reply = scheduler->submit(std::move(jobs));
  ASSERT_TRUE(reply->next(60s));
  scheduler->stop();
  for (const Result& result : read(*reply)) EXPECT_EQ(result.ending.finish, Finish::cancelled);
  EXPECT_TRUE(scheduler->idle());
}

}  // namespace
}  // namespace kvant::server
