#include "cpu.h"

#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(_WIN32)
// Of processthreadsapi.h; the macros of windows.h are not wanted here.
extern "C" __declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long feature);
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gpt2fast {
namespace {

#if defined(__x86_64__)

struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t sub) {
  Leaf r;
  __cpuid_count(leaf, sub, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

uint64_t read_xcr0() {
  uint32_t low, high;
  asm volatile(".byte 0x0f, 0x01, 0xd0"
               : "=a"(low), "=d"(high)
               : "c"(0));  // xgetbv, which old assemblers lack
  return static_cast<uint64_t>(high) << 32 | low;
}

#endif

constexpr bool has(uint64_t word, int bit) { return (word >> bit & 1) != 0; }

constexpr uint64_t kYmm = 0x06;  // XCR0: SSE and AVX state
constexpr uint64_t kZmm = 0xe6;  // and the mask registers and both halves of AVX-512 state

const char* missing_avx2(const CpuFacts& f) {
  if (!has(f.leaf1_ecx, 27)) return "the operating system does not enable XSAVE";
  if ((f.xcr0 & kYmm) != kYmm) return "the operating system does not save the AVX registers";
  if (!has(f.leaf1_ecx, 28) || !has(f.leaf7_ebx, 5)) return "the CPU lacks AVX2";
  if (!has(f.leaf1_ecx, 12)) return "the CPU lacks FMA";
  if (!has(f.leaf1_ecx, 29)) return "the CPU lacks F16C";
  return "";
}

const char* missing_avx512_vnni(const CpuFacts& f) {
  if (const char* reason = missing_avx2(f); *reason) return reason;
  if ((f.xcr0 & kZmm) != kZmm) return "the operating system does not save the AVX-512 registers";
  for (int bit : {16, 17, 30, 31})  // F, DQ, BW, VL
    if (!has(f.leaf7_ebx, bit)) return "the CPU lacks AVX-512 F, DQ, BW or VL";
  return has(f.leaf7_ecx, 11) ? "" : "the CPU lacks AVX512-VNNI";
}

const char* missing_avx_vnni(const CpuFacts& f) {
#if defined(GPT2FAST_EVEX_VNNI)  // a test build, see isa/avx_vnni.h
  return missing_avx512_vnni(f);
#endif
  if (const char* reason = missing_avx2(f); *reason) return reason;
  return has(f.leaf7_1_eax, 4) ? "" : "the CPU lacks AVX-VNNI";
}

}  // namespace

CpuFacts read_cpu() {
  CpuFacts f;
#if defined(__x86_64__)
  const uint32_t last = cpuid(0, 0).eax;
  if (last >= 1) f.leaf1_ecx = cpuid(1, 0).ecx;
  if (last >= 7) {
    const Leaf seven = cpuid(7, 0);
    f.leaf7_ebx = seven.ebx;
    f.leaf7_ecx = seven.ecx;
    if (seven.eax >= 1) f.leaf7_1_eax = cpuid(7, 1).eax;
  }
  if (has(f.leaf1_ecx, 27)) f.xcr0 = read_xcr0();
#elif defined(__aarch64__)
  f.neon = true;  // part of the base architecture
#if defined(__linux__)
  f.dotprod = has(getauxval(AT_HWCAP), 20);
  f.i8mm = has(getauxval(AT_HWCAP2), 13);
#elif defined(__APPLE__)
  const auto flag = [](const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  f.dotprod = flag("hw.optional.arm.FEAT_DotProd");
  f.i8mm = flag("hw.optional.arm.FEAT_I8MM");
#elif defined(_WIN32)
  f.dotprod = IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  f.i8mm = IsProcessorFeaturePresent(66) != 0;     // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
#endif
#endif
  return f;
}

const char* missing_for(const char* target, const CpuFacts& f) {
  const auto is = [target](const char* name) { return std::strcmp(target, name) == 0; };
  if (is("scalar")) return "";
  if (is("avx2")) return missing_avx2(f);
  if (is("avx_vnni")) return missing_avx_vnni(f);
  if (is("avx512_vnni")) return missing_avx512_vnni(f);
  if (is("neon")) return f.neon ? "" : "the CPU lacks NEON";
  if (is("neon_dotprod"))
    return f.neon && f.dotprod ? "" : "the CPU lacks the dot product instructions of Armv8.2";
  if (is("neon_i8mm"))
    return f.neon && f.dotprod && f.i8mm ? "" : "the CPU lacks the int8 instructions of Armv8.6";
  return "not a target";
}

}  // namespace gpt2fast
