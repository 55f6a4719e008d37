#include "kv_cache.h"

#include <atomic>
#include <cstring>

#include "memory.h"

namespace gpt2fast {

namespace {

constexpr size_t kIdlePages = 8;  // of 64 positions: what a default chunk needs

struct Page {
  Page(std::shared_ptr<PagePool> from, size_t size)
      : pool(std::move(from)), bytes(size), memory(pool->take(size)) {}
  ~Page() { pool->give(std::move(memory), bytes); }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  std::shared_ptr<PagePool> pool;
  size_t bytes;
  Memory memory;
};

}  // namespace

PagePool::PagePool() { idle_.reserve(kIdlePages); }

// A fork may have copied the lock while another thread held it: nobody waits for it.
Memory PagePool::take(size_t bytes) {
  if (const std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock())
    for (auto i = idle_.begin(); i != idle_.end(); ++i)
      if (i->bytes == bytes) {
        Memory page = std::move(i->page);
        idle_.erase(i);
        return page;
      }
  return zeroed(bytes);
}

void PagePool::give(Memory page, size_t bytes) {
  if (const std::unique_lock lock(mutex_, std::try_to_lock);
      lock.owns_lock() && idle_.size() < kIdlePages)
    idle_.push_back({std::move(page), bytes});
}

std::shared_ptr<uint8_t> KvCache::new_page() const {
  auto page = std::make_shared<Page>(pool_, layout_.bytes());
  uint8_t* memory = page->memory.get();
  return {std::move(page), memory};
}

void KvCache::reserve(int n) {
  const size_t needed = static_cast<size_t>((length_ + n + kPage - 1) / kPage);
  pages_.reserve(needed);
  std::shared_ptr<uint8_t> own;
  const size_t last = static_cast<size_t>(length_ / kPage);
  const bool partial = length_ % kPage != 0;
  if (n > 0 && partial && pages_[last].use_count() > 1) {
    own = new_page();
    std::memcpy(own.get(), pages_[last].get(), layout_.bytes());
  }
  std::vector<std::shared_ptr<uint8_t>> fresh;
  const size_t whole = static_cast<size_t>((length_ + kPage - 1) / kPage);
  for (size_t i = whole; i < needed; ++i) fresh.push_back(new_page());
  pages_.resize(whole);  // pages a cancelled chunk left behind
  if (own) pages_[last] = std::move(own);
  for (auto& page : fresh) pages_.push_back(std::move(page));
  std::atomic_thread_fence(
      std::memory_order_acquire);  // pairs with the release of a fork that let go of the last page
}

void KvCache::truncate(int length) {
  if (length >= length_) return;
  length_ = length < 0 ? 0 : length;
  pages_.resize(static_cast<size_t>((length_ + kPage - 1) / kPage));
}

namespace {

// Calls f(element of a page, its index in [n_head][n][head_dim], whether it is a key) for all of a
// layer.
template <class Element, class Function>
void for_elements(const KvCache& cache, int layer, int n, Function f) {
  const PageLayout& layout = cache.layout();
  const auto head_dim = static_cast<size_t>(layout.head_dim);
  const auto stride = static_cast<size_t>(lanes16(layout.head_dim));
  for (int p = 0; p < n; ++p) {
    uint8_t* page = cache.page(p / kPage);
    const auto at = static_cast<size_t>(p % kPage);
    for (int head = 0; head < layout.n_head; ++head) {
      auto* k = reinterpret_cast<Element*>(page + layout.k_offset(layer, head)) +
                at / 16 * 16 * head_dim + at % 16;
      auto* v = reinterpret_cast<Element*>(page + layout.v_offset(layer, head)) + at * stride;
      const size_t first = (static_cast<size_t>(head) * n + p) * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        f(k[16 * d], first + d, true);
        f(v[d], first + d, false);
      }
    }
  }
}

template <class Element>
void read_as(const KvCache& cache, int layer, void* k, void* v) {
  for_elements<Element>(cache, layer, cache.length(), [&](Element& e, size_t i, bool key) {
    static_cast<Element*>(key ? k : v)[i] = e;
  });
}

template <class Element>
void write_as(const KvCache& cache, int layer, int n, const void* k, const void* v) {
  for_elements<Element>(cache, layer, n, [&](Element& e, size_t i, bool key) {
    e = static_cast<const Element*>(key ? k : v)[i];
  });
}

}  // namespace

void KvCache::read(int layer, void* k, void* v) const {
  layout_.f16 ? read_as<uint16_t>(*this, layer, k, v) : read_as<uint32_t>(*this, layer, k, v);
}

void KvCache::write(int layer, int n, const void* k, const void* v) {
  layout_.f16 ? write_as<uint16_t>(*this, layer, n, k, v)
              : write_as<uint32_t>(*this, layer, n, k, v);
}

}  // namespace gpt2fast
