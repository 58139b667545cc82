// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests of redis::Group that need no second process. A RedisProcess stands
// for one: it is a group with a client of its own, so two of them know nothing of each other.
//
//   const RedisServer server;
//   RedisPages here(server), there(server);
//   RedisLeader leader(here, "k", "v");
//   test::Caller follower([&] { return there.Do("k", NeverRun); });
//   AwaitFollowers(server, "k", 1);
//   leader.Finish();

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <future>
#include <ostream>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client_options.hpp"
#include "server.hpp"
#include "support/support.hpp"

namespace singleflight::redis {

// Catch2 prints these types with this operator.
inline std::ostream& operator<<(std::ostream& out, const Stats& stats) {
  return out << "{executions " << stats.executions << ", remote " << stats.remote << ", takeovers "
             << stats.takeovers << ", unpublished " << stats.unpublished << ", untold "
             << stats.untold << ", told_to_run " << stats.told_to_run << ", failed_renewals "
             << stats.failed_renewals << ", lost_leases " << stats.lost_leases << ", undecodable "
             << stats.undecodable << ", outages " << stats.outages << ", calls " << stats.calls
             << "}";
}

}  // namespace singleflight::redis

namespace test {

namespace redis_process_detail {
struct HasClient {
  singleflight::redis::Client client;
};
}  // namespace redis_process_detail

template <class Value, class ValueCodec = singleflight::redis::Codec<Value>>
class RedisProcess : private redis_process_detail::HasClient,
                     public singleflight::redis::Group<Value, ValueCodec> {
  using Base = singleflight::redis::Group<Value, ValueCodec>;

 public:
  explicit RedisProcess(const RedisServer& server, const singleflight::redis::Options& options = {},
                        std::string_view prefix = "t")
      : RedisProcess(ClientOptionsFor(server), options, prefix) {}
  explicit RedisProcess(const singleflight::redis::ClientOptions& client_options,
                        const singleflight::redis::Options& options = {},
                        std::string_view prefix = "t")
      : HasClient{singleflight::redis::Client(client_options)}, Base(client, prefix, options) {}

  singleflight::redis::Client& GetClient() { return client; }
};

using RedisPages = RedisProcess<std::string>;

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

// Names of what is on the server for an ordinary key: one that does not begin with a brace.
inline std::string LeaseName(const std::string& prefix, const std::string& key) {
  return prefix + ":{" + key + "}:lease";
}
inline std::string OutcomeName(const std::string& prefix, const std::string& key,
                               const std::string& token) {
  return prefix + ":{" + key + "}:outcome:" + token;
}
inline std::string ForgottenName(const std::string& prefix, const std::string& key,
                                 const std::string& token) {
  return prefix + ":{" + key + "}:forgotten:" + token;
}

// Returns the inboxes of the processes that follow the call whose lease has this name.
inline std::vector<std::string> InboxesAt(const RedisServer& server, const std::string& lease) {
  std::vector<std::string> inboxes;
  for (const RedisAnswer& field : server.Ask("HKEYS", lease).elements) {
    if (field.text.starts_with("f:")) inboxes.push_back(field.text.substr(2));
  }
  return inboxes;
}
// Returns when so many processes follow the call for `key`.
inline void AwaitFollowers(const RedisServer& server, const std::string& key, std::size_t count,
                           const std::string& prefix = "t") {
  Await([&] { return InboxesAt(server, LeaseName(prefix, key)).size() == count; });
}

// Returns a field of the lease of `key`, such as "token".
inline std::string LeaseField(const RedisServer& server, const std::string& key,
                              std::string_view field, const std::string& prefix = "t") {
  return server.Ask("HGET", LeaseName(prefix, key), field).text;
}

}  // namespace test
