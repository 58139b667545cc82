// SPDX-License-Identifier: MIT
#pragma once

// A RedisProxy stands between clients and a server on a Unix socket, and forwards what they send.
// It does harm where a test wants it: after an exact number of bytes of a connection's requests or
// replies.
//
//   RedisProxy proxy(server.Socket());
//   proxy.CutAt({RedisProxy::kReplies, 5});  // cuts each connection within its first reply
//
// It can also be a slow network, or one that is away for a while. It knows nothing of Redis, so any
// server on a Unix socket will do. It has one thread.

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "support/temporary_directory.hpp"
#include "support/threads.hpp"

namespace test {

// Owns a file descriptor, such as a socket, and closes it when destroyed.
class UniqueFd {
 public:
  explicit UniqueFd(int file) : file_(file) {}
  UniqueFd(UniqueFd&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  ~UniqueFd() {
    if (file_ >= 0) ::close(file_);
  }
  UniqueFd& operator=(UniqueFd other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }

  int operator*() const { return file_; }

 private:
  int file_;
};

inline sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(), path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  return address;
}

// Returns a non-blocking socket that listens at `path`.
inline UniqueFd ListenAt(const std::string& path) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = UnixAddress(path);
  if (::bind(*listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(*listener, SOMAXCONN) != 0) {
    throw std::system_error(errno, std::generic_category(), path);
  }
  return listener;
}

// Returns a connection to the listener at `path`, or -1. `flags` may be SOCK_NONBLOCK.
inline UniqueFd ConnectTo(const std::string& path, int flags = 0) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  const sockaddr_un address = UnixAddress(path);
  if (::connect(*socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return UniqueFd(-1);
  }
  return socket;
}

// Any thread may use its members, and so may the hooks that it calls.
class RedisProxy {
 public:
  enum Way : unsigned char { kRequests, kReplies };  // to the server, and back

  // A Place is between two bytes of a connection: exactly `bytes` of them were forwarded this way.
  struct Place {
    Way way;
    std::uint64_t bytes;
    std::optional<std::size_t> connection = {};  // counted from 0 as they arrive; none: all
  };

  explicit RedisProxy(std::string server) : server_(std::move(server)) {}
  ~RedisProxy() {
    stopped_ = true;
    Wake();
  }

  std::string Socket() const { return directory_.Path() + "/socket"; }

  // The functions below make rules for a place. A rule is applied once to each connection, as soon
  // as it is at the place. A new connection starts at 0 both ways. A connection that has passed the
  // place is left alone. Several rules for one place are applied in the order in which they were
  // made.

  // Both sides see the connection closed, the receiver after the bytes that were forwarded.
  void CutAt(Place place) { AddRule(place, kCut, {}); }
  // Nothing more is forwarded this way until Release.
  void HoldAt(Place place) { AddRule(place, kHold, {}); }
  // The next byte is forwarded with these bits inverted.
  void CorruptAt(Place place, unsigned char bits = 0xff) { AddRule(place, kCorrupt, {}, bits); }
  // Calls `hook` on the proxy's thread. Nothing at all is forwarded before it returns.
  void CallAt(Place place, std::function<void()> hook) { AddRule(place, kCall, std::move(hook)); }

  // Forwards what is held.
  void Release() {
    {
      const std::lock_guard lock(mutex_);
      for (Connection& connection : connections_) {
        for (Flow& flow : connection.flows) flow.held = false;
      }
    }
    Wake();
  }
  // Removes all rules. What is held stays held.
  void ForgetRules() {
    const std::lock_guard lock(mutex_);
    rules_.clear();
  }

  // From now on, what is read is forwarded that much later, either way.
  void DelayBy(std::chrono::microseconds delay) {
    const std::lock_guard lock(mutex_);
    delay_ = delay;
  }
  // From now on, each connection forwards so many bytes of requests per second.
  void LimitTo(std::uint64_t bytes_per_second) {
    const std::lock_guard lock(mutex_);
    rate_ = bytes_per_second;
  }
  // Cuts all connections, and refuses new ones until ComeBack.
  void GoAway() {
    {
      const std::lock_guard lock(mutex_);
      is_away_ = true;
      listener_ = UniqueFd(-1);
      ::unlink(Socket().c_str());
      for (Connection& connection : connections_) connection.is_cut = true;
    }
    Wake();
  }
  void ComeBack() {
    {
      const std::lock_guard lock(mutex_);
      if (!std::exchange(is_away_, false)) return;
      listener_ = ListenAt(Socket());
    }
    Wake();
  }

  // Returns how many connections have arrived so far.
  std::size_t Connections() const {
    const std::lock_guard lock(mutex_);
    return forwarded_.size();
  }
  // Returns how many connections are open.
  std::size_t OpenConnections() const {
    const std::lock_guard lock(mutex_);
    return connections_.size();
  }
  // Returns how many bytes were forwarded. They have arrived, or will even if the connection is
  // cut.
  std::uint64_t Bytes(std::size_t connection, Way way) const {
    const std::lock_guard lock(mutex_);
    return forwarded_.at(connection)[way];
  }
  // Returns how often a rule was applied.
  std::size_t Actions() const {
    const std::lock_guard lock(mutex_);
    return actions_;
  }

