// SPDX-License-Identifier: MIT
#pragma once

// What httplib.bench.cpp and asio.bench.cpp have in common: the clients, and what they measure. The
// clients and the servers share this process, and talk over the loopback device.
//
//   body     200 clients ask for one body of 4 MiB, whose handler waits until all of them do. Each
//            block of 1 MiB or more that is allocated meanwhile is a copy. The one in which the
//            handler wrote the body is not counted.
//   private  50 clients ask at once, several times, for an answer that says that it is private. It
//            takes 100 ms to make. `coalesced` is the route with the middleware, and `bare` has
//            the same handler without it. `first` is before the middleware has seen such an
//            answer. These clients wait for one that they may not have, and then run the handler.
//   rate     Each of 8 clients sends a request as soon as it has the answer to the last one. The
//            handler's work costs nothing.
//
// What is compared takes turns. Times are by the clock. The clients take their part of the
// processors, so a ratio of rates is nearer to 1 than that of the servers alone.

#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "allocations.hpp"

namespace http_bench {

using Clock = std::chrono::steady_clock;

// A client with a connection that it keeps. It does not keep what it receives.
class Client {
 public:
  // Connects to a port of the loopback address.
  //
  // Errors: throws std::system_error.
  explicit Client(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (socket_ < 0 ||
        ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      const std::error_code error(errno, std::generic_category());
      if (socket_ >= 0) ::close(socket_);
      throw std::system_error(error, "a client cannot connect");
    }
    const int yes = 1;
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    const timeval longest = {.tv_sec = 40, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof(longest));
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Asks for `target`, and returns the size of the body when all of it has arrived.
  //
  // Errors: throws std::runtime_error if the answer is not a whole 200 with a Content-Length.
  std::size_t Get(std::string_view target) {
    std::string request = "GET ";
    request += target;
    request += " HTTP/1.1\r\nHost: localhost\r\n\r\n";
    if (::send(socket_, request.data(), request.size(), MSG_NOSIGNAL) != std::ssize(request)) {
      throw std::runtime_error("the server does not take a request");
    }
    std::size_t head_size = std::string_view::npos;
    std::size_t received = 0;  // of the head, at the start of the buffer
    while (head_size == std::string_view::npos) {
      received += Receive(received);
      head_size = std::string_view(buffer_.data(), received).find("\r\n\r\n");
    }
    const std::size_t size = SizeOfBody(std::string_view(buffer_.data(), head_size));
    std::size_t body = received - (head_size + 4);
    while (body < size) body += Receive(0);
    if (body != size) throw std::runtime_error("the server sent more than one answer");
    return size;
  }

 private:
  static std::size_t SizeOfBody(std::string_view head) {
    constexpr std::string_view kLength = "\r\nContent-Length: ";
    const std::size_t at = head.find(kLength);
    if (!head.starts_with("HTTP/1.1 200 ") || at == head.npos) {
      throw std::runtime_error("unexpected answer: " + std::string(head));
    }
    std::size_t size = 0;
    std::from_chars(head.data() + at + kLength.size(), head.data() + head.size(), size);
    return size;
  }

  std::size_t Receive(std::size_t offset) {
    const ssize_t size = ::recv(socket_, buffer_.data() + offset, buffer_.size() - offset, 0);
    if (size <= 0) throw std::runtime_error("an answer did not come, or not all of it");
    return static_cast<std::size_t>(size);
  }

  const int socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::array<char, 16'384> buffer_;
};

// Clients, each on a thread of its own while they ask.
class Clients {
 public:
  Clients(std::size_t count, int port) {
    while (clients_.size() < count) clients_.emplace_back(port);
  }

  // Runs `ask(client)` for all clients at once. Returns what it returned for each.
  //
  // Errors: an exception of `ask`, when all have finished.
  template <class Ask>
  std::vector<double> AtOnce(const Ask& ask) {
    std::vector<std::future<double>> asking;
    std::promise<void> start;  // if a thread cannot be had, it is broken, and the others finish
    const std::shared_future<void> started = start.get_future().share();
    for (Client& client : clients_) {
      asking.push_back(std::async(std::launch::async, [&ask, &client, started] {
        started.get();
        return ask(client);
      }));
    }
    start.set_value();
    std::vector<double> results;
    for (std::future<double>& one : asking) results.push_back(one.get());
    return results;
  }

  // Returns the seconds from a request to the end of its answer, sorted.
  std::vector<double> Latencies(std::string_view target) {
    std::vector<double> seconds = AtOnce([target](Client& client) {
      const Clock::time_point start = Clock::now();
      client.Get(target);
      return std::chrono::duration<double>(Clock::now() - start).count();
    });
    std::ranges::sort(seconds);
    return seconds;
  }

