#include "score.h"

#include <algorithm>

namespace gpt2fast {

TokenScore score_of(const Kernels& kernels, const float* logits, int32_t n_vocab, int32_t target) {
  RowSums row{};
  kernels.score({logits, n_vocab, target, &row});
  float log_total = row.total;
  kernels.log(&log_total, &log_total, 1);
  const double logprob = static_cast<double>(logits[target]) - row.top - log_total;
  const double entropy = log_total - static_cast<double>(row.moment) / row.total;
  return {static_cast<float>(logprob), static_cast<float>(std::max(entropy, 0.0)), row.rank,
          row.likeliest};
}

}  // namespace gpt2fast
