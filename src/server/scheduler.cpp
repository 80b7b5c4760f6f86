#include "server/scheduler.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "kernels/matmul/matmul.h"

namespace kvant::server {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kFewRows = kernels::Matmul::kDecodeRows;
/// How often it looks whether readers have caught up when nothing else is to
/// do.
constexpr auto kNap = 5ms;

}  // namespace

/// An answer in the making. Its sequence holds a prefix of Slots::tokens; the
/// rest is to be computed.
struct Scheduler::Running {
  Waiting request;
  int sequence;
  std::size_t cached;
  std::size_t prompt_tokens;
  engine::Sampler sampler;
  Answer answer;
  std::size_t generated = 0;
  bool ended = false;
  double prefill_seconds = 0;
  Stopwatch watch;  ///< since it began, and from its first token on since that

  Running(Waiting waiting, const Slots::Place& place, const tokenizer::Tokenizer& tokenizer)
      : request(std::move(waiting)),
        sequence(place.sequence),
        cached(place.cached),
        prompt_tokens(request.job.prompt.size()),
        sampler(request.job.sampler),
        answer(tokenizer, request.job.stops, !request.job.continues) {}
};

Scheduler::Scheduler(engine::Engine& engine, cache::KvCache cache, const Options& options)
    : engine_(engine),
      cache_(std::move(cache)),
      usage_(cache_.usage()),
      context_(std::min(cache_.config().capacity, cache_.blocks() * cache::KvCache::kBlockTokens)),
      options_(options),
      slots_(cache_, options.running) {
  KVANT_CHECK(options.prompt_step >= 1 && options.prompt_step <= model::Transformer::kMaxRows,
              ErrorCode::invalid_argument, "prompt step is {}, expected 1 to {}", options.prompt_step,
              model::Transformer::kMaxRows);
  count_sequences();
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Scheduler::~Scheduler() { stop(); }

void Scheduler::stop() {
  drain();
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  for (auto& running : running_) {
    if (!running->ended) finish(*running, Finish::cancelled);
  }
  running_.clear();
  {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
  }
  run_work();  // what came before
  const std::scoped_lock lock(mutex_);
  for (const Waiting& waiting : queue_) waiting.reply->end(waiting.choice, {.finish = Finish::cancelled});
  queue_.clear();
  load_.waiting = 0;
}

std::shared_ptr<Reply> Scheduler::submit(std::vector<Job> jobs) {
  for (Job& job : jobs) {
    KVANT_CHECK(!job.prompt.empty(), ErrorCode::invalid_argument, "the prompt is empty");
    KVANT_CHECK(job.max_tokens > 0, ErrorCode::invalid_argument, "no token is asked for");
    if (job.prompt.size() >= context_) {
      throw Refused(Refused::Why::too_long, fmt::format("the prompt has {} tokens, the context holds {} and an answer "
                                                        "needs one",
                                                        job.prompt.size(), context_));
    }
    job.max_tokens = std::min(job.max_tokens, context_ - job.prompt.size());
    engine::Sampler check(job.sampler);
  }
  auto reply = std::make_shared<Reply>(jobs.size());
  {
    const std::scoped_lock lock(mutex_);
    if (draining_) throw Refused(Refused::Why::stopping, "the server is stopping");
    if (queue_.size() + jobs.size() > options_.queue) {
      load_.refused += jobs.size();
      throw Refused(Refused::Why::busy, fmt::format("{} requests wait already, {} may", queue_.size(), options_.queue));
    }
    const auto deadline = Clock::now() + options_.timeout;
    for (std::size_t i = 0; i < jobs.size(); ++i) queue_.push_back({std::move(jobs[i]), reply, i, deadline});
    load_.waiting = queue_.size();
  }
  changed_.notify_one();
  return reply;
}

std::vector<Slots::Info> Scheduler::slots() {
  std::vector<Slots::Info> result;
  between_steps([&] { result = slots_.list(); });
  return result;
}

std::size_t Scheduler::save(int sequence, const std::filesystem::path& path) {
  std::size_t tokens = 0;
  between_steps([&] { tokens = slots_.save(sequence, path); });
  return tokens;
}

std::size_t Scheduler::restore(int sequence, const std::filesystem::path& path) {
  std::size_t tokens = 0;
  between_steps([&] { tokens = slots_.restore(sequence, path, engine_.tokenizer().size()); });
  return tokens;
}

void Scheduler::between_steps(const std::function<void()>& work) {
  std::packaged_task<void()> task(work);
  std::future<void> done = task.get_future();
  {
    const std::scoped_lock lock(mutex_);
    if (stopped_) throw Refused(Refused::Why::stopping, "the server is stopping");
    work_.push_back(&task);
  }
  changed_.notify_one();
  done.get();
}

void Scheduler::run_work() {
  for (;;) {
    std::packaged_task<void()>* task = nullptr;
    {
      const std::scoped_lock lock(mutex_);
      count_sequences();
      if (work_.empty()) return;
      task = work_.front();
      work_.pop_front();
    }
    (*task)();
  }
}

void Scheduler::drain() {
  const std::scoped_lock lock(mutex_);
  draining_ = true;
}

bool Scheduler::draining() const {
  const std::scoped_lock lock(mutex_);
  return draining_;
}

bool Scheduler::idle() const {
  const std::scoped_lock lock(mutex_);
  return load_.running == 0 && load_.waiting == 0;
}

Load Scheduler::load() const {
  const std::scoped_lock lock(mutex_);
  return load_;
}

void Scheduler::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    run_work();
    drop_ended();
    admit();
    if (running_.empty()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, stop, [this] { return !queue_.empty() || !work_.empty(); });
    } else {
      step();
    }
  }
}

