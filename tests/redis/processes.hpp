// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests of redis::Group that need no second process. Two Groups with one
// prefix do not know of each other, as if each were in a process of its own.

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "server.hpp"
#include "support/support.hpp"

namespace test {

using RedisPages = singleflight::redis::Group<std::string>;

inline singleflight::redis::Options OptionsFor(const RedisServer& server) {
  return {.unix_socket = server.Socket(), .prefix = "t", .command_timeout = 1min};
}

// A RedisLeader leads a call on its own thread. It stays inside its `fn` until Finish, or until it
// is destroyed.
template <class Group = RedisPages>
class RedisLeader {
 public:
  using Value = typename Group::ValueType;
  using Fn = std::function<Value(const singleflight::redis::Lease&)>;

  // Returns when `fn` has begun. After Finish, `fn` returns or throws what `and_then` does.
  RedisLeader(Group& group, std::string_view key, Fn and_then,
              singleflight::CallOptions options = {})
      : caller_([this, &group, key = std::string(key), and_then = std::move(and_then), options] {
          return group.Do(
              key,
              [&](const singleflight::redis::Lease& lease) {
                token_ = lease.token();
                begun_.set_value();
                finish_.get_future().wait();
                return and_then(lease);
              },
              options);
        }) {
    begun_.get_future().wait();
  }
  RedisLeader(Group& group, std::string_view key, Value value)
      : RedisLeader(group, key, Fn([value](const auto&) { return value; })) {}
  ~RedisLeader() { Finish(); }

  const std::string& Token() const { return token_; }

  const Outcome<Value>& Finish() {
    if (!std::exchange(finished_, true)) finish_.set_value();
    return caller_.Join();
  }

 private:
  std::promise<void> begun_, finish_;
  std::string token_;
  bool finished_ = false;
  Caller<Value> caller_;  // declared last: its thread uses the others
};

// This function must not run.
inline std::string NeverRun() { throw std::logic_error("fn was run"); }

inline std::string LeaseName(const std::string& prefix, const std::string& key) {
  return prefix + ":{" + key + "}:lease";
}

}  // namespace test
