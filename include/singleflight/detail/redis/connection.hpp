// SPDX-License-Identifier: MIT
#pragma once

// One connection to the server, over hiredis: a command is sent, its reply awaited, each until a
// deadline. hiredis blocks in the kernel; to be able to give up earlier, we poll first.

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#ifdef SINGLEFLIGHT_REDIS_TLS
#include <hiredis/hiredis_ssl.h>
#endif

#include "../../redis_options.hpp"

namespace singleflight::redis::detail {

using Clock = std::chrono::steady_clock;

// The server cannot be used. `not_connected`: it cannot be reached, does not answer in time or has
// ended the connection; `protocol_error`: it answers what we cannot work with.
class Outage : public std::system_error {
 public:
  Outage(std::errc code, const std::string& what)
      : std::system_error(std::make_error_code(code), "singleflight::redis: " + what) {}

  static Outage Timeout(const std::string& where) {
    Outage outage(std::errc::not_connected, where + " did not answer in time");
    outage.is_timeout_ = true;
    return outage;
  }

  bool IsConnectionLoss() const noexcept { return code() == std::errc::not_connected; }
  bool IsTimeout() const noexcept { return is_timeout_; }

 private:
  bool is_timeout_ = false;
};

struct FreeReply {
  void operator()(redisReply* reply) const noexcept { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

inline std::string_view TextOf(const redisReply& reply) noexcept {
  return reply.str != nullptr ? std::string_view(reply.str, reply.len) : std::string_view();
}

// Where a thread cancellation would leak what C functions hold, or throw out of a destructor.
class DisableCancellation {
 public:
  DisableCancellation() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~DisableCancellation() { ::pthread_setcancelstate(before_, nullptr); }
  DisableCancellation(const DisableCancellation&) = delete;
  DisableCancellation& operator=(const DisableCancellation&) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

// Neither hiredis nor OpenSSL keep a write to a closed connection from raising SIGPIPE, which ends
// the process. Here it is taken off the thread again, unless it had been pending before.
class BlockSigPipe {
 public:
  BlockSigPipe() noexcept {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    was_pending_ = ::sigismember(&before_, SIGPIPE) == 1 && IsPending();  // else it had come
  }
  ~BlockSigPipe() {
    const DisableCancellation guard;  // sigwait is a cancellation point
    if (!was_pending_ && IsPending()) {
      int signal = 0;
      ::sigwait(&pipe_, &signal);
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  BlockSigPipe(const BlockSigPipe&) = delete;
  BlockSigPipe& operator=(const BlockSigPipe&) = delete;

 private:
  static bool IsPending() noexcept {
    sigset_t pending;
    return ::sigpending(&pending) == 0 && ::sigismember(&pending, SIGPIPE) == 1;
  }

  sigset_t pipe_;
  sigset_t before_;
  bool was_pending_;
};

// hiredis takes a signal that interrupts its connecting for a failure.
class BlockSignals {
 public:
  BlockSignals() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

// A file descriptor that becomes readable when a stop is requested.
class StopFd {
 public:
  explicit StopFd(const std::stop_token& stop) {
    if (!stop.stop_possible()) return;
    if (::pipe(ends_.data()) != 0) {
      throw Outage(std::errc::not_connected, std::generic_category().message(errno));
    }
    for (const int end : ends_) ::fcntl(end, F_SETFD, FD_CLOEXEC);
    on_stop_.emplace(stop, Write{ends_[1]});
  }
  ~StopFd() {
    const DisableCancellation guard;
    on_stop_.reset();
    for (const int end : ends_) {
      if (end >= 0) ::close(end);
    }
  }
  StopFd(const StopFd&) = delete;
  StopFd& operator=(const StopFd&) = delete;

  int get() const noexcept { return ends_[0]; }  // -1 if no stop is possible

 private:
  struct Write {
    void operator()() const noexcept {
      const DisableCancellation guard;
      while (::write(end, "", 1) < 0 && errno == EINTR) {
      }
    }
    int end;
  };

  std::array<int, 2> ends_ = {-1, -1};
  std::optional<std::stop_callback<Write>> on_stop_;
};

// When a caller gives up on a reply that is to come.
struct WaitLimit {
  Clock::time_point until;
  int stop_fd = -1;  // readable: at once
};

struct Endpoint {
  std::string host;
  int port;

  bool operator==(const Endpoint&) const = default;
};

// Not for several threads at once. Every member throws Outage; afterwards the connection is of no
// use any more.
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

  // Whether it may be used again.
  bool IsIdle() const noexcept {
    const redisReader& reader = *context_->reader;
    return awaited_ == 0 && context_->err == 0 && reader.pos == reader.len;  // nothing unasked for
  }

  // Throws nothing but Outage and std::bad_alloc. Null if limit ended before the reply came;
  // otherwise this waits for as long as the server may (`server_waits`) and the command timeout.
  Reply Ask(std::span<const std::string_view> command, std::chrono::milliseconds server_waits,
            const WaitLimit& limit) {
    const Clock::time_point deadline = Clock::now() + server_waits + command_timeout_;
    Send(command, deadline);
    const bool impatient = limit.until < deadline;
    Reply reply = Receive(impatient ? limit.until : deadline, limit.stop_fd);
    if (reply == nullptr && !impatient && Clock::now() >= deadline) throw Outage::Timeout(name_);
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
    return {.tv_sec = static_cast<decltype(timeval::tv_sec)>(time.count() / 1000),
            .tv_usec = static_cast<decltype(timeval::tv_usec)>(time.count() % 1000 * 1000)};
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

  // For a command that must succeed.
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

  // What is there is read, however late it is; what never ends is not.
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

  // False if the deadline passed or `stop_fd` became readable before.
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
  static void StartTls(const Tls&) {}  // the Group's constructor has refused it
#endif

  const Endpoint endpoint_;
  std::string name_;  // of what it is connected to
  const std::chrono::milliseconds command_timeout_;
  std::unique_ptr<redisContext, FreeContext> context_;
  int awaited_ = 0;  // replies to come
};

}  // namespace singleflight::redis::detail
