#include "isa/avx512_vnni.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_avx512_vnni;
constexpr gpt2fast::Kernels gpt2fast_target_avx512_vnni =
    gpt2fast::make_table<gpt2fast::Avx512Vnni>("avx512_vnni");
