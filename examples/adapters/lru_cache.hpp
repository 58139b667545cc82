// SPDX-License-Identifier: MIT
#pragma once

// LevelDB's LRU cache as the cache of a ReadThrough (Debian: libleveldb-dev). Its keys are bytes.
//
//   singleflight::ReadThrough<std::string, User, LruCache<User>> users(LruCache<User>(1000));
//
// LevelDB keeps 16 lists, each for a part of the keys and a sixteenth of the capacity, rounded up.

#include <leveldb/cache.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>

// Every member may be called from any thread at any time. Values end under LevelDB's locks: ~Value
// must not use the cache.
template <class Value>
class LruCache {
 public:
  static constexpr bool kConcurrent = true;

  // Holds up to `capacity` values; one more, and what was used least recently goes.
  explicit LruCache(std::size_t capacity) : cache_(leveldb::NewLRUCache(capacity)) {}

  std::optional<Value> Get(std::string_view key) const {
    const auto release = [this](leveldb::Cache::Handle* handle) { cache_->Release(handle); };
    const std::unique_ptr<leveldb::Cache::Handle, decltype(release)> found(
        cache_->Lookup(Slice(key)), release);
    if (found == nullptr) return std::nullopt;
    return *static_cast<const Value*>(cache_->Value(found.get()));
  }

  void Put(std::string_view key, const Value& value) {
    const auto end = [](const leveldb::Slice&, void* put) { delete static_cast<Value*>(put); };
    auto* const put = new Value(value);  // the cache's from here on
    cache_->Release(cache_->Insert(Slice(key), put, /*charge=*/1, end));
  }

  void Erase(std::string_view key) { cache_->Erase(Slice(key)); }

 private:
  static leveldb::Slice Slice(std::string_view key) { return {key.data(), key.size()}; }

  std::unique_ptr<leveldb::Cache> cache_;
};
