#include "kv_cache.h"

#include <atomic>
#include <cstring>

#include "memory.h"

namespace gpt2fast {

std::shared_ptr<uint8_t> KvCache::new_page() const { return zeroed(layout_.bytes()); }

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
