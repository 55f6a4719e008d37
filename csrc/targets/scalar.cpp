#include "isa/scalar.h"
#include "kernels/make_table.h"

extern const gpt2fast::Kernels gpt2fast_target_scalar;
constexpr gpt2fast::Kernels gpt2fast_target_scalar =
    gpt2fast::make_table<gpt2fast::Scalar>("scalar");
