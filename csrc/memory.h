// Zeroed memory on cache lines, in huge pages where the system gives them: a cache or a prompt's
// activations have thousands of small pages, and each costs a fault and a translation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace gpt2fast {

struct Free {
  void* start = nullptr;  // of what was taken, which the aligned memory lies in
  size_t mapped = 0;      // bytes to unmap; 0 if it came from the heap
  void operator()(uint8_t*) const;
};
using Memory = std::unique_ptr<uint8_t, Free>;

// Throws std::bad_alloc. What nobody writes costs no memory, to a granularity of 2 MB at most.
Memory zeroed(size_t bytes);

}  // namespace gpt2fast
