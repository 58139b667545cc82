// SPDX-License-Identifier: MIT
#pragma once

// Notices that a client has closed its connection while a thread works for it.
//
//   ClientWatch watch;                                  // one for each server
//
//   ClientConnection client(watch, socket);             // in the thread that serves the socket
//   ... ClientConnection::HasGone() ...                 // deeper in its calls: a stop token
//
// A client that has shut down its sending side counts as gone, as it does for nginx. It needs
// Linux.

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <singleflight/stop_token.hpp>
#include <system_error>
#include <thread>
#include <utility>

// Thread: Add and Remove may be called from any thread. The stops are requested on the one thread
//   of the watch, one after the other.
class ClientWatch {
 public:
  // Errors: throws std::system_error if there is no descriptor or no thread.
  ClientWatch() {
    epoll_event wake = {.events = EPOLLIN, .data = {.u64 = kWake}};
    if (epoll_ < 0 || wake_ < 0 || ::epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &wake) != 0) {
      const int error = errno;
      Close();
      throw std::system_error(error, std::system_category(), "ClientWatch");
    }
    thread_ = std::thread([this] { Run(); });
  }
  // Lifetime: nothing may be watched any more.
  ~ClientWatch() {
    const std::uint64_t one = 1;
    while (::write(wake_, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    thread_.join();
    Close();
  }
  ClientWatch(const ClientWatch&) = delete;
  ClientWatch& operator=(const ClientWatch&) = delete;

  // Requests the stop once the client has gone. Returns a number for Remove. If the system cannot
  // watch the socket, the stop is never requested.
  std::uint64_t Add(int socket, singleflight::StopSource gone) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t id = ++last_id_;
    epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data = {.u64 = id}};
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, socket, &event) == 0) clients_.emplace(id, gone);
    return id;
  }

  void Remove(int socket, std::uint64_t id) {
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, socket, nullptr);
    const std::lock_guard lock(mutex_);
    clients_.erase(id);
  }

 private:
  static constexpr std::uint64_t kWake = 0;

  void Run() {
    for (;;) {
      epoll_event event = {};
      if (::epoll_wait(epoll_, &event, 1, -1) != 1) continue;
      const std::uint64_t id = event.data.u64;  // a copy: the event may be packed, so not aligned
      if (id == kWake) return;
      std::optional<singleflight::StopSource> gone;
      {
        const std::lock_guard lock(mutex_);
        const auto found = clients_.find(id);  // none if it was removed meanwhile
        if (found != clients_.end()) gone = found->second;
      }
      if (gone) gone->request_stop();  // without the lock, because it runs callbacks
    }
  }

  void Close() {
    if (epoll_ >= 0) ::close(epoll_);
    if (wake_ >= 0) ::close(wake_);
  }

  const int epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  const int wake_ = ::eventfd(0, EFD_CLOEXEC);
  std::mutex mutex_;
  std::uint64_t last_id_ = kWake;                              // guarded by mutex_
  std::map<std::uint64_t, singleflight::StopSource> clients_;  // guarded by mutex_
  std::thread thread_;
};

// The client that this thread works for while the object lives. It is watched from the first
// HasGone() on, so a request that waits for nobody costs nothing.
//
// Lifetime: the socket must stay open, and the watch must outlive this.
class ClientConnection {
 public:
  ClientConnection(ClientWatch& watch, int socket)
      : watch_(watch), socket_(socket), outer_(current_) {
    current_ = this;
  }
  ~ClientConnection() {
    current_ = outer_;
    if (id_) watch_.Remove(socket_, *id_);
  }
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  // Returns a token of this thread's client. Without a client, no stop is ever requested of it.
  static singleflight::StopToken HasGone() {
    if (current_ == nullptr) return {};
    if (!current_->id_) {
      current_->id_ = current_->watch_.Add(current_->socket_, current_->gone_.emplace());
    }
    return current_->gone_->get_token();
  }

  // While it lives, this thread has no client, because it works for others as well. Otherwise that
  // one client could stop a part of the work by leaving.
  class Hidden {
   public:
    Hidden() : hidden_(std::exchange(current_, nullptr)) {}
    ~Hidden() { current_ = hidden_; }
    Hidden(const Hidden&) = delete;
    Hidden& operator=(const Hidden&) = delete;

   private:
    ClientConnection* const hidden_;
  };

 private:
  static inline thread_local ClientConnection* current_ = nullptr;

  ClientWatch& watch_;
  const int socket_;
  ClientConnection* const outer_;
  std::optional<singleflight::StopSource> gone_;
  std::optional<std::uint64_t> id_;
};
