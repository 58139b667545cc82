// SPDX-License-Identifier: MIT
#pragma once

// Connection: one connection to the server, over hiredis. It sends a command and waits for the
// reply, each until a deadline. hiredis blocks in the kernel, so we poll first to be able to give
// up earlier.

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <ratio>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#ifdef SINGLEFLIGHT_REDIS_TLS
#include <hiredis/hiredis_ssl.h>
#endif

#include "../../redis_options.hpp"
#include "outage.hpp"
#include "posix.hpp"

namespace singleflight::redis::detail {

using Clock = std::chrono::steady_clock;

struct FreeReply {
  void operator()(redisReply* reply) const noexcept { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

inline std::string_view TextOf(const redisReply& reply) noexcept {
  return reply.str != nullptr ? std::string_view(reply.str, reply.len) : std::string_view();
}

// Says when a caller gives up waiting for a reply: at `until`, or as soon as `stop_fd` is readable.
struct WaitLimit {
  Clock::time_point until;
  int stop_fd = -1;  // -1: no stop is possible
};

struct Endpoint {
  std::string host;
  int port;

  bool operator==(const Endpoint&) const = default;
};

// One thread at a time may use a connection. Once Ask has thrown Outage, the connection must not be
// used again.
class Connection {
 public:
  Connection(const Options& options, Endpoint endpoint)
      : endpoint_(std::move(endpoint)), command_timeout_(options.command_timeout) {
    const DisableCancellation guard;
    Connect(options);
    ::fcntl(context_->fd, F_SETFD, FD_CLOEXEC);
    Check(::redisSetTimeout(context_.get(), ToTimeval(command_timeout_)) == REDIS_OK);
    if (options.tls) StartTls(*options.tls);
    Authenticate(options, Clock::now() + options.connect_timeout);
  }

  const Endpoint& endpoint() const noexcept { return endpoint_; }

  // True if the connection may be used again.
  bool IsIdle() const noexcept {
    const redisReader& reader = *context_->reader;
    return awaited_ == 0 && context_->err == 0 && reader.pos == reader.len;  // nothing unsolicited
  }

  // Sends `command` and returns its reply, or null if `limit` was reached before the reply came.
  // Waits for at most `server_waits`, for which the server itself may block, plus the command
  // timeout. Throws nothing but Outage and std::bad_alloc.
  Reply Ask(std::span<const std::string_view> command, std::chrono::milliseconds server_waits,
            const WaitLimit& limit) {
    const Clock::time_point deadline = Clock::now() + server_waits + command_timeout_;
    Send(command, deadline);
    const bool limited = limit.until < deadline;
    Reply reply = Receive(limited ? limit.until : deadline, limit.stop_fd);
    if (reply == nullptr && !limited && Clock::now() >= deadline) throw Outage::Timeout(name_);
    return reply;
  }

 private:
  struct FreeContext {
    void operator()(redisContext* context) const noexcept {
      const DisableCancellation guard;
      ::redisFree(context);
    }
  };

  static timeval ToTimeval(std::chrono::milliseconds time) noexcept {
    using std::chrono::duration, std::chrono::duration_cast;
    using Seconds = duration<decltype(timeval::tv_sec)>;
    using Microseconds = duration<decltype(timeval::tv_usec), std::micro>;
    return {.tv_sec = duration_cast<Seconds>(time).count(),
            .tv_usec = duration_cast<Microseconds>(time % std::chrono::seconds(1)).count()};
  }

  void Connect(const Options& options) {
    const BlockSignals guard;
    const timeval timeout = ToTimeval(options.connect_timeout);
    if (options.unix_socket.empty()) {
      name_ = endpoint_.host + ':' + std::to_string(endpoint_.port);
      context_.reset(::redisConnectWithTimeout(endpoint_.host.c_str(), endpoint_.port, timeout));
    } else {
      name_ = options.unix_socket;
      context_.reset(::redisConnectUnixWithTimeout(name_.c_str(), timeout));
    }
    Check(context_ != nullptr && context_->err == 0);
  }

  void Authenticate(const Options& options, Clock::time_point deadline) {
    if (!options.password.empty()) {
      if (options.user.empty()) {
        Require({"AUTH", options.password}, deadline);
      } else {
        Require({"AUTH", options.user, options.password}, deadline);
      }
    }
    if (options.database != 0) {
      Require({"SELECT", std::to_string(options.database)}, deadline);
    }
  }

  // Sends a command that must succeed: throws Outage if the server refuses it.
  void Require(std::initializer_list<std::string_view> command, Clock::time_point deadline) {
    Send(command, deadline);
    const Reply reply = Receive(deadline, -1);
    if (reply == nullptr) throw Outage::Timeout(name_);
    if (reply->type == REDIS_REPLY_ERROR) {
      throw Outage(std::errc::protocol_error, name_ + ": " + std::string(TextOf(*reply)));
    }
  }

  void Send(std::span<const std::string_view> command, Clock::time_point deadline) {
    std::vector<const char*> words;
    std::vector<std::size_t> sizes;
    for (const std::string_view word : command) {
      words.push_back(word.data());
      sizes.push_back(word.size());
    }
    Check(::redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), words.data(),
                                   sizes.data()) == REDIS_OK);
    ++awaited_;
    const BlockSigPipe guard;
    for (int done = 0; done == 0;) {  // each write blocks for no longer than the command timeout
      if (Clock::now() >= deadline) throw Outage::Timeout(name_);
      Check(::redisBufferWrite(context_.get(), &done) == REDIS_OK);
    }
  }