  // Each client sends many requests, one after the other. Returns the time that they take together,
  // divided by the number of all requests.
  double SecondsEach(std::string_view target) {
    constexpr int kRequests = 250;
    const Clock::time_point start = Clock::now();
    AtOnce([target](Client& client) {
      for (int i = 0; i < kRequests; ++i) client.Get(target);
      return 0.0;
    });
    const std::chrono::duration<double> taken = Clock::now() - start;
    return taken.count() / (kRequests * static_cast<double>(clients_.size()));
  }

 private:
  std::deque<Client> clients_;  // a deque does not move them
};

// `part` is from 0 to 1, and `sorted` is not empty.
inline double Percentile(const std::vector<double>& sorted, double part) {
  return sorted[static_cast<std::size_t>(part * static_cast<double>(sorted.size() - 1))];
}

// Runs `measure()` once. An exception of it is the benchmark's error, which bench/report shows.
template <class Measure>
void Once(benchmark::State& state, const Measure& measure) try {
  for (auto _ : state) measure();
} catch (const std::exception& error) {
  state.SkipWithError(error.what());
}

// ---- body

inline constexpr std::size_t kReaders = 200;
inline constexpr std::size_t kBodySize = std::size_t{4} << 20;

// Whether all clients wait for the answer of a handler that has run since `start`. `group` must
// have been asked for nothing else.
//
// Errors: throws std::runtime_error after 20 seconds, for example if the server has no descriptors.
template <class Group>
bool AllReadersWait(const Group& group, Clock::time_point start) {
  if (Clock::now() - start > std::chrono::seconds(20)) {
    throw std::runtime_error("not all clients have come");
  }
  return group.GetStats().followers + 1 == kReaders;
}

inline void MeasureBody(benchmark::State& state, int port) {
  Once(state, [&] {
    Clients readers(kReaders, port);
    const std::uint64_t before = large_allocations;
    for (const double size :
         readers.AtOnce([](Client& client) { return static_cast<double>(client.Get("/large")); })) {
      if (size != static_cast<double>(kBodySize)) throw std::runtime_error("a body is too short");
    }
    const std::uint64_t bodies = large_allocations - before;
    if (bodies == 0) throw std::runtime_error("no body was counted");
    state.counters["copies"] = static_cast<double>(bodies - 1);
  });
}

// ---- private

inline constexpr std::size_t kPrivateClients = 50;
inline constexpr std::chrono::milliseconds kPrivateWork(100);

// The routes /coalesced and /bare have the same handler.
inline void MeasurePrivate(benchmark::State& state, int port) {
  Once(state, [&] {
    Clients clients(kPrivateClients, port);
    clients.Latencies("/bare");  // all threads of the server have run
    state.counters["first/p50"] = Percentile(clients.Latencies("/coalesced"), 0.5);
    std::vector<double> coalesced, bare;
    for (int turn = 0; turn < 4; ++turn) {
      std::ranges::copy(clients.Latencies("/coalesced"), std::back_inserter(coalesced));
      std::ranges::copy(clients.Latencies("/bare"), std::back_inserter(bare));
    }
    std::ranges::sort(coalesced);
    std::ranges::sort(bare);
    state.counters["coalesced/p50"] = Percentile(coalesced, 0.5);
    state.counters["coalesced/p99"] = Percentile(coalesced, 0.99);
    state.counters["bare/p50"] = Percentile(bare, 0.5);
    state.counters["bare/p99"] = Percentile(bare, 0.99);
  });
}

// ---- rate

struct Route {
  const char* name;
  int port;
  const char* target;
};

inline void MeasureRate(benchmark::State& state, const std::vector<Route>& routes) {
  Once(state, [&] {
    std::deque<Clients> clients;
    for (const Route& route : routes) clients.emplace_back(8, route.port);
    std::vector<std::vector<double>> seconds(routes.size());
    for (int turn = 0; turn < 6; ++turn) {
      for (std::size_t i = 0; i < routes.size(); ++i) {
        const double each = clients[i].SecondsEach(routes[i].target);
        if (turn > 0) seconds[i].push_back(each);  // the first turn warms up
      }
    }
    for (std::size_t i = 0; i < routes.size(); ++i) {
      std::ranges::sort(seconds[i]);
      state.counters[std::string(routes[i].name) + "/each"] = Percentile(seconds[i], 0.5);
    }
  });
}

}  // namespace http_bench
