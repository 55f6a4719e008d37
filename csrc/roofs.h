// The roofs of this machine, measured with the active target's own instructions on as many threads
// as asked.
#pragma once

#include <cstddef>
#include <string>

namespace gpt2fast {

struct Roofs {
  double read_anonymous, read_mapped;  // bytes / s; mapped is 0 without a path
  double int8_dot, float32_fma;  // operations / s, a multiplication and an addition counting two
};

// `bytes` of memory are read per round (at least a few times the last cache to measure memory);
// `path` names a file to map. The best of `rounds` rounds counts: a roof is what the machine can
// do. Throws std::runtime_error.
Roofs measure_roofs(int threads, size_t bytes, const std::string& path, int rounds);

}  // namespace gpt2fast
