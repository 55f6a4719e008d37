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

}  // namespace gpt2fast