 private:
  enum Action : unsigned char { kCut, kHold, kCorrupt, kCall };

  struct Rule {
    std::uint64_t id;
    Place place;
    Action deed;
    std::function<void()> hook;
    unsigned char bits;
  };

  using Clock = std::chrono::steady_clock;

  struct Late {
    Clock::time_point due;
    std::string bytes;
  };

  // A Flow is one way of a connection.
  struct Flow {
    std::deque<Late> late = {};      // read, but not due yet
    std::string pending = {};        // due, but not forwarded yet
    Clock::time_point free_at = {};  // when the next bytes may go, because of the rate
    std::uint64_t passed = 0;
    bool held = false;
    bool ended = false;                        // nothing more will be read
    unsigned char invert = 0;                  // the bits to invert in the next byte
    std::vector<std::uint64_t> followed = {};  // ids of the rules applied
  };

  struct Connection {
    std::size_t number;
    UniqueFd client, server;
    std::array<Flow, 2> flows = {};
    bool is_cut = false;

    int Source(Way way) const { return way == kRequests ? *client : *server; }
    int Target(Way way) const { return way == kRequests ? *server : *client; }
  };

  void AddRule(Place place, Action deed, std::function<void()> hook, unsigned char bits = 0) {
    {
      const std::lock_guard lock(mutex_);
      rules_.push_back({next_rule_++, place, deed, std::move(hook), bits});
    }
    Wake();
  }

  void Wake() const {
    const std::uint64_t one = 1;
    if (::write(*wake_, &one, sizeof(one)) != ssize_t{sizeof(one)}) {
      throw std::system_error(errno, std::generic_category(), "cannot wake the proxy");
    }
  }

  void Run() {
    std::vector<pollfd> files;
    while (!stopped_) {
      int timeout = -1;
      files = Files(timeout);
      ::poll(files.data(), files.size(), timeout);
      std::uint64_t wakes;
      if (::read(*wake_, &wakes, sizeof(wakes)) < 0 && errno != EAGAIN) {  // EAGAIN: only sockets
        throw std::system_error(errno, std::generic_category(), "the proxy's eventfd");
      }
      std::unique_lock lock(mutex_);
      Accept();
      for (auto connection = connections_.begin(); connection != connections_.end();) {
        if (Serve(*connection, lock)) {
          ++connection;
        } else {
          // A close is not enough if a forked child has the connection open, too.
          ::shutdown(*connection->client, SHUT_RDWR);
          ::shutdown(*connection->server, SHUT_RDWR);
          connection = connections_.erase(connection);
        }
      }
    }
  }

  // Returns the files to poll, each for the event that the proxy can handle next, and for how many
  // milliseconds.
  std::vector<pollfd> Files(int& timeout) const {
    const std::lock_guard lock(mutex_);
    const Clock::time_point now = Clock::now();
    Clock::time_point next = Clock::time_point::max();
    std::vector<pollfd> files = {{*wake_, POLLIN, 0}, {*listener_, POLLIN, 0}};
    for (const Connection& connection : connections_) {
      for (const Way way : {kRequests, kReplies}) {
        const Flow& flow = connection.flows[way];
        if (flow.held) continue;
        if (!flow.late.empty())
          next = std::min(next, std::max(flow.late.front().due, flow.free_at));
        if (!flow.pending.empty() && now < flow.free_at) {
          next = std::min(next, flow.free_at);
        } else if (!flow.pending.empty()) {
          files.push_back({connection.Target(way), POLLOUT, 0});
        }
        if (MayRead(flow)) files.push_back({connection.Source(way), POLLIN, 0});
      }
    }
    if (next != Clock::time_point::max()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
      timeout = static_cast<int>(std::clamp<decltype(left)>(left, 0, INT_MAX));
    }
    return files;
  }

  // What is delayed does not delay the reading of what comes after it.
  bool MayRead(const Flow& flow) const {
    return !flow.ended && flow.pending.empty() &&
           (flow.late.empty() || delay_ > std::chrono::microseconds(0));
  }

