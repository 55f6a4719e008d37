#include "isa/neon_i8mm.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_neon_i8mm;
constexpr gpt2fast::Kernels gpt2fast_target_neon_i8mm =
    gpt2fast::make_table<gpt2fast::NeonI8mm>("neon_i8mm");
