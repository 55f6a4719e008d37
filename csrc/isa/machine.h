// The few machine matters outside the kernels: the floating-point environment and the hint of a
// spinning thread.
//
// FloatEnvironment sets round-to-nearest with gradual underflow for its lifetime and restores what
// it found: a host program (or a library it loaded) may run with flush-to-zero, and the numeric
// contract may not depend on that.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gpt2fast {

class FloatEnvironment {
 public:
  FloatEnvironment() : found_(read()) { write(kDefault); }
  ~FloatEnvironment() { write(found_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

  // The same in two calls, for callers without destructors: enter() returns what leave() restores.
  static uint64_t enter() {
    const uint64_t found = read();
    write(kDefault);
    return found;
  }
  static void leave(uint64_t found) { write(found); }

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kDefault =
      0x1f80;  // MXCSR: all exceptions masked, nearest, no FTZ, no DAZ
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t v) { _mm_setcsr(static_cast<unsigned>(v)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kDefault = 0;  // FPCR: nearest, no flush to zero
  static uint64_t read() {
    uint64_t v;
    asm volatile("mrs %0, fpcr" : "=r"(v));
    return v;
  }
  static void write(uint64_t v) { asm volatile("msr fpcr, %0" : : "r"(v)); }
#else
  static constexpr uint64_t kDefault = 0;
  static uint64_t read() { return 0; }
  static void write(uint64_t) {}
#endif
  uint64_t found_;
};

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace gpt2fast
