// Keys and values of one sequence, in pages of 64 positions that forks share until one of them
// writes.
//
//   page: [n_layer] { K [n_head][4][head_dim][16], V [n_head][64][lanes16(head_dim)] }
//
// K keeps 16 positions side by side because scores vectorise over positions, V position by position
// because value sums vectorise over dimensions. The layout is the same for every CPU. A page holds
// all layers: appending allocates once per 64 tokens. Memory is taken zeroed and padding never
// written, so that it holds nothing but zeros; positions that were not written hold anything.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/table.h"
#include "memory.h"

namespace gpt2fast {

struct PageLayout {
  int32_t n_layer, n_head, head_dim;
  bool f16;

  size_t element() const { return f16 ? 2 : 4; }
  size_t k_head() const { return static_cast<size_t>(kPage) * head_dim * element(); }
  size_t v_head() const { return static_cast<size_t>(kPage) * lanes16(head_dim) * element(); }
  size_t k_offset(int layer, int head) const { return layer * layer_bytes() + head * k_head(); }
  size_t v_offset(int layer, int head) const { return k_offset(layer, n_head) + head * v_head(); }
  size_t layer_bytes() const { return n_head * (k_head() + v_head()); }
  size_t bytes() const { return n_layer * layer_bytes(); }
};

// Pages that caches of one model gave back, for the next ones: fresh memory from the system costs a
// prompt some percent of its time.
class PagePool {
 public:
  PagePool();
  Memory take(size_t bytes);  // throws std::bad_alloc
  void give(Memory page, size_t bytes);

 private:
  struct Idle {
    Memory page;
    size_t bytes;
  };
  std::mutex mutex_;
  std::vector<Idle> idle_;
};

class KvCache {
 public:
  KvCache(const PageLayout& layout, std::shared_ptr<PagePool> pool)
      : layout_(layout), pool_(std::move(pool)) {}
  KvCache(const KvCache& other)
      : layout_(other.layout_), pool_(other.pool_), length_(other.length_), pages_(other.pages_) {}
  KvCache& operator=(const KvCache&) = delete;

  const PageLayout& layout() const { return layout_; }
  int length() const { return length_; }
  size_t bytes() const { return pages_.size() * layout_.bytes(); }

  void reserve(int n);  // makes positions length() to length() + n - 1 writable; throws
                        // std::bad_alloc, changing nothing
  void commit(int n) { length_ += n; }
  void truncate(int length);  // keeps the first `length` positions
  KvCache fork() const { return *this; }

  // Keys and values of a layer between the pages and dense arrays [n_head][n][head_dim] of the
  // cache's element type. read() gives the length() positions; write() takes n reserved ones of a
  // cache that is empty.
  void read(int layer, void* k, void* v) const;
  void write(int layer, int n, const void* k, const void* v);

  // A cache serves one call at a time; a second one is refused, not queued.
  bool acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  uint8_t* page(int i) const { return pages_[static_cast<size_t>(i)].get(); }

 private:
  std::shared_ptr<uint8_t> new_page() const;

  PageLayout layout_;
  std::shared_ptr<PagePool> pool_;
  int length_ = 0;
  std::atomic<bool> busy_{false};
  std::vector<std::shared_ptr<uint8_t>> pages_;
};

}  // namespace gpt2fast
