#include "roofs.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "gpt2.h"
#include "thread_pool.h"

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace gpt2fast {
namespace {

// Seconds from when the first thread of a team begins f(thread) to when the last one ends.
template <class Function>
double time_team(int threads, Function f) {
  struct Context {
    Team team;
    Function& f;
    std::vector<double> begin, end;
  };
  const auto n = static_cast<size_t>(threads);
  Context context{Team(threads), f, std::vector<double>(n), std::vector<double>(n)};
  run_team(
      context.team,
      [](void* p, int thread) {
        auto& c = *static_cast<Context*>(p);
        c.team.for_each(c.team.threads(), thread, [](int) {});  // all are awake
        c.begin[static_cast<size_t>(thread)] = now();
        c.f(thread);
        c.end[static_cast<size_t>(thread)] = now();
      },
      &context);
  return *std::max_element(context.end.begin(), context.end.end()) -
         *std::min_element(context.begin.begin(), context.begin.end());
}

double read_rate(int threads, const uint8_t* data, size_t bytes) {
  const size_t share = bytes / static_cast<size_t>(threads) / 64 * 64;
  std::atomic<uint64_t> sink{0};
  const double seconds = time_team(threads, [&](int thread) {
    sink += active().read_roof(data + static_cast<size_t>(thread) * share, share);
  });
  return static_cast<double>(share) * threads / seconds;
}

#if !defined(_WIN32)
struct Mapping {
  explicit Mapping(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info{};
    if (fd >= 0 && fstat(fd, &info) == 0) size = static_cast<size_t>(info.st_size);
    if (size > 0) data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) ::close(fd);
    if (size == 0 || data == MAP_FAILED) throw std::runtime_error("cannot map '" + path + "'");
  }
  ~Mapping() { ::munmap(data, size); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  void* data = MAP_FAILED;
  size_t size = 0;
};
#endif

}  // namespace

Roofs measure_roofs(int threads, size_t bytes, [[maybe_unused]] const std::string& path,
                    int rounds) {
  Roofs roofs{};
  std::vector<uint8_t> memory(bytes, 1);
  const Kernels& k = active();
  for (int round = 0; round < rounds; ++round) {
    roofs.read_anonymous = std::max(roofs.read_anonymous, read_rate(threads, memory.data(), bytes));
    constexpr int64_t kRepeats = 1000000;
    double seconds, operations = 0;
    seconds = time_team(threads, [&](int thread) {
      int32_t sink;
      const double n = k.dot_roof(kRepeats, &sink);
      if (thread == 0) operations = n;
    });
    roofs.int8_dot = std::max(roofs.int8_dot, operations * threads / seconds);
    seconds = time_team(threads, [&](int thread) {
      float sink;
      const double n = k.fma_roof(kRepeats, &sink);
      if (thread == 0) operations = n;
    });
    roofs.float32_fma = std::max(roofs.float32_fma, operations * threads / seconds);
  }
#if !defined(_WIN32)
  if (!path.empty()) {
    const Mapping file(path);
    read_rate(threads, static_cast<const uint8_t*>(file.data), file.size);  // brings it into memory
    for (int round = 0; round < rounds; ++round)
      roofs.read_mapped = std::max(
          roofs.read_mapped, read_rate(threads, static_cast<const uint8_t*>(file.data), file.size));
  }
#endif
  return roofs;
}

}  // namespace gpt2fast
