#pragma once
#include <cstddef>
#include <memory>
#include <type_traits>

namespace kvant {

/// A reference to a callable, without allocation; valid as long as the callable is.
template <class Signature>
class FunctionRef;
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
  // NOLINTNEXTLINE(bugprone-forwarding-reference-overload): constrained
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>) FunctionRef(F&& f)
  noexcept
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(static_cast<Args&&>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, static_cast<Args&&>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

/// A fork-join pool. The calling thread takes part; workers spin for a few microseconds, then sleep.
/// One caller at a time; a task may not start another run on the same pool.
class ThreadPool {
 public:
  /// `threads` >= 1, the caller included; 0 means one for each processor that the process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept;

  /// Calls task(index, thread) once for each index in [0, count), thread in [0, threads()), and returns when all are
  /// done. Each thread goes through consecutive indexes first, then helps the others; which thread takes which index is
  /// not fixed: results must depend on the index alone. The first exception that a task throws is rethrown here;
  /// indexes not yet started are then skipped.
  void run(std::size_t count, FunctionRef<void(std::size_t index, int thread)> task);

  /// Calls task(begin, end, thread) for consecutive ranges of at most `grain` (> 0) indexes that cover [0, count).
  /// The ranges depend on count and grain alone.
  template <class Task>
  void for_ranges(std::size_t count, std::size_t grain, Task&& task) {
    run((count + grain - 1) / grain, [&](std::size_t i, int thread) {
      const std::size_t begin = i * grain;
      task(begin, begin + grain < count ? begin + grain : count, thread);
    });
  }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvant
