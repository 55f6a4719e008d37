// What this CPU can do and what its operating system lets it do, as plain facts that tests can
// forge.
//
// An instruction set counts only if the CPU reports it (CPUID, getauxval, sysctl) and, for the wide
// registers of x86, the operating system saves them (XCR0, read by XGETBV when CPUID says OSXSAVE):
// hypervisors and old kernels report AVX-512 that faults.
#pragma once

#include <cstdint>

namespace gpt2fast {

struct CpuFacts {
  // x86: registers of the CPUID leaves that matter, zero where a leaf does not exist.
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0;
  uint64_t xcr0 = 0;  // zero where CPUID does not report OSXSAVE
  // Arm
  bool neon = false, dotprod = false, i8mm = false;
};

CpuFacts read_cpu();

// The empty string if the facts allow the target of that name, else what is missing.
const char* missing_for(const char* target, const CpuFacts& facts);

}  // namespace gpt2fast
