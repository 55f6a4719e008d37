#include "isa/neon.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_neon;
constexpr gpt2fast::Kernels gpt2fast_target_neon = gpt2fast::make_table<gpt2fast::Neon>("neon");
