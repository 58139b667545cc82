// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests of redis::ReadThrough. A CacheProcess stands for a process: it has a
// client of its own, so two of them know nothing of each other. Its prefix is "c".
//
//   const RedisServer server;
//   CachePages here(server, {.ttl = 1h}), there(server, {.ttl = 1h});
//   CHECK(*here.Get("k", [] { return "v"s; }) == "v");
//   CHECK(*there.Get("k", NeverRun) == "v");
//
// Times are the server's, so no test waits for one: Age makes a value as old as it is to be.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <ostream>
#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/support.hpp"
#include "ways.hpp"

namespace singleflight::redis {

// Catch2 prints these types with this operator.
inline std::ostream& operator<<(std::ostream& out, const ReadThroughStats& stats) {
  return out << "{local_hits " << stats.local_hits << ", hits " << stats.hits << ", loads "
             << stats.loads << ", stale " << stats.stale << ", early_refreshes "
             << stats.early_refreshes << ", invalidations " << stats.invalidations << ", emptied "
             << stats.emptied << ", evictions " << stats.evictions << ", fleet " << stats.fleet
             << "}";
}

}  // namespace singleflight::redis

namespace test {

template <class Value, class ValueCodec = singleflight::redis::Codec<Value>>
class CacheProcess : private redis_process_detail::HasClient,
                     public singleflight::redis::ReadThrough<Value, ValueCodec> {
  using Base = singleflight::redis::ReadThrough<Value, ValueCodec>;

 public:
  using Options = singleflight::redis::ReadThroughOptions<Value>;

  CacheProcess(const RedisServer& server, const Options& options, std::string_view prefix = "c")
      : CacheProcess(ClientOptionsFor(server), options, prefix) {}
  CacheProcess(const singleflight::redis::ClientOptions& client_options, const Options& options,
               std::string_view prefix = "c")
      : HasClient{singleflight::redis::Client(client_options)}, Base(client, prefix, options) {}

  singleflight::redis::Client& GetClient() { return client; }
};

using CachePages = CacheProcess<std::string>;
using PageOptions = singleflight::redis::ReadThroughOptions<std::string>;

// Returns options under which nothing happens but what the test does: times are long, and an outage
// is not hidden.
inline PageOptions LongTtl() {
  PageOptions options{.ttl = 1h};
  options.fleet.lease = options.fleet.linger = 1h;
  options.fleet.on_outage = singleflight::redis::OnOutage::kFail;
  return options;
}

// With these, expired values are served for another hour.
inline PageOptions Stale() {
  PageOptions options = LongTtl();
  options.stale_for = 1h;
  return options;
}

// ---- What the server has

inline std::string GenerationOf(const RedisServer& server, const std::string& prefix = "c") {
  return server.Get(prefix + ":generation").value_or("");
}
// Names what is on the server for a key that does not begin with a brace. `what` is value, failed
// or lease.
inline std::string CacheName(const RedisServer& server, const std::string& key,
                             const std::string& what, const std::string& prefix = "c") {
  return prefix + ':' + GenerationOf(server, prefix) + ":{" + key + "}:" + what;
}
inline bool Has(const RedisServer& server, const std::string& key, const std::string& what) {
  return server.Get(CacheName(server, key, what)).has_value();
}
inline bool HasLease(const RedisServer& server, const std::string& key) {
  return server.Ask("EXISTS", CacheName(server, key, "lease")).number == 1;
}
// Returns when so many processes follow the load of `key`.
inline void AwaitCacheFollowers(const RedisServer& server, const std::string& key,
                                std::size_t count) {
  Await([&] { return InboxesAt(server, CacheName(server, key, "lease")).size() == count; });
}

inline std::chrono::microseconds ServerTime(const RedisServer& server) {
  const RedisAnswer time = server.Ask("TIME");
  return std::chrono::seconds(std::stoll(time.elements.at(0).text)) +
         std::chrono::microseconds(std::stoll(time.elements.at(1).text));
}
// Returns until when, by its own clock, the server's value for `key` is fresh.
inline std::chrono::microseconds FreshUntil(const RedisServer& server, const std::string& key) {
  return std::chrono::microseconds(
      std::stoll(server.Get(CacheName(server, key, "value")).value().substr(0, 16)));
}
// Returns how long the server keeps something.
inline std::chrono::milliseconds TimeLeft(const RedisServer& server, const std::string& key,
                                          const std::string& what = "value") {
  return std::chrono::milliseconds(server.Ask("PTTL", CacheName(server, key, what)).number);
}

// Makes the server's value for `key`, or what is kept of a failure, older by that much.
inline void Age(const RedisServer& server, const std::string& key, std::chrono::milliseconds by) {
  server.Ask("EVAL", R"lua(
    for i, name in ipairs(KEYS) do
      local bytes, left = redis.call('GET', name), redis.call('PTTL', name)
      if bytes and left <= tonumber(ARGV[1]) then
        redis.call('DEL', name)
      elseif bytes then
        if i == 1 then
          local fresh_until = string.sub(bytes, 1, 16) - ARGV[1] * 1000
          bytes = string.format('%016.0f', fresh_until) .. string.sub(bytes, 17)
        end
        redis.call('SET', name, bytes, 'PX', left - ARGV[1])
      end
    end
  )lua",
             "3", CacheName(server, key, "value"), CacheName(server, key, "fresh"),
             CacheName(server, key, "failed"), std::to_string(by.count()));
}
// Makes it look as if the load of the server's value for `key` had taken so long.
inline void SetLoadTime(const RedisServer& server, const std::string& key,
                        std::chrono::microseconds time) {
  std::string digits = std::to_string(time.count());
  digits.insert(0, 16 - digits.size(), '0');
  server.Ask("SETRANGE", CacheName(server, key, "value"), "16", digits);
}

