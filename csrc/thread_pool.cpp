#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "isa/machine.h"

namespace gpt2fast {
namespace {

constexpr int kSpins = 2000;  // some 30 microseconds
constexpr std::chrono::microseconds kBarrierPatience{2000};
constexpr std::chrono::microseconds kIdlePatience{200};  // bridges the sampling between two steps

// Waits until `word` differs from `seen`: spins, then yields, then sleeps. Returns the seconds that
// it took after the spinning.
double wait_for_change(const std::atomic<uint32_t>& word, uint32_t seen, int spins,
                       std::chrono::microseconds patience) {
  for (int i = 0; i < spins; ++i) {
    if (word.load(std::memory_order_acquire) != seen) return 0;
    relax();
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::steady_clock::now() - begin; };
  do {
    std::this_thread::yield();
    if (word.load(std::memory_order_acquire) != seen)
      return std::chrono::duration<double>(passed()).count();
  } while (passed() < patience);
  while (word.load(std::memory_order_acquire) == seen) word.wait(seen, std::memory_order_acquire);
  return std::chrono::duration<double>(passed()).count();
}

// More threads than processors: whoever spins keeps another from working.
int spins_for(int threads) {
  static const int processors = static_cast<int>(std::thread::hardware_concurrency());
  return threads > processors ? 0 : kSpins;
}

struct Job {
  void (*f)(void*, int) = nullptr;
  void* context = nullptr;
};

class Pool {
 public:
  void run(int threads, void (*f)(void*, int), void* context) {
    const Turn turn(*this);
    while (static_cast<int>(workers_.size()) < threads - 1) start_worker();
    job_ = {f, context};
    running_.store(static_cast<uint32_t>(threads - 1), std::memory_order_relaxed);
    for (int i = 0; i < threads - 1; ++i) {
      workers_[static_cast<size_t>(i)]->jobs.fetch_add(1, std::memory_order_release);
      workers_[static_cast<size_t>(i)]->jobs.notify_one();
    }
    f(context, 0);
    for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;)
      wait_for_change(running_, left, spins_for(threads), kBarrierPatience);
  }

 private:
  // A queue: calls from several threads run in order of arrival.
  class Turn {
   public:
    explicit Turn(Pool& pool) : pool_(pool) {
      std::unique_lock lock(pool_.mutex_);
      const uint64_t ticket = pool_.tickets_++;
      pool_.served_.wait(lock, [&] { return pool_.serving_ == ticket; });
    }
    ~Turn() {
      {
        const std::lock_guard lock(pool_.mutex_);
        ++pool_.serving_;
      }
      pool_.served_.notify_all();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Pool& pool_;
  };

  struct Worker {
    alignas(64) std::atomic<uint32_t> jobs{0};  // how many it has been given
  };

  void start_worker() {
    auto worker = std::make_unique<Worker>();
    workers_.reserve(workers_.size() + 1);
    const int index = static_cast<int>(workers_.size()) + 1;
    std::thread([this, index, own = worker.get()] { work(index, *own); }).detach();
    workers_.push_back(std::move(worker));
  }

  void work(int index, Worker& own) {
    for (uint32_t done = 0;; ++done) {
      wait_for_change(own.jobs, done, kSpins, kIdlePatience);
      {
        const FloatEnvironment environment;
        job_.f(job_.context, index);
      }
      if (running_.fetch_sub(1, std::memory_order_release) == 1) running_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable served_;
  uint64_t tickets_ = 0, serving_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
  Job job_;
  alignas(64) std::atomic<uint32_t> running_{0};  // helpers that have not finished the job
};

// Never destroyed: workers may sleep in it while the process exits. A forked child, which has none
// of its parent's threads, forgets it and makes its own.
std::atomic<Pool*> the_pool{nullptr};
std::mutex the_pool_mutex;

Pool& pool() {
  if (Pool* p = the_pool.load(std::memory_order_acquire)) return *p;
#if !defined(_WIN32)
  static const int registered =
      pthread_atfork([] { the_pool_mutex.lock(); }, [] { the_pool_mutex.unlock(); },
                     [] {
                       the_pool.store(nullptr, std::memory_order_release);
                       the_pool_mutex.unlock();
                     });
  static_cast<void>(registered);
#endif
  const std::lock_guard lock(the_pool_mutex);
  if (Pool* p = the_pool.load(std::memory_order_acquire)) return *p;
  auto made = std::make_unique<Pool>();
  the_pool.store(made.get(), std::memory_order_release);
  return *made.release();
}

thread_local bool inside = false;

struct Inside {
  Inside() : before(inside) { inside = true; }
  ~Inside() { inside = before; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  const bool before;
};

}  // namespace

bool inside_team() { return inside; }

void Team::barrier(int thread) {
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    // Sequentially consistent: notify_all() may skip the wake-up only if it sees that nobody
    // sleeps.
    generation_.store(generation + 1, std::memory_order_seq_cst);
    generation_.notify_all();
  } else {
    shares_[static_cast<size_t>(thread)].waited +=
        wait_for_change(generation_, generation, spins_for(threads_), kBarrierPatience);
  }
}

double Team::waited() const {
  double most = 0;
  for (const Share& share : shares_) most = std::max(most, share.waited);
  return most;
}

void run_team(Team& team, void (*f)(void*, int), void* context) {
  const FloatEnvironment environment;
  const Inside mark;
  if (team.threads() == 1)
    f(context, 0);
  else
    pool().run(team.threads(), f, context);
}

}  // namespace gpt2fast
