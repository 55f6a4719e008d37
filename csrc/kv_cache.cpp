#include "kv_cache.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace gpt2fast {

std::shared_ptr<uint8_t> KvCache::new_page() const {
  // calloc hands out untouched zero pages of the system: a page costs memory only where it is
  // written.
  void* memory = std::calloc(layout_.bytes() + kBlock, 1);
  if (!memory) throw std::bad_alloc();
  std::shared_ptr<uint8_t> owner(static_cast<uint8_t*>(memory), std::free);
  const size_t aligned = (reinterpret_cast<uintptr_t>(memory) + kBlock - 1) / kBlock * kBlock;
  return {owner, reinterpret_cast<uint8_t*>(aligned)};
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
