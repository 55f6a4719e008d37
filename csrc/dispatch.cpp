#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "cpu.h"

#if defined(__x86_64__)
#define GPT2FAST_X86(table) &table
#define GPT2FAST_ARM(table) nullptr
extern const gpt2fast::Kernels gpt2fast_target_avx512_vnni, gpt2fast_target_avx_vnni,
    gpt2fast_target_avx2;
#elif defined(__aarch64__)
#define GPT2FAST_X86(table) nullptr
#define GPT2FAST_ARM(table) &table
extern const gpt2fast::Kernels gpt2fast_target_neon_i8mm, gpt2fast_target_neon_dotprod,
    gpt2fast_target_neon;
#else
#define GPT2FAST_X86(table) nullptr
#define GPT2FAST_ARM(table) nullptr
#endif
extern const gpt2fast::Kernels gpt2fast_target_scalar;

namespace gpt2fast {
namespace {

struct Target {
  const char* name;
  const Kernels* kernels;  // null where another architecture's compiler makes it
};

constexpr Target kTargets[] = {
    {"avx512_vnni", GPT2FAST_X86(gpt2fast_target_avx512_vnni)},
    {"avx_vnni", GPT2FAST_X86(gpt2fast_target_avx_vnni)},
    {"avx2", GPT2FAST_X86(gpt2fast_target_avx2)},
    {"neon_i8mm", GPT2FAST_ARM(gpt2fast_target_neon_i8mm)},
    {"neon_dotprod", GPT2FAST_ARM(gpt2fast_target_neon_dotprod)},
    {"neon", GPT2FAST_ARM(gpt2fast_target_neon)},
    {"scalar", &gpt2fast_target_scalar},
};

std::atomic<const Kernels*> forced{nullptr};

std::string missing(const Target& target) {
  if (!target.kernels) return "built for another architecture";
  return missing_for(target.name, read_cpu());
}

const Kernels& find(const std::string& name, const char* origin) {
  std::string usable, why = "is no target";
  for (const Target& target : kTargets) {
    const std::string reason = missing(target);
    if (target.name == name) {
      if (reason.empty()) return *target.kernels;
      why = "this machine cannot run: " + reason;
    }
    if (reason.empty()) usable += (usable.empty() ? "" : ", ") + std::string(target.name);
  }
  throw std::invalid_argument(std::string(origin) + " is '" + name + "', which " + why +
                              "; usable here: " + usable);
}

const Kernels& choose() {
  if (const char* name = std::getenv("GPT2FAST_TARGET"); name && *name)
    return find(name, "GPT2FAST_TARGET");
  for (const Target& target : kTargets)
    if (missing(target).empty()) return *target.kernels;
  return gpt2fast_target_scalar;
}

}  // namespace

std::vector<TargetState> targets() {
  std::vector<TargetState> states;
  for (const Target& target : kTargets) states.push_back({target.name, missing(target)});
  return states;
}

const Kernels& active() {
  if (const Kernels* kernels = forced.load(std::memory_order_acquire)) return *kernels;
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels& active_or_scalar() noexcept {
  try {
    return active();
  } catch (const std::exception&) {
    return gpt2fast_target_scalar;
  }
}

void force_target(const std::string& name) {
  forced.store(name.empty() ? nullptr : &find(name, "target"), std::memory_order_release);
}

}  // namespace gpt2fast
