// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace test {

// A cache that a test can inspect, block and make fail. The hooks are set before the cache is
// shared with other threads, and run outside its lock. An operation throws what its `before_*` hook
// throws.
template <class Value>
class FakeCache {
 public:
  static constexpr bool kConcurrent = true;

  std::function<void()> before_get, after_get, before_put, before_erase;
  std::atomic<int> gets = 0, puts = 0, erases = 0;

  std::optional<Value> Get(const std::string& key) {
    ++gets;
    if (before_get) before_get();
    std::optional<Value> found = Peek(key);
    if (after_get) after_get();
    return found;
  }
  void Put(const std::string& key, const Value& value) {
    ++puts;
    if (before_put) before_put();
    Fill(key, value);
  }
  void Erase(const std::string& key) {
    ++erases;
    if (before_erase) before_erase();
    const std::lock_guard lock(mutex_);
    entries_.erase(key);
  }

  // The test reads and changes the contents with these. They count nothing and call no hook.
  std::optional<Value> Peek(const std::string& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    return found != entries_.end() ? std::optional<Value>(found->second) : std::nullopt;
  }
  void Fill(const std::string& key, const Value& value) {
    const std::lock_guard lock(mutex_);
    entries_.insert_or_assign(key, value);
  }
  void Clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Value> entries_;  // guarded by mutex_
};

}  // namespace test
