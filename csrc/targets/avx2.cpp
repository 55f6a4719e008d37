#include "isa/avx2.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_avx2;
constexpr gpt2fast::Kernels gpt2fast_target_avx2 = gpt2fast::make_table<gpt2fast::Avx2>("avx2");