// Returns when a process with a local cache hears of invalidations, so that it keeps values from
// now on. Its local cache is emptied when it learns the generation and when it has subscribed.
template <class Cache>
void AwaitListening(Cache& cache) {
  static_cast<void>(cache.Peek("listens"));
  Await([&] { return cache.GetStats().emptied >= 2; });
}

// Puts a value, and returns when this process, which has a local cache, has heard of that. Else the
// message could still remove what is kept here afterwards.
template <class Cache, class Value>
void PutAndHear(Cache& cache, const std::string& key, const Value& value) {
  const auto heard = cache.GetStats().invalidations;
  cache.Put(key, value);
  Await([&] { return cache.GetStats().invalidations > heard; });
}

// ---- Through a proxy

// The connection for commands: a client makes the one for messages after that.
inline constexpr std::size_t kForCommands = 0;

// Returns what has come so far in answer to commands.
inline RedisProxy::Place EndOfReplies(const RedisProxy& proxy) {
  return {RedisProxy::kReplies, proxy.Bytes(kForCommands, RedisProxy::kReplies), kForCommands};
}

// Holds what the server answers next to a process whose client has asked something through `proxy`.
// Release of the proxy lets it through.
class HeldAnswer {
 public:
  explicit HeldAnswer(RedisProxy& proxy) : proxy_(proxy), first_(EndOfReplies(proxy).bytes + 1) {
    proxy.HoldAt({RedisProxy::kReplies, first_, kForCommands});
  }
  // Returns when the server has run what it was asked, since the first byte of its answer is here.
  void AwaitAnswered() const {
    Await([&] { return proxy_.Bytes(kForCommands, RedisProxy::kReplies) == first_; });
  }

 private:
  RedisProxy& proxy_;
  const std::uint64_t first_;
};

// ---- Loads

// Returns a load that counts its runs, and returns `value`.
template <class Value = std::string>
auto Counted(std::atomic<int>& runs, Value value) {
  return [&runs, value = std::move(value)] {
    ++runs;
    return value;
  };
}

// A load that stays inside until Finish. It may outlive the caller that brought it.
class HeldLoad {
 public:
  using And = std::function<std::string()>;

  explicit HeldLoad(std::string value) : HeldLoad(And([value] { return value; })) {}
  explicit HeldLoad(And and_then)
      : held_(std::make_shared<Held>()), and_then_(std::move(and_then)) {}
  ~HeldLoad() { Finish(); }
  HeldLoad(const HeldLoad&) = delete;
  HeldLoad& operator=(const HeldLoad&) = delete;

  auto Load() const {
    return [held = held_, and_then = and_then_] {
      ++held->runs;
      held->begun = true;
      held->begun.notify_all();
      held->finished.wait(false);
      return and_then();
    };
  }
  void AwaitBegun() const { held_->begun.wait(false); }
  void Finish() {
    held_->finished = true;
    held_->finished.notify_all();
  }
  int Runs() const { return held_->runs; }

 private:
  struct Held {
    std::atomic<int> runs = 0;
    std::atomic<bool> begun = false, finished = false;
  };
  const std::shared_ptr<Held> held_;
  const And and_then_;
};

// Returns when a server has answered all that a process had to ask of it before.
template <class Cache>
void AwaitAnswersOf(Cache& cache) {
  auto& core = singleflight::redis::detail::ClientAccess::Core(cache.GetClient());
  std::promise<void> answered;
  core.Loop().Post([&] {
    const std::array<std::string_view, 1> ping = {"PING"};
    core.Commands().Run(std::nullopt, ping, [&](const auto&) { answered.set_value(); });
  });
  answered.get_future().wait();
}

// Returns when no load of `key` is in flight, and what it has ended with is on the server.
inline void AwaitNoLease(const RedisServer& server, const std::string& key) {
  Await([&] { return !HasLease(server, key); });
}

// Puts "old" for `key`, by way of `pages`, and makes it expire. It is still usable if its time as
// an expired value is longer.
inline void PutExpired(const RedisServer& server, CachePages& pages, const std::string& key,
                       std::chrono::milliseconds ttl = 1h) {
  pages.Put(key, "old");
  Age(server, key, ttl + 1ms);
}

}  // namespace test
