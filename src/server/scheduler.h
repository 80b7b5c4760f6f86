#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "server/reply.h"
#include "server/slots.h"

namespace kvant::server {

/// One answer to make.
struct Job {
  std::vector<Token> prompt;
  std::size_t max_tokens = 16;  ///< at least 1; no more than the context has room for
  engine::SamplerOptions sampler = {};
  std::optional<std::size_t> log_probabilities = {};  ///< of how many likeliest tokens beside the chosen one
  std::vector<std::string> stops = {};
  bool stop_at_end = true;  ///< end tokens end the answer
  bool continues = false;   ///< the answer continues the prompt's text (see StreamDecoder)
};

/// A request that is not accepted.
class Refused : public std::runtime_error {
 public:
  enum class Why {
    too_long,  ///< the prompt does not fit
    busy,      ///< too many wait already
    stopping,  ///< the server takes no more
  };
  Refused(Why why, const std::string& message) : std::runtime_error(message), why_(why) {}
  Why why() const noexcept { return why_; }

 private:
  Why why_;
};

/// What a scheduler has done and is doing.
struct Load {
  std::size_t running = 0;                  ///< answers being made
  std::size_t waiting = 0;                  ///< in the queue
  std::size_t kept = 0;                     ///< conversations kept in the cache
  std::uint64_t evicted = 0;                ///< of these, that gave way
  std::size_t blocks = 0, free_blocks = 0;  ///< of the cache
  std::uint64_t prompt_tokens = 0, cached_tokens = 0,
                generated_tokens = 0;  ///< of all answers that have begun
  std::uint64_t passes = 0, rows = 0;  ///< of the model
  std::uint64_t finished[5] = {};      ///< by Finish
  std::uint64_t refused = 0;           ///< for want of room in the queue
};

/// Makes answers, several at a time, on a thread of its own, to which engine
/// and cache belong. Each step runs the next token of every answer that has
/// begun and a bounded number of prompt tokens, prompts in turn: a long prompt
/// neither stops running answers nor other prompts.
///
/// A prompt is cut where its positions are multiples of prompt_step, and rows
/// of up to Matmul::kDecodeRows share passes only with each other: which
/// kernels compute a token does not depend on what else is running. In
/// reference precision a result then depends on the request alone; in fast
/// precision also on how much of its prompt was found in the cache.
class Scheduler {
 public:
  struct Options {
    std::size_t running = 4;                         ///< answers that are made at a time
    std::size_t queue = 64;                          ///< answers that may wait
    std::size_t prompt_step = 256;                   ///< tokens of prompts in a step; at most Transformer::kMaxRows
    std::chrono::milliseconds timeout{10 * 60'000};  ///< of an answer, waiting in the queue included
  };
  /// The cache has more sequences than answers run at a time: the others are
  /// for conversations that are kept. The engine must outlive this object, and
  /// nobody else may use its transformer and pool meanwhile.
  Scheduler(engine::Engine& engine, cache::KvCache cache, const Options& options);
  /// As stop().
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Tokens that prompt and answer may have together: as many as a sequence and
  /// as the cache can hold.
  std::size_t context() const noexcept { return context_; }
  /// Puts the answers to a request into the queue, all or none; answer i is
  /// choice i. Throws Refused; invalid_argument on an empty prompt or sampler
  /// options out of range.
  std::shared_ptr<Reply> submit(std::vector<Job> jobs);
  // Between two steps; answers wait that long.

  std::vector<Slots::Info> slots();
  /// As Slots::save and Slots::restore.
  std::size_t save(int sequence, const std::filesystem::path& path);
  std::size_t restore(int sequence, const std::filesystem::path& path);

  /// From now on nothing is accepted; what is accepted goes on.
  void drain();
  /// Accepts nothing any more and ends what still runs or waits; returns when
  /// all of it has ended.
  void stop();
  bool draining() const;
  /// Whether nothing runs or waits.
  bool idle() const;
  Load load() const;
  const cache::CacheConfig& cache_config() const noexcept { return cache_.config(); }
  /// As the cache counts, which takes no part in what runs.
  cache::CacheUsage cache_usage() const { return usage_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    Job job;
    std::shared_ptr<Reply> reply;
    std::size_t choice;
    Clock::time_point deadline;
  };
  struct Running;
  /// Next tokens of an answer that go through the model in one pass.
  struct Share {
    Running* running;
    std::size_t count;
  };

  /// Runs `work` on the scheduler's thread and waits for it.
  void between_steps(const std::function<void()>& work);
  void run_work();
  void run(const std::stop_token& stop);
  void admit();
  void drop_ended();
  void step();
  std::vector<Share> plan();
  void pass(std::span<const Share> shares);
  void sample(std::span<const Share> shares, MatView<const float> logits);
  void deliver(Running& running, Token token, std::optional<engine::LogProbabilities> probabilities);
  void finish(Running& running, Finish how, std::string error = {});
  /// Brings load_ up to date with the sequences; mutex_ is held.
  void count_sequences();

  engine::Engine& engine_;
  cache::KvCache cache_;
  cache::CacheUsage usage_;
  std::size_t context_;
  Options options_;
  Slots slots_;
  std::vector<std::unique_ptr<Running>> running_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Waiting> queue_;
  std::deque<std::packaged_task<void()>*> work_;  ///< whoever gave it waits for it
  bool draining_ = false, stopped_ = false;
  Load load_;
  std::jthread thread_;  ///< last: it uses all of the above
};

}  // namespace kvant::server
