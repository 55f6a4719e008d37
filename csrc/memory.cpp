#include "memory.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gpt2fast {
namespace {

constexpr size_t kLine = 64;
#if defined(__linux__)
constexpr size_t kHuge = size_t{2} << 20;
#endif

uint8_t* align(void* p, size_t to) {
  return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(p) + to - 1) / to * to);
}

}  // namespace

void Free::operator()(uint8_t*) const {
#if defined(__linux__)
  if (mapped) {
    munmap(start, mapped);
    return;
  }
#endif
  std::free(start);
}

Memory zeroed(size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHuge) {
    const size_t size = bytes + kHuge;  // room to begin at a huge page
    void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    uint8_t* memory = align(start, kHuge);
    madvise(memory, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // a wish: small pages do as well
    return {memory, {start, size}};
  }
#endif
  void* start = std::calloc(bytes + kLine, 1);
  if (!start) throw std::bad_alloc();
  return {align(start, kLine), {start, 0}};
}

}  // namespace gpt2fast