  // Reads what has already arrived even after the deadline, but for at most one more command
  // timeout. Null if no whole reply came, or if `stop_fd` became readable first.
  Reply Receive(Clock::time_point deadline, int stop_fd) {
    std::optional<Clock::time_point> end;
    for (;;) {
      void* reply = nullptr;
      Check(::redisGetReplyFromReader(context_.get(), &reply) == REDIS_OK);
      if (reply != nullptr) {
        --awaited_;
        return Reply(static_cast<redisReply*>(reply));
      }
      const Clock::time_point now = Clock::now();
      if (now >= deadline && !end) end = now + command_timeout_;
      if ((end && now >= *end) || !AwaitReadable(deadline, stop_fd)) return nullptr;
      Check(::redisBufferRead(context_.get()) == REDIS_OK);
    }
  }

  // False if the deadline passed or `stop_fd` became readable first.
  bool AwaitReadable(Clock::time_point deadline, int stop_fd) {
    std::array<pollfd, 2> fds = {pollfd{context_->fd, POLLIN, 0}, pollfd{stop_fd, POLLIN, 0}};
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      const auto timeout = std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, 1 << 30);
      const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(timeout));
      if (fds[1].revents != 0) return false;
      if (ready > 0) return true;
      if (ready == 0 && timeout < 1 << 30) return false;
      if (ready < 0 && errno != EINTR) {
        throw Outage(std::errc::not_connected, std::generic_category().message(errno));
      }
    }
  }

  void Check(bool succeeded) const {
    if (succeeded) return;
    if (context_ == nullptr || context_->err == REDIS_ERR_OOM) throw std::bad_alloc();
    throw Outage(std::errc::not_connected, name_ + ": " + context_->errstr);
  }

#ifdef SINGLEFLIGHT_REDIS_TLS
  void StartTls(const Tls& tls) {
    const auto or_null = [](const std::string& text) {
      return text.empty() ? nullptr : text.c_str();
    };
    redisSSLContextError error = REDIS_SSL_CTX_NONE;
    tls_.reset(::redisCreateSSLContext(or_null(tls.ca_file), or_null(tls.ca_directory),
                                       or_null(tls.certificate_file), or_null(tls.key_file),
                                       or_null(tls.server_name), &error));
    if (tls_ == nullptr) {
      throw Outage(std::errc::not_connected, ::redisSSLContextGetError(error));
    }
    const BlockSigPipe guard;
    Check(::redisInitiateSSLWithContext(context_.get(), tls_.get()) == REDIS_OK);
  }
  struct FreeTls {
    void operator()(redisSSLContext* context) const noexcept { ::redisFreeSSLContext(context); }
  };
  std::unique_ptr<redisSSLContext, FreeTls> tls_;
#else
  static void StartTls(const Tls&) {}  // CheckOptions has refused `tls`
#endif

  const Endpoint endpoint_;
  std::string name_;  // the server's address, for messages
  const std::chrono::milliseconds command_timeout_;
  std::unique_ptr<redisContext, FreeContext> context_;
  int awaited_ = 0;  // replies that have not come yet
};

}  // namespace singleflight::redis::detail
