#include "isa/neon_dotprod.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_neon_dotprod;
constexpr gpt2fast::Kernels gpt2fast_target_neon_dotprod =
    gpt2fast::make_table<gpt2fast::NeonDotprod>("neon_dotprod");
