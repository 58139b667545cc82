// SPDX-License-Identifier: MIT
#pragma once

// LevelDB's LRU cache as the cache of a ReadThrough (Debian: libleveldb-dev). A key is any bytes.
//
//   singleflight::ReadThrough<std::string, User, LruCache<User>> users(LruCache<User>(1000));
//
// LevelDB keeps 16 lists. Each of them has a part of the keys and a sixteenth of the capacity,
// rounded up.

#include <leveldb/cache.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>

// Thread: every member may be called from any thread at any time.
// Lifetime: values are destroyed under LevelDB's locks, so ~Value must not use the cache.
template <class Value>
class LruCache {
 public:
  static constexpr bool kConcurrent = true;

  // Holds up to `capacity` values. If one more is put, the least recently used value is removed.
  explicit LruCache(std::size_t capacity) : cache_(leveldb::NewLRUCache(capacity)) {}

  std::optional<Value> Get(std::string_view key) const {
    const auto release = [this](leveldb::Cache::Handle* handle) { cache_->Release(handle); };
    const std::unique_ptr<leveldb::Cache::Handle, decltype(release)> found(
        cache_->Lookup(Slice(key)), release);
    if (found == nullptr) return std::nullopt;
    return *static_cast<const Value*>(cache_->Value(found.get()));
  }

  void Put(std::string_view key, const Value& value) {
    const auto destroy = [](const leveldb::Slice&, void* put) { delete static_cast<Value*>(put); };
    auto* const put = new Value(value);  // the cache will own it
    cache_->Release(cache_->Insert(Slice(key), put, /*charge=*/1, destroy));
  }

  void Erase(std::string_view key) { cache_->Erase(Slice(key)); }

 private:
  static leveldb::Slice Slice(std::string_view key) { return {key.data(), key.size()}; }

  std::unique_ptr<leveldb::Cache> cache_;
};