/// Ends answers that nobody waits for any more or that took too long, running
/// and waiting ones.
void Scheduler::drop_ended() {
  const auto now = Clock::now();
  const auto reason = [now](const Waiting& waiting) -> std::optional<Finish> {
    if (waiting.reply->cancelled()) return Finish::cancelled;
    if (now >= waiting.deadline) return Finish::timed_out;
    return std::nullopt;
  };
  for (auto& running : running_) {
    if (running->ended) continue;
    if (const auto why = reason(running->request)) finish(*running, *why);
  }
  std::erase_if(running_, [](const auto& running) { return running->ended; });

  const std::scoped_lock lock(mutex_);
  std::erase_if(queue_, [&](const Waiting& waiting) {
    const auto why = reason(waiting);
    if (!why) return false;
    waiting.reply->end(waiting.choice, {.finish = *why, .prompt_tokens = waiting.job.prompt.size()});
    ++load_.finished[static_cast<std::size_t>(*why)];
    return true;
  });
  load_.waiting = queue_.size();
}

/// Begins answers from the queue, first come, first served, as long as there
/// are sequences.
void Scheduler::admit() {
  const std::scoped_lock lock(mutex_);
  while (!queue_.empty()) {
    const Job& job = queue_.front().job;
    const auto place = slots_.take(job.prompt, job.prompt.size() + job.max_tokens);
    if (!place) break;
    load_.prompt_tokens += job.prompt.size();
    load_.cached_tokens += place->cached;
    running_.push_back(std::make_unique<Running>(std::move(queue_.front()), *place, engine_.tokenizer()));
    queue_.pop_front();
  }
  load_.waiting = queue_.size();
  count_sequences();
}

void Scheduler::count_sequences() {
  load_.running = slots_.running();
  load_.kept = slots_.kept();
  load_.evicted = slots_.evicted();
  load_.blocks = cache_.blocks();
  load_.free_blocks = cache_.free_blocks();
}

/// Runs the next tokens of the running answers, all rows of the model that this
/// step takes.
void Scheduler::step() {
  std::vector<Share> shares = plan();
  if (shares.empty()) {  // nobody reads what is there
    std::this_thread::sleep_for(kNap);
    return;
  }
  // Which kernels compute a row depends on how many rows its pass has: few rows
  // stay among themselves.
  const auto many =
      std::stable_partition(shares.begin(), shares.end(), [](const Share& s) { return s.count <= kFewRows; });
  for (auto begin = shares.begin(); begin != shares.end();) {
    const bool few = begin < many;
    const std::size_t limit = few ? kFewRows : model::Transformer::kMaxRows;
    std::size_t rows = 0;
    auto end = begin;
    for (; end != (few ? many : shares.end()) && rows + end->count <= limit; ++end) rows += end->count;
    pass({begin, end});
    begin = end;
  }
}

/// One token of each answer that has begun, and prompt tokens up to a limit,
/// taking prompts in turn.
std::vector<Scheduler::Share> Scheduler::plan() {
  std::vector<Share> shares;
  std::size_t left = options_.prompt_step;
  const auto takes_turn = [&](const std::unique_ptr<Running>& running) {
    if (running->generated > 0 && running->request.reply->full()) return false;
    const std::size_t held = cache_.length(running->sequence);
    const std::size_t rest = slots_.tokens(running->sequence).size() - held;
    const std::size_t count = std::min(rest, options_.prompt_step - held % options_.prompt_step);
    const bool prompt = rest > 1;
    if (prompt && count > left) return false;
    if (prompt) left -= count;
    shares.push_back({running.get(), count});
    return prompt;
  };
  std::vector<std::unique_ptr<Running>> waited, went;
  for (auto& running : running_) (takes_turn(running) ? went : waited).push_back(std::move(running));
  running_ = std::move(waited);
  std::move(went.begin(), went.end(), std::back_inserter(running_));
  return shares;
}

