// The threads that share one call, and the process-wide pool they come from.
//
// A call runs one function on all threads of a Team (the caller is thread 0). Inside, for_each()
// cuts its pieces into one share per thread, and ends in a barrier. A thread works through its own
// share, so that it reads one stream of weights and finds in its caches what it wrote there before,
// and then helps with the others': one that another process delays takes fewer pieces and stops
// nobody until the last one. Waiting spins for some microseconds (two threads of one socket meet in
// well under one), then yields, then sleeps in the kernel: an idle pool costs no CPU. No OpenMP:
// one runtime in the host process is enough, and after fork() the child makes a new pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace gpt2fast {

inline constexpr int kMaxThreads = 256;

class Team {
 public:
  explicit Team(int threads) : threads_(threads), shares_(static_cast<size_t>(threads)) {}
  int threads() const { return threads_; }

  // Calls f(piece) for every piece in [0, n), each on one of the threads, and returns on every
  // thread when all are done. All threads call it, with their own number; nearby pieces go to one
  // thread.
  template <class Function>
  void for_each(int n, int thread, Function f) {
    if (threads_ == 1) {
      for (int i = 0; i < n; ++i) f(i);
      return;
    }
    const uint32_t region = generation_.load(std::memory_order_relaxed);
    for (int k = 0; k < threads_; ++k) {
      const int owner = thread + k < threads_ ? thread + k : thread + k - threads_;
      const int begin = first(n, owner), size = first(n, owner + 1) - begin;
      for (int i; (i = claim(owner, region, size)) < size;) f(begin + i);
    }
    barrier(thread);
  }

  // The longest time, in seconds, that any thread has spent at barriers beyond a short spin:
  // what the system took from the others.
  double waited() const;

 private:
  // What of a thread's share is taken: the number of the region, then how many of its pieces.
  struct alignas(64) Share {
    std::atomic<uint64_t> taken{0};
    double waited = 0;  // its owner's
  };

  int first(int n, int thread) const {
    return static_cast<int>(static_cast<int64_t>(n) * thread / threads_);
  }
  // Whoever comes first in a region, owner or helper, begins the share anew.
  int claim(int owner, uint32_t region, int size) {
    std::atomic<uint64_t>& taken = shares_[static_cast<size_t>(owner)].taken;
    uint64_t seen = taken.load(std::memory_order_relaxed);
    while (seen >> 32 != region &&
           !taken.compare_exchange_weak(seen, uint64_t{region} << 32, std::memory_order_relaxed)) {
    }
    if (seen >> 32 == region && static_cast<int>(seen & 0xffffffffu) >= size) return size;
    return static_cast<int>(taken.fetch_add(1, std::memory_order_relaxed) & 0xffffffffu);
  }
  void barrier(int thread);

  const int threads_;
  std::vector<Share> shares_;
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
