// The targets of this build, best first, and the one in use.
//
// The best supported one is chosen at first use; GPT2FAST_TARGET or force_target() choose another.
// An unknown or unsupported name is an error, never a silent fallback.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace gpt2fast {

struct TargetState {
  std::string name;
  std::string missing;  // empty if this machine runs it
};

std::vector<TargetState> targets();  // all that the project has, best first
const Kernels& active();  // throws std::invalid_argument if GPT2FAST_TARGET names no usable target
const Kernels&
active_or_scalar() noexcept;  // the same, but the specification where active() throws
void force_target(
    const std::string& name);  // "" returns to the automatic choice; throws std::invalid_argument

}  // namespace gpt2fast
