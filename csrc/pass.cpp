#include "pass.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <system_error>

#include "crowding.h"

namespace gpt2fast {
namespace {

std::atomic<bool> stopping{false};

}  // namespace

// Pieces are runs of output blocks for one group of rows. A prompt's rows are shared out among the
// threads, each of which then finds them in its own caches from layer to layer; fewer rows share
// their weights instead.
void Pass::linear_of(const Linear& l, const RowBuffer& x, int begin, int end, int thread,
                     Store store, int layer) {
  const int n = end - begin;
  const int n_blocks = blocks(l.weight.n_out), threads = team_.threads();
  const int groups = std::clamp(n / 64, 1, threads);
  const int run = std::max(1, n_blocks * groups / (16 * threads));
  const int runs = (n_blocks + run - 1) / run;
  LinearCall call{};
  call.weights = l.weight.bytes;
  call.bias = l.bias;
  call.n_in = l.weight.n_in;
  call.n_out = l.weight.n_out;
  call.x = x.rows;
  call.store = store;
  call.activation = c_.activation;
  call.logits = logits_.data();
  call.y = (store == Store::qkv ? w_.q : w_.x).as<float>();
  call.y_width = width(c_.n_embd);
  call.out = w_.inner.rows;
  call.head_dim = c_.head_dim();
  call.n_embd = c_.n_embd;
  if (store == Store::qkv) {
    call.cache_f16 = sequences_[0].cache->layout().f16;
    call.slots = slots_.data();
    call.cache_offset = sequences_[0].cache->layout().layer_bytes() * static_cast<size_t>(layer);
  }
  call.sums = w_.scratch[static_cast<size_t>(thread)].as<float>();
  team_.for_each(runs * groups, thread, [&](int piece) {
    LinearCall part = call;
    const int g = piece / runs, i = piece % runs;
    part.block_begin = i * run;
    part.block_end = std::min(part.block_begin + run, n_blocks);
    part.row_begin = begin + static_cast<int32_t>(static_cast<int64_t>(n) * g / groups);
    part.row_end = begin + static_cast<int32_t>(static_cast<int64_t>(n) * (g + 1) / groups);
    k_.linear[static_cast<int>(m_.dtype)](part);
  });
}

void Pass::score(int begin, int end, int thread) {
  team_.for_each(end - begin, thread, [&](int i) {
    const auto r = static_cast<size_t>(begin + i);
    if (!k_.finite(logits_[r], static_cast<size_t>(c_.n_vocab)))
      finite_.store(false, std::memory_order_relaxed);
    *scores_[r] = score_of(k_, logits_[r], c_.n_vocab, targets_[r]);
  });
}

void Pass::attend_prompt(int layer, const AttentionItem& item, int thread) {
  const Sequence& s = sequences_[static_cast<size_t>(item.sequence)];
  const PageLayout& layout = s.cache->layout();
  const int hd = c_.head_dim(), pw = partial_width(hd);
  float* work = w_.scratch[static_cast<size_t>(thread)].as<float>() + Workspace::sums(w_.rows);
  float* partials = work + attend_work(hd);
  const int position = s.position + item.begin, row = s.first + item.begin;
  const size_t stride = static_cast<size_t>(kQueryTile) * pw;
  for (int b = 0; b <= (position + item.n - 1) / kSpan; ++b)
    k_.attend({row_of(w_.q, row) + item.head * hd, width(c_.n_embd), item.n, position, b * kSpan,
               s.pages.data(), layout.k_offset(layer, item.head), layout.v_offset(layer, item.head),
               hd, c_.attention_scale(layer), layout.f16, partials + b * stride, work});
  for (int t = 0; t < item.n; ++t)
    k_.combine({partials + t * pw, stride, (position + t) / kSpan + 1, hd,
                row_of(w_.attended, row + t) + item.head * hd});
}

void Pass::attend_step(int layer, const AttentionItem& item, int thread) {
  const Sequence& s = sequences_[static_cast<size_t>(item.sequence)];
  const PageLayout& layout = s.cache->layout();
  const int hd = c_.head_dim();
  float* work = w_.scratch[static_cast<size_t>(thread)].as<float>() + Workspace::sums(w_.rows);
  k_.attend({row_of(w_.q, s.first) + item.head * hd, width(c_.n_embd), 1, s.position,
             item.begin * kSpan, s.pages.data(), layout.k_offset(layer, item.head),
             layout.v_offset(layer, item.head), hd, c_.attention_scale(layer), layout.f16,
             partial_of(item.sequence, item.head, item.begin), work});
}

// A step's blocks are combined here; then the row becomes the projection's input.
void Pass::collect(int row, int thread) {
  const int i = sequence_of_[static_cast<size_t>(row)];
  const Sequence& s = sequences_[static_cast<size_t>(i)];
  const int hd = c_.head_dim();
  float* attended = row_of(w_.attended, row);
  if (s.n == 1) {
    if (few_) attended = row_of(w_.own[static_cast<size_t>(thread)].attended, row);
    for (int head = 0; head < c_.n_head; ++head)
      k_.combine({partial_of(i, head, 0), static_cast<size_t>(partial_width(hd)),
                  s.position / kSpan + 1, hd, attended + head * hd});
  }
  k_.put(attended, row, quantized_, narrow(thread).rows);
}

void Pass::record(int layer, int thread) {
  if (!hidden_) return;
  team_.for_each(static_cast<int>(rows_.size()), thread, [&](int r) {
    std::memcpy(hidden_of(layer, r), row_of(w_.x, r),
                static_cast<size_t>(c_.n_embd) * sizeof(float));
  });
}

// Thread 0 looks at clock and flags while the others are in the next step; everybody reads the
// verdict one step later, from the slot that is not being written. A barrier lies between any two
// steps, and all threads leave after the same one.
bool Pass::keep_going(int step, int thread) {
  const gpt2fast_status seen = verdict_[(step + 1) % 2];
  if (thread == 0) verdict_[step % 2] = seen == GPT2FAST_OK ? interrupted() : seen;
  return seen == GPT2FAST_OK;
}

gpt2fast_status Pass::interrupted() {
  if (stopping.load(std::memory_order_relaxed) || (control_.cancel && *control_.cancel))
    return GPT2FAST_CANCELLED;
  const double time = now();
  if (control_.deadline > 0 && time > control_.deadline) return GPT2FAST_DEADLINE;
  if (!control_.poll || time - polled_ < 0.05) return GPT2FAST_OK;
  polled_ = time;
  return control_.poll(control_.poll_context) ? GPT2FAST_INTERRUPTED : GPT2FAST_OK;
}

void Pass::add(KvCache* cache, const int32_t* tokens, int n, int n_rows, float* logits,
               RowScores scores, float* hidden) {
  const PageLayout& layout = cache->layout();
  cache->reserve(n);
  const int first = static_cast<int>(rows_.size()), position = cache->length();
  Sequence sequence{cache, first, n, position, {}};
  for (int p = 0; p * kPage < position + n; ++p) sequence.pages.push_back(cache->page(p));
  for (int i = 0; i < n; ++i) {
    const int p = position + i;
    uint8_t* page = cache->page(p / kPage);
    const int row = i - (n - n_rows), before = static_cast<int>(rows_.size());
    const int place = static_cast<int>(logits_.size());
    rows_.push_back({tokens[i], p, row < 0 ? place - before - 1 : place,
                     hidden ? hidden + static_cast<size_t>(i) * c_.n_embd : nullptr});
    if (row >= 0 && scores.targets) {
      logits_.push_back(w_.scored.as<float>() +
                        static_cast<size_t>(place % kHeadRows) * width(c_.n_vocab));
      targets_.push_back(scores.targets[row]);
      scores_.push_back(scores.scores + row);
    } else if (row >= 0) {
      logits_.push_back(logits + static_cast<size_t>(row) * c_.n_vocab);
    }
    sequence_of_.push_back(static_cast<int>(sequences_.size()));
    slots_.push_back({page + layout.k_offset(0, 0), page + layout.v_offset(0, 0), p % kPage});
  }
  sequences_.push_back(std::move(sequence));
  copies_ = copies_ || hidden;
}

// In the order of rows, so that a thread's share is about the rows it has in its caches.
void Pass::plan_attention() {
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const Sequence& s = sequences_[i];
    const int pieces = s.n > 1 ? (s.n + kQueryTile - 1) / kQueryTile : s.position / kSpan + 1;
    for (int piece = 0; piece < pieces; ++piece)
      for (int head = 0; head < c_.n_head; ++head) {
        const int begin = s.n > 1 ? piece * kQueryTile : piece;
        items_.push_back(
            {static_cast<int>(i), head, begin, s.n > 1 ? std::min(kQueryTile, s.n - begin) : 1});
      }
  }
}

