// SPDX-License-Identifier: MIT
#pragma once

// A Redis or Valkey server as the cache of a ReadThrough, through hiredis (Debian: libhiredis-dev).
//
//   std::signal(SIGPIPE, SIG_IGN);  // hiredis raises it if the server has closed the connection
//   RedisCache cache(redisConnectWithTimeout("127.0.0.1", 6379, {0, 100'000}), 30s, 100ms);
//   singleflight::ReadThrough<std::string, std::string, RedisCache> pages(std::move(cache));
//
// Keys and values are any bytes. A value that another process has put is found, too.
//
// **Warning:** ReadThrough::Invalidate forgets the calls of its own process only. A load that began
// in another process may put an old value back, which then stays until it expires.

#include <hiredis/hiredis.h>

#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

// One connection.
//
// Thread: one at a time. A ReadThrough takes care of that.
// Errors: every member throws std::runtime_error if the server cannot do what it is asked to do.
//   The next call connects again if the connection was lost.
class RedisCache {
 public:
  // Takes ownership of `connection`, which may have failed: the first command then connects again.
  // An entry lives for `ttl`, which is at least a millisecond. A command fails if its answer takes
  // longer than `timeout`. Zero means no timeout.
  RedisCache(redisContext* connection, std::chrono::milliseconds ttl,
             std::chrono::milliseconds timeout)
      : connection_(connection), ttl_(ttl), timeout_(timeout) {
    if (connection == nullptr) throw std::bad_alloc();
    SetTimeout();
  }

  std::optional<std::string> Get(std::string_view key) {
    const Reply reply = Command("GET %b", key.data(), key.size());
    if (reply->type == REDIS_REPLY_NIL) return std::nullopt;
    return std::string(reply->str, reply->len);
  }

  void Put(std::string_view key, std::string_view value) {
    const long long ttl = ttl_.count();
    Command("SET %b %b PX %lld", key.data(), key.size(), value.data(), value.size(), ttl);
  }

  void Erase(std::string_view key) { Command("DEL %b", key.data(), key.size()); }

 private:
  struct Free {
    void operator()(redisContext* connection) const { redisFree(connection); }
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, Free>;

  template <class... Args>
  Reply Command(const char* format, Args... args) {
    if (connection_->err != 0) {
      redisReconnect(connection_.get());
      SetTimeout();
    }
    Reply reply(static_cast<redisReply*>(redisCommand(connection_.get(), format, args...)));
    if (reply == nullptr) throw std::runtime_error(connection_->errstr);
    if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(reply->str);
    return reply;
  }

  void SetTimeout() {
    const auto us = std::chrono::microseconds(timeout_).count();
    redisSetTimeout(connection_.get(), {.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000});
  }

  std::unique_ptr<redisContext, Free> connection_;
  std::chrono::milliseconds ttl_;
  std::chrono::milliseconds timeout_;
};
