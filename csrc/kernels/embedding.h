// x = wte[token] + wpe[position], the token's row taken from the same packed matrix that serves as
// the output head.
#pragma once

#include "isa/isa.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

template <class Isa, class Layout>
void embed(const EmbedCall& c) {
  Layout::read_row(c.wte, c.n_embd, c.token, c.x);
  const float* position = c.wpe + static_cast<size_t>(c.position) * c.n_embd;
  for (int i = 0; i < c.n_embd; i += kLanes) {
    const int left = c.n_embd - i < kLanes ? c.n_embd - i : kLanes;
    Isa::store(c.x + i, Isa::add(Isa::load(c.x + i, left), Isa::load(position + i, left)), left);
  }
}

}  // namespace
}  // namespace gpt2fast