  void Accept() {
    for (;;) {
      UniqueFd client(::accept4(*listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (*client < 0) return;
      forwarded_.push_back({});
      UniqueFd server = ConnectTo(server_, SOCK_NONBLOCK);
      if (*server < 0) continue;  // the client sees the connection closed
      connections_.push_back({forwarded_.size() - 1, std::move(client), std::move(server)});
    }
  }

  // Returns false if the connection must be closed.
  bool Serve(Connection& connection, std::unique_lock<std::mutex>& lock) {
    for (const Way way : {kRequests, kReplies}) {
      Flow& flow = connection.flows[way];
      do {
        if (connection.is_cut || !Forward(connection, way, lock)) return false;
      } while (!flow.held && MayRead(flow) && Read(connection.Source(way), flow));
    }
    const auto has_ended = [](const Flow& flow) {
      return flow.ended && flow.pending.empty() && flow.late.empty();
    };
    return !has_ended(connection.flows[kRequests]) && !has_ended(connection.flows[kReplies]);
  }

  // Returns true if there was something to read.
  bool Read(int source, Flow& flow) const {
    char buffer[65536];
    const ssize_t size = ::read(source, buffer, sizeof(buffer));
    if (size > 0) {
      flow.late.push_back({Clock::now() + delay_, {buffer, static_cast<std::size_t>(size)}});
    }
    flow.ended = size == 0 || (size < 0 && errno != EAGAIN);
    return size > 0;
  }

  // Makes what is due pending.
  static void TakeDue(Flow& flow) {
    if (!flow.pending.empty() || flow.late.empty() || Clock::now() < flow.late.front().due) return;
    flow.pending = std::move(flow.late.front().bytes);
    flow.late.pop_front();
  }

  // Forwards what is pending and applies the rules on its way. Returns false if one of them cuts.
  bool Forward(Connection& connection, Way way, std::unique_lock<std::mutex>& lock) {
    Flow& flow = connection.flows[way];
    for (;;) {
      while (const std::optional<Rule> rule = NextRule(connection, way)) {
        ++actions_;
        if (rule->deed == kCut) return false;
        if (rule->deed == kHold) flow.held = true;
        if (rule->deed == kCorrupt) flow.invert ^= rule->bits;
        if (rule->deed == kCall) {
          lock.unlock();
          rule->hook();
          lock.lock();
        }
      }
      if (flow.held) return true;
      TakeDue(flow);
      const bool is_limited = rate_ > 0 && way == kRequests;
      if (flow.pending.empty() || (is_limited && Clock::now() < flow.free_at)) return true;
      const auto inverted = static_cast<unsigned char>(flow.pending[0]) ^ flow.invert;
      flow.pending[0] = static_cast<char>(inverted);
      flow.invert = 0;
      const ssize_t sent = ::send(connection.Target(way), flow.pending.data(),
                                  UntilNextRule(connection, way), MSG_NOSIGNAL);
      if (sent < 0 && errno == EAGAIN) return true;
      if (sent < 0) {  // the target has closed, but what it sent before is still forwarded
        flow.pending.clear();
        return true;
      }
      if (is_limited) {
        flow.free_at = Clock::now() +
                       std::chrono::microseconds(1'000'000 * sent / static_cast<ssize_t>(rate_));
      }
      flow.pending.erase(0, static_cast<std::size_t>(sent));
      flow.passed += static_cast<std::uint64_t>(sent);
      forwarded_[connection.number][way] = flow.passed;
    }
  }

  static bool IsFor(const Rule& rule, const Connection& connection, Way way) {
    return rule.place.way == way &&
           rule.place.connection.value_or(connection.number) == connection.number;
  }

  // Returns the first rule for this connection's place that was not applied yet, and marks it
  // applied.
  std::optional<Rule> NextRule(Connection& connection, Way way) const {
    Flow& flow = connection.flows[way];
    for (const Rule& rule : rules_) {
      if (!IsFor(rule, connection, way) || rule.place.bytes != flow.passed) continue;
      if (std::ranges::find(flow.followed, rule.id) != flow.followed.end()) continue;
      flow.followed.push_back(rule.id);
      return rule;
    }
    return std::nullopt;
  }

  // Returns how many pending bytes may be forwarded before the next rule.
  std::size_t UntilNextRule(const Connection& connection, Way way) const {
    const Flow& flow = connection.flows[way];
    std::uint64_t size = flow.pending.size();
    if (rate_ > 0 && way == kRequests)
      size = std::min(size, std::max<std::uint64_t>(rate_ / 50, 1));
    for (const Rule& rule : rules_) {
      if (IsFor(rule, connection, way) && rule.place.bytes > flow.passed) {
        size = std::min(size, rule.place.bytes - flow.passed);
      }
    }
    return size;
  }

  const std::string server_;
  const TemporaryDirectory directory_;
  const UniqueFd wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::atomic<bool> stopped_ = false;
  mutable std::mutex mutex_;  // guards all below but the thread; not held in a hook
  UniqueFd listener_ = ListenAt(Socket());
  bool is_away_ = false;
  std::chrono::microseconds delay_{0};
  std::uint64_t rate_ = 0;  // 0: no limit
  std::vector<Rule> rules_;
  std::uint64_t next_rule_ = 0;
  std::list<Connection> connections_;                    // only the proxy's thread adds and erases
  std::vector<std::array<std::uint64_t, 2>> forwarded_;  // one for each connection that has arrived
  std::size_t actions_ = 0;
  JoiningThread thread_{[this] { Run(); }};
};

}  // namespace test
