// How likely a token is after others: what scoring makes of a row of logits.
#pragma once

#include "kernels/table.h"

namespace gpt2fast {

struct TokenScore {
  float logprob;      // (logit - top) - log(total), the difference in float64
  float entropy;      // of the prediction, in nats: log(total) - moment / total
  int32_t rank;       // how many tokens are likelier, or as likely and of a lower id
  int32_t likeliest;  // the token of rank 0
};

TokenScore score_of(const Kernels& kernels, const float* logits, int32_t n_vocab, int32_t target);

}  // namespace gpt2fast
