// SPDX-License-Identifier: MIT
#pragma once

// The rival is singleflight as a good engineer would write it in an afternoon, with a mutex, a map
// and a shared_future. It keeps the promises of the core: the entry is removed before the result is
// published, a call removes only itself, and exceptions reach every caller. It has no way to leave
// a call, finds no deadlock, and copies the value for each caller.

#include <exception>
#include <future>
#include <mutex>
#include <unordered_map>
#include <utility>

template <class Key, class Value>
class Textbook {
 public:
  template <class Fn>
  Value Do(const Key& key, Fn&& fn) {
    std::unique_lock lock(mutex_);
    if (const auto found = calls_.find(key); found != calls_.end()) {
      const std::shared_future<Value> landed = found->second.landed;
      lock.unlock();
      return landed.get();
    }
    std::promise<Value> promise;
    const std::shared_future<Value> landed = promise.get_future().share();
    calls_.emplace(key, Call{landed, &promise});
    lock.unlock();
    try {
      Value value = std::forward<Fn>(fn)();
      Remove(key, &promise);
      promise.set_value(std::move(value));
    } catch (...) {
      Remove(key, &promise);
      promise.set_exception(std::current_exception());
    }
    return landed.get();
  }

  void Forget(const Key& key) {
    const std::lock_guard lock(mutex_);
    calls_.erase(key);
  }

 private:
  struct Call {
    std::shared_future<Value> landed;
    const std::promise<Value>* leader;  // on the leader's stack: tells this call from a newer one
  };

  void Remove(const Key& key, const std::promise<Value>* leader) {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(key);
    if (found != calls_.end() && found->second.leader == leader) calls_.erase(found);
  }

  std::mutex mutex_;
  std::unordered_map<Key, Call> calls_;  // guarded by mutex_
};