/// Runs some rows through the model. An error ends the answers that cause it,
/// alone.
void Scheduler::pass(std::span<const Share> shares) {
  std::vector<model::Input> inputs;
  std::vector<std::size_t> held;
  std::size_t rows = 0;
  for (const Share& share : shares) {
    const int sequence = share.running->sequence;
    const std::span<const Token> tokens = slots_.tokens(sequence);
    const std::size_t length = cache_.length(sequence);
    const bool last = length + share.count == tokens.size();
    inputs.push_back({sequence, tokens.subspan(length, share.count), last ? 1u : 0u});
    held.push_back(length);
    rows += share.count;
  }
  MatView<const float> logits;
  try {
    logits = engine_.transformer().forward(cache_, inputs);
  } catch (const std::exception& e) {
    for (std::size_t i = 0; i < inputs.size(); ++i) cache_.truncate(inputs[i].sequence, held[i]);
    if (shares.size() == 1) return finish(*shares.front().running, Finish::failed, e.what());
    for (std::size_t i = 0; i < shares.size(); ++i) pass(shares.subspan(i, 1));
    return;
  }
  {
    const std::scoped_lock lock(mutex_);
    ++load_.passes;
    load_.rows += rows;
    load_.generated_tokens += logits.rows;
  }
  sample(shares, logits);
}

/// Chooses the next token of each answer whose tokens have all been computed.
/// logits [such answers, vocabulary]
void Scheduler::sample(std::span<const Share> shares, MatView<const float> logits) {
  struct Choice {
    Running* running;
    Token token = -1;
    std::optional<engine::LogProbabilities> probabilities = {};
    std::string error = {};
  };
  std::vector<Choice> choices;
  for (const Share& share : shares) {
    Running& running = *share.running;
    if (cache_.length(running.sequence) == slots_.tokens(running.sequence).size()) choices.push_back({&running});
  }
  engine_.pool().run(choices.size(), [&](std::size_t i, int) {
    Choice& choice = choices[i];
    Running& running = *choice.running;
    try {
      choice.token = running.sampler.sample(logits.row(i), slots_.tokens(running.sequence));
      if (const auto top = running.request.job.log_probabilities) {
        choice.probabilities = engine::log_probabilities(logits.row(i), choice.token, *top);
      }
    } catch (const std::exception& e) {
      choice.error = e.what();
    }
  });
  for (Choice& choice : choices) {
    if (choice.token < 0) {
      finish(*choice.running, Finish::failed, choice.error);
    } else {
      deliver(*choice.running, choice.token, std::move(choice.probabilities));
    }
  }
}

void Scheduler::deliver(Running& running, Token token, std::optional<engine::LogProbabilities> probabilities) {
  if (running.generated == 0) {
    running.prefill_seconds = running.watch.seconds();
    running.watch.restart();
  }
  const Job& job = running.request.job;
  if (job.stop_at_end && engine_.tokenizer().is_end(token)) return finish(running, Finish::stop);
  slots_.tokens(running.sequence).push_back(token);
  ++running.generated;
  running.request.reply->push(running.request.choice, probabilities
                                                          ? running.answer.push(token, std::move(*probabilities))
                                                          : running.answer.push(token));
  if (running.answer.stopped()) return finish(running, Finish::stop);
  if (running.generated == job.max_tokens) finish(running, Finish::length);
}

void Scheduler::finish(Running& running, Finish how, std::string error) {
  Ending ending;
  ending.finish = how;
  ending.error = std::move(error);
  ending.prompt_tokens = running.prompt_tokens;
  ending.cached_tokens = running.cached;
  ending.generated_tokens = running.generated;
  ending.prefill_seconds = running.generated > 0 ? running.prefill_seconds : running.watch.seconds();
  ending.decode_seconds = running.generated > 0 ? running.watch.seconds() : 0;
  running.ended = true;
  slots_.give_back(running.sequence);
  {
    const std::scoped_lock lock(mutex_);
    ++load_.finished[static_cast<std::size_t>(how)];
    count_sequences();
  }
  Reply& reply = *running.request.reply;
  reply.push(running.request.choice, running.answer.finish());
  reply.end(running.request.choice, std::move(ending));
}

}  // namespace kvant::server
