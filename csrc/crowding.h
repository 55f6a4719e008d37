// How many threads steps get while other processes take processors.
//
// A step has a barrier every 20 microseconds, and the system gives a processor back after
// milliseconds: two threads, one of them delayed, write 97 tokens/s of 124M where one alone writes
// 140. After two steps in a row, or nearly so, that waited for a quarter of their time, the next
// ones do without a thread: for four steps at first, then, as long as the first step with all of
// them waits again, for twice as long up to 0.2 seconds. That gives 130. Results do not depend on
// the number of threads.
#pragma once

#include <algorithm>
#include <atomic>

namespace gpt2fast {

class Crowding {
 public:
  // For a step at `time`, in seconds on any one clock.
  int threads(int asked, double time) const {
    if (asked == 1 || time >= until_.load(std::memory_order_relaxed)) return asked;
    return std::max(1, asked - without_.load(std::memory_order_relaxed));
  }

  // Of a step on `used` threads that ended at `time`, took `seconds` and waited for some of them.
  void note(int asked, int used, double waited, double seconds, double time) {
    if (used == 1) return;
    if (waited < seconds / 4) {
      if (calm_ < kCalm) ++calm_;
      return;
    }
    const bool again = calm_.exchange(0) < kCalm;
    hold_ = again ? std::min(std::max(2 * hold_, 4 * seconds), 0.2) : 0;
    without_ = asked - used + 1;
    until_ = time + hold_;
  }

 private:
  static constexpr int kCalm = 4;
  std::atomic<int> calm_{kCalm};  // steps since one that waited
  std::atomic<int> without_{0};
  std::atomic<double> hold_{0}, until_{0};
};

}  // namespace gpt2fast
