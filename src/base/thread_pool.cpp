#include "base/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"

namespace kvant {
namespace {

constexpr int kSpins = 2000;  // some 20 microseconds of pauses: longer than the gap between two kernels of one layer

void pause_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The indexes that one thread starts with: it takes them from the front, threads without work from the back. So each
/// thread goes through consecutive indexes, that is, through consecutive memory.
struct alignas(64) Span {
  std::atomic<std::uint64_t> ends{0};  // front in the low half, back in the high one

  void set(std::size_t front, std::size_t back) noexcept {
    ends.store(std::uint64_t{back} << 32 | front, std::memory_order_relaxed);
  }
  bool take(bool from_front, std::size_t& index) noexcept {
    std::uint64_t old = ends.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t front = old & 0xffffffffu, back = old >> 32;
      if (front >= back) return false;
      index = from_front ? front : back - 1;
      const std::uint64_t left = from_front ? old + 1 : old - (std::uint64_t{1} << 32);
      if (ends.compare_exchange_weak(old, left, std::memory_order_relaxed)) return true;
    }
  }
};

}  // namespace

struct ThreadPool::State {
  using Task = FunctionRef<void(std::size_t, int)>;

  alignas(64) std::atomic<std::uint32_t> generation{0};  // raised once per run; workers wait on it
  alignas(64) std::atomic<int> busy{0};                  // workers that have not finished this run
  const Task* task = nullptr;
  std::vector<Span> spans;  // one for each thread
  bool stopping = false;
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::jthread> workers;

  explicit State(int threads) : spans(static_cast<std::size_t>(threads)) {}

  void work(int thread) noexcept {
    const auto self = static_cast<std::size_t>(thread);
    try {
      for (std::size_t i = 0; i < spans.size(); ++i) {
        Span& span = spans[(self + i) % spans.size()];
        for (std::size_t index = 0; span.take(i == 0, index);) (*task)(index, thread);
      }
    } catch (...) {
      for (Span& span : spans) span.set(0, 0);
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }

  void worker_loop(int thread) noexcept {
    std::uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; ++i) pause_cpu();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stopping) return;
      work(thread);
      if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) busy.notify_one();
    }
  }

  void start() noexcept {
    busy.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
  }
};

ThreadPool::ThreadPool(int threads) {
  KVANT_CHECK(threads >= 0 && threads <= 1024, ErrorCode::invalid_argument, "threads: {}, expected 1 to 1024", threads);
  const int total = threads == 0 ? available_threads() : threads;
  state_ = std::make_unique<State>(total);
  for (int i = 1; i < total; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->worker_loop(i); });
}

ThreadPool::~ThreadPool() {
  state_->stopping = true;
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  state_->workers.clear();  // joins
}

int ThreadPool::threads() const noexcept { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(std::size_t count, FunctionRef<void(std::size_t, int)> task) {
  if (count == 0) return;
  State& s = *state_;
  if (s.workers.empty() || count == 1) {
    for (std::size_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  s.task = &task;
  KVANT_ASSERT(count <= 0xffffffffu);
  const std::size_t threads = s.spans.size();
  for (std::size_t i = 0; i < threads; ++i) s.spans[i].set(count * i / threads, count * (i + 1) / threads);
  s.start();
  s.work(0);
  for (int left = s.busy.load(std::memory_order_acquire), spins = 0; left != 0;
       left = s.busy.load(std::memory_order_acquire)) {
    if (++spins < kSpins) {
      pause_cpu();
    } else {
      s.busy.wait(left, std::memory_order_acquire);
    }
  }
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace kvant
