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

}  // namespace

struct ThreadPool::State {
  using Task = FunctionRef<void(std::size_t, int)>;

  alignas(64) std::atomic<std::uint32_t> generation{0};  // raised once per run; workers wait on it
  alignas(64) std::atomic<std::size_t> next{0};
  alignas(64) std::atomic<int> busy{0};  // workers that have not finished this run
  const Task* task = nullptr;
  std::size_t count = 0;
  bool stopping = false;
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::jthread> workers;

  void work(int thread) noexcept {
    try {
      for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        (*task)(i, thread);
      }
    } catch (...) {
      next.store(count, std::memory_order_relaxed);
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

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  KVANT_CHECK(threads >= 0 && threads <= 1024, ErrorCode::invalid_argument, "threads: {}, expected 1 to 1024", threads);
  const int total = threads == 0 ? available_threads() : threads;
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
  s.count = count;
  s.next.store(0, std::memory_order_relaxed);
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
