// The threads that share one call, and the process-wide pool they come from.
//
// A call runs one function on all threads of a Team (the caller is thread 0). Inside, for_each()
// hands out pieces from a counter, whoever is free takes the next, and ends in a barrier: a thread
// that another process delays takes fewer pieces and stops nobody until the last one. Waiting spins
// for some microseconds (two threads of one socket meet in well under one), then yields, then
// sleeps in the kernel: an idle pool costs no CPU. No OpenMP: one runtime in the host process is
// enough, and after fork() the child makes a new pool.
#pragma once

#include <atomic>
#include <cstdint>

namespace gpt2fast {

inline constexpr int kMaxThreads = 256;

class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}
  int threads() const { return threads_; }

  // Calls f(piece) for every piece in [0, n), each on one of the threads, and returns on every
  // thread when all are done.
  template <class Function>
  void for_each(int n, Function f) {
    if (threads_ == 1) {
      for (int i = 0; i < n; ++i) f(i);
      return;
    }
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n;) f(i);
    barrier();
  }

 private:
  void barrier();

  const int threads_;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// Whether the caller is running inside a team: a Python signal handler that calls the model again,
// say. It must not ask for another team of more than one, which would wait for its own.
bool inside_team();

// Runs f(context, thread) for each thread of the team; calls from several threads take turns in
// order of arrival. A team of one runs at once on the caller. Throws std::bad_alloc or
// std::system_error if threads cannot be started.
void run_team(Team& team, void (*f)(void* context, int thread), void* context);

}  // namespace gpt2fast
