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

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
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
//   The next call connects again if the connection was lost. After a call that took its whole
//   timeout, calls throw at once for `retry_after`, so callers do not queue for a server that
//   hangs.
class RedisCache {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // Takes ownership of `connection`, which may have failed: the first command then connects again.
  // An entry lives for `ttl`, which is at least a millisecond. A command fails if it takes longer
  // than `timeout`, connecting included. Zero means no timeout. The lookup of a host's name is not
  // limited, so connect to an address.
  RedisCache(redisContext* connection, Milliseconds ttl, Milliseconds timeout,
             Milliseconds retry_after = std::chrono::seconds(1))
      : connection_(connection), ttl_(ttl), timeout_(timeout), retry_after_(retry_after) {
    if (connection == nullptr) throw std::bad_alloc();
    DoNotBlock();
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
  using Clock = std::chrono::steady_clock;

  template <class... Args>
  Reply Command(const char* format, Args... args) {
    const Clock::time_point now = Clock::now();
    if (now < left_alone_until_) throw std::runtime_error("Redis has not answered in time before");
    deadline_ = timeout_ == Milliseconds(0) ? Clock::time_point::max() : now + timeout_;
    if (broken_ || connection_->err != 0) Reconnect();
    broken_ = true;  // unless its reply comes: a late one must not answer the next command
    if (redisAppendCommand(connection_.get(), format, args...) != REDIS_OK) Fail();
    for (int written = 0; written == 0;) {
      if (redisBufferWrite(connection_.get(), &written) != REDIS_OK) Fail();
      if (written == 0) AwaitReady(POLLOUT);
    }
    void* received = nullptr;
    while (redisGetReplyFromReader(connection_.get(), &received) == REDIS_OK &&
           received == nullptr) {
      AwaitReady(POLLIN);
      if (redisBufferRead(connection_.get()) != REDIS_OK) Fail();
    }
    Reply reply(static_cast<redisReply*>(received));
    if (reply == nullptr) Fail();
    broken_ = false;
    if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(reply->str);
    return reply;
  }

  void Reconnect() {
    redisReconnect(connection_.get());
    DoNotBlock();
    if (connection_->err != 0) Fail();
    AwaitReady(POLLOUT);
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(connection_->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) throw std::runtime_error(std::strerror(error));
  }

  // Makes hiredis return instead of waiting, so that the deadline can be kept.
  void DoNotBlock() {
    connection_->flags &= ~REDIS_BLOCK;
    if (connection_->err != 0) return;
    ::fcntl(connection_->fd, F_SETFL, ::fcntl(connection_->fd, F_GETFL) | O_NONBLOCK);
  }

  void AwaitReady(short events) {
    pollfd poll_for = {.fd = connection_->fd, .events = events, .revents = 0};
    for (;;) {
      int wait = -1;
      if (deadline_ != Clock::time_point::max()) {
        const auto left = std::chrono::ceil<Milliseconds>(deadline_ - Clock::now());
        wait = static_cast<int>(std::clamp<Milliseconds::rep>(left.count(), 0, 1'000'000));
      }
      const int ready = ::poll(&poll_for, 1, wait);
      if (ready > 0 || (ready < 0 && errno != EINTR)) return;  // hiredis will report an error
      if (Clock::now() < deadline_) continue;
      broken_ = true;
      left_alone_until_ = Clock::now() + retry_after_;
      throw std::runtime_error("Redis did not answer in time");
    }
  }

  [[noreturn]] void Fail() const { throw std::runtime_error(connection_->errstr); }

  std::unique_ptr<redisContext, Free> connection_;
  Milliseconds ttl_;
  Milliseconds timeout_;
  Milliseconds retry_after_;
  Clock::time_point deadline_ = {};  // of the current command
  Clock::time_point left_alone_until_ = {};
  bool broken_ = false;  // connect again, although hiredis sees no error
};