gpt2fast_status Pass::run() {
  few_ = rows_.size() <= kFew && !hidden_ && !copies_ && team_.threads() > 1;
  plan_attention();
  run_team(team_, [](void* self, int thread) { static_cast<Pass*>(self)->forward(thread); }, this);
  for (gpt2fast_status verdict : verdict_)
    if (verdict != GPT2FAST_OK) return verdict;
  for (float* logits : logits_)
    if (targets_.empty() && !k_.finite(logits, static_cast<size_t>(c_.n_vocab))) finite_ = false;
  if (!finite_) return GPT2FAST_NOT_FINITE;
  for (const Sequence& s : sequences_) s.cache->commit(s.n);
  return GPT2FAST_OK;
}

namespace {

// The caches of a call, taken for its time.
class Hold {
 public:
  Hold(const gpt2fast_span* spans, int n) : spans_(spans), n_(n) {
    while (taken_ < n_ && cache(taken_)->acquire()) ++taken_;
  }
  ~Hold() {
    for (int i = 0; i < taken_; ++i) cache(i)->release();
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  bool complete() const { return taken_ == n_; }

 private:
  KvCache* cache(int i) const { return reinterpret_cast<KvCache*>(spans_[i].cache); }
  const gpt2fast_span* spans_;
  int n_, taken_ = 0;
};

bool valid(const Model& model, const gpt2fast_span* spans, int n_spans, const RowScores* scores) {
  const Config& c = model.config;
  for (int i = 0; i < n_spans; ++i) {
    const gpt2fast_span& s = spans[i];
    const auto* cache = reinterpret_cast<const KvCache*>(s.cache);
    if (s.n_tokens < 1 || s.n_rows < 0 || s.n_rows > s.n_tokens) return false;
    const PageLayout &layout = cache->layout(),
                     first = reinterpret_cast<const KvCache*>(spans[0].cache)->layout();
    if (layout.n_layer != c.n_layer || layout.n_head != c.n_head || layout.head_dim != c.head_dim())
      return false;
    if (layout.f16 != first.f16 || s.n_tokens > c.n_ctx - cache->length()) return false;
    for (int t = 0; t < s.n_tokens; ++t)
      if (s.tokens[t] < 0 || s.tokens[t] >= c.n_vocab) return false;
    for (int r = 0; scores && r < s.n_rows; ++r)
      if (scores[i].targets[r] < 0 || scores[i].targets[r] >= c.n_vocab) return false;
  }
  return n_spans > 0;
}

Crowding crowding;  // of this process

gpt2fast_status run_passes(const Model& model, const gpt2fast_span* spans, int n_spans,
                           const gpt2fast_control& control, float* hidden,
                           const RowScores* scores) {
  int64_t total = 0;
  for (int i = 0; i < n_spans; ++i) total += spans[i].n_tokens;
  const int chunk = std::max(control.chunk > 0 ? control.chunk : 512, 1);
  const bool steps = total == n_spans;
  const int asked = steps ? control.threads : control.prompt_threads;
  double polled = now();
  const int threads = inside_team() ? 1 : steps ? crowding.threads(asked, polled) : asked;
  // Steps of all sequences go together however many there are; what is longer is cut into chunks.
  const int rows = steps ? n_spans : static_cast<int>(std::min<int64_t>(chunk, total));
  auto workspace = model.take_workspace(rows, threads, n_spans);
  if (scores)
    workspace->scored.resize(sizeof(float) * static_cast<size_t>(std::min(rows, kHeadRows)) *
                             static_cast<size_t>(width(model.config.n_vocab)));
  gpt2fast_status status = GPT2FAST_OK;
  for (int span = 0, done = 0; span < n_spans && status == GPT2FAST_OK;) {
    Team team(threads);
    Pass pass(model, control, team, *workspace, hidden, spans[0].n_tokens, done, polled);
    for (int left = rows; left > 0 && span < n_spans;) {
      const gpt2fast_span& s = spans[span];
      const int n = std::min(left, s.n_tokens - done), unwanted = s.n_tokens - s.n_rows;
      const int n_rows = std::min(n, std::max(0, done + n - unwanted));
      const auto first = static_cast<size_t>(std::max(0, done - unwanted));
      float* logits = n_rows && !scores ? s.logits + first * model.config.n_vocab : nullptr;
      RowScores wanted{};
      if (n_rows && scores) wanted = {scores[span].targets + first, scores[span].scores + first};
      float* copy = s.hidden ? s.hidden + static_cast<size_t>(done) * model.config.n_embd : nullptr;
      pass.add(reinterpret_cast<KvCache*>(s.cache), s.tokens + done, n, n_rows, logits, wanted,
               copy);
      left -= n;
      done += n;
      if (done == s.n_tokens) {
        ++span;
        done = 0;
      }
    }
    const double begin = now();
    status = pass.run();
    if (steps) crowding.note(asked, threads, team.waited(), now() - begin, now());
  }
  workspace->scored = {};
  model.give_back(std::move(workspace));
  return status;
}

}  // namespace

std::unique_ptr<Workspace> Model::take_workspace(int rows, int threads, int spans) const {
  std::unique_ptr<Workspace> w;
  // A fork may have copied the lock while another thread held it: never wait for it.
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock() && !idle_.empty()) {
    w = std::move(idle_.back());
    idle_.pop_back();
  }
  if (!w) w = std::make_unique<Workspace>();
  w->resize(config, dtype == Dtype::int8, std::max(rows, w->rows), std::max(threads, w->threads),
            std::max(spans, w->spans));
  return w;
}

void Model::give_back(std::unique_ptr<Workspace> workspace) const {
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock() && idle_.size() < 4)
    idle_.push_back(std::move(workspace));
}

gpt2fast_status forward(const Model& model, const gpt2fast_span* spans, int n_spans,
                        const gpt2fast_control& control, float* hidden, const RowScores* scores) {
  if (control.threads < 1 || control.prompt_threads < 1 ||
      std::max(control.threads, control.prompt_threads) > kMaxThreads)
    return GPT2FAST_BAD_ARGUMENT;
  const Hold hold(spans, n_spans);
  if (!hold.complete()) return GPT2FAST_BUSY;
  if (!valid(model, spans, n_spans, scores)) return GPT2FAST_BAD_ARGUMENT;
  try {
    return run_passes(model, spans, n_spans, control, hidden, scores);
  } catch (const std::bad_alloc&) {
    return GPT2FAST_OUT_OF_MEMORY;
  } catch (const std::system_error&) {
    return GPT2FAST_NO_THREAD;
  }
}

void stop_all() { stopping = true; }

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace gpt2fast
