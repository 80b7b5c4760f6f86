#include "sweep/ranks.h"

#ifdef KVANT_MPI

#include <fmt/format.h>
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "sweep/remote.h"

namespace kvant::sweep {
namespace {

constexpr int kRequest = 1, kReply = 2;  ///< tags
/// Waits sleep: those of MPI would take a whole processor.
constexpr auto kPoll = std::chrono::milliseconds(1);

/// Whether mpirun has started this process, which alone would only take time to get MPI ready.
bool started_together() {
  const char* const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"};
  for (const char* variable : variables) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

struct Message {
  int rank = 0;
  std::vector<std::uint8_t> bytes;
};

void send(int rank, int tag, const std::vector<std::uint8_t>& bytes) {
  MPI_Send(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, rank, tag, MPI_COMM_WORLD);
}

Message receive(int rank, int tag) {
  MPI_Status status;
  for (int there = 0; there == 0;) {
    MPI_Iprobe(rank, tag, MPI_COMM_WORLD, &there, &status);
    if (there == 0) std::this_thread::sleep_for(kPoll);
  }
  int size = 0;
  MPI_Get_count(&status, MPI_BYTE, &size);
  Message message{status.MPI_SOURCE, std::vector<std::uint8_t>(static_cast<std::size_t>(size))};
  MPI_Recv(message.bytes.data(), size, MPI_BYTE, status.MPI_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  return message;
}

Reply ask(const Request& request) {
  send(0, kRequest, pack(request));
  return unpack_reply(receive(0, kReply).bytes);
}

}  // namespace

struct Ranks::Impl {
  int rank = 0, count = 1;
  int ended = 0;  ///< of the other ranks, on rank 0
  std::string error;

  /// Takes one request of another rank and replies to it; without a ledger only that all is over.
  void serve_one(Ledger* ledger, bool stop) {
    const Message message = receive(MPI_ANY_SOURCE, kRequest);
    const Request request = unpack_request(message.bytes);
    if (request.what == Request::What::end) {
      ++ended;
      if (!request.text.empty() && error.empty()) error = fmt::format("rank {}: {}", message.rank, request.text);
    }
    Reply reply;
    reply.stop = ledger == nullptr || (stop && request.what == Request::What::claim);
    if (!reply.stop) reply = answer(*ledger, request);
    send(message.rank, kReply, pack(reply));
  }
};

Ranks::Ranks() : impl_(std::make_unique<Impl>()) {
  if (!started_together()) return;
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  KVANT_CHECK(level >= MPI_THREAD_FUNNELED, ErrorCode::unsupported, "MPI: no support of threads beside it");
  MPI_Comm_rank(MPI_COMM_WORLD, &impl_->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &impl_->count);
}

Ranks::~Ranks() {
  int ready = 0;
  MPI_Initialized(&ready);
  if (ready == 0) return;
  while (first() && impl_->ended < count() - 1) impl_->serve_one(nullptr, true);
  MPI_Finalize();
}

int Ranks::count() const noexcept { return impl_->count; }
bool Ranks::first() const noexcept { return impl_->rank == 0; }

bool Ranks::serve(Ledger& ledger, const std::function<bool()>& work) {
  if (count() == 1) return work();
  std::atomic<bool> completed{true};
  std::exception_ptr failure;
  // Only this thread may call MPI.
  std::thread worker([&] {
    try {
      completed = work();
    } catch (...) {
      failure = std::current_exception();
      completed = false;
    }
  });
  while (impl_->ended < count() - 1) impl_->serve_one(&ledger, !completed);
  worker.join();
  if (failure) std::rethrow_exception(failure);
  KVANT_CHECK(impl_->error.empty(), ErrorCode::io, "{}", impl_->error);
  return completed;
}

void Ranks::join(const std::function<void(Ledger& ledger)>& work) {
  RemoteLedger ledger(ask);
  Request end;
  end.what = Request::What::end;
  try {
    work(ledger);
  } catch (const std::exception& e) {
    end.text = e.what();
  }
  ask(end);
}

}  // namespace kvant::sweep

#else

namespace kvant::sweep {

struct Ranks::Impl {};

Ranks::Ranks() = default;
Ranks::~Ranks() = default;
int Ranks::count() const noexcept { return 1; }
bool Ranks::first() const noexcept { return true; }
bool Ranks::serve(Ledger&, const std::function<bool()>& work) { return work(); }
void Ranks::join(const std::function<void(Ledger& ledger)>&) {}

}  // namespace kvant::sweep

#endif
