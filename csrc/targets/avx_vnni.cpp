#include "isa/avx_vnni.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_avx_vnni;
constexpr gpt2fast::Kernels gpt2fast_target_avx_vnni =
    gpt2fast::make_table<gpt2fast::AvxVnni>("avx_vnni");
