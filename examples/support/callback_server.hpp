// SPDX-License-Identifier: MIT
#pragma once

// The part of gRPC's callback API that callback.cpp needs, without gRPC and without a network, and
// clients that call it.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <latch>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "joining_thread.hpp"

enum class Status { kUnfinished, kOk, kCancelled, kInternal };

// What a client receives.
struct Reply {
  std::string user;
  Status status = Status::kUnfinished;
  std::atomic<int> times_finished = 0;
};

// One request. The names and the rules are those of grpc::ServerUnaryReactor. The program calls
// Finish exactly once, on any thread. OnCancel runs at most once, on any thread and at any time,
// even before the handler has returned or after Finish.
class ServerUnaryReactor {
 public:
  explicit ServerUnaryReactor(Reply& reply) : reply_(reply) {}
  virtual ~ServerUnaryReactor() = default;
  ServerUnaryReactor(const ServerUnaryReactor&) = delete;
  ServerUnaryReactor& operator=(const ServerUnaryReactor&) = delete;

  // The server calls each of these once, in any order and on any thread.
  void OnHandlerReturned() { Release(); }
  void OnConnectionClosed(bool cancelled) {
    if (cancelled) OnCancel();
    Release();
  }

 protected:
  // The client has hung up.
  virtual void OnCancel() = 0;
  // Runs last: Finish was called, and the handler and OnCancel have returned. May delete this.
  virtual void OnDone() = 0;

  void Finish(Status status) {
    reply_.status = status;
    ++reply_.times_finished;
    Release();
  }
  Reply& reply() { return reply_; }

 private:
  void Release() {
    if (--pending_ == 0) OnDone();
  }

  Reply& reply_;
  std::atomic<int> pending_ = 3;  // the handler, the connection and Finish
};

// Sends rounds of requests for a few users. Several threads run their handlers, while the calling
// thread closes the connections in random order. Almost a third of the clients hang up.
class Clients {
 public:
  struct Counts {
    std::size_t requests = 0, finished_once = 0, stayed = 0, stayed_and_got_user = 0;
    std::size_t hung_up = 0, hung_up_and_settled = 0;  // settled: cancelled, or got the user
  };

  // `make(Reply&)` returns a new request, whose Start(id) is its handler. `alive` is the number of
  // requests that have not been deleted.
  template <class Make>
  Counts Run(const Make& make, const std::atomic<int>& alive) {
    Counts counts;
    for (std::size_t round = 0; round < kRounds; ++round) {
      std::vector<Reply> replies(kRequests);
      RunRound(make, replies, alive);
      for (std::size_t i = 0; i < kRequests; ++i) Count(i, replies[i], counts);
    }
    return counts;
  }

  // Thread: any. Returns when the handlers of all requests of the round have returned.
  void AwaitAllHandlers() { all_handled_->wait(); }

 private:
  static constexpr std::size_t kRounds = 100, kRequests = 40, kUsers = 4, kThreads = 4;

  static std::string IdOf(std::size_t request) {
    return "user:" + std::to_string(request % kUsers);
  }
  // The first request for each user stays, so its call continues until it lands.
  static bool HangsUp(std::size_t request) { return request >= kUsers && request % 3 == 0; }

  template <class Make>
  void RunRound(const Make& make, std::vector<Reply>& replies, const std::atomic<int>& alive) {
    std::latch all_handled(kThreads);
    all_handled_ = &all_handled;
    std::vector<decltype(make(replies[0]))> requests;
    for (Reply& reply : replies) requests.push_back(make(reply));
    const auto handle = [&requests](std::size_t i) {
      requests[i]->Start(IdOf(i));
      requests[i]->OnHandlerReturned();
    };
    for (std::size_t i = 0; i < kUsers; ++i) handle(i);

    std::vector<JoiningThread> threads;
    for (std::size_t first = kUsers; first < kUsers + kThreads; ++first) {
      threads.emplace_back([&all_handled, handle, first] {
        for (std::size_t i = first; i < kRequests; i += kThreads) handle(i);
        all_handled.count_down();
      });
    }
    std::vector<std::size_t> order(kRequests);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::shuffle(order, random_);
    for (const std::size_t i : order) {
      if (random_() % 4 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(random_() % 100));
      requests[i]->OnConnectionClosed(HangsUp(i));
    }
    threads.clear();                              // joins them
    while (alive > 0) std::this_thread::yield();  // until then, calls may wait for all_handled
  }

  static void Count(std::size_t request, const Reply& reply, Counts& counts) {
    const bool got_user = reply.status == Status::kOk && reply.user == IdOf(request);
    ++counts.requests;
    if (reply.times_finished == 1) ++counts.finished_once;
    if (HangsUp(request)) {
      ++counts.hung_up;
      if (got_user || reply.status == Status::kCancelled) ++counts.hung_up_and_settled;
    } else {
      ++counts.stayed;
      if (got_user) ++counts.stayed_and_got_user;
    }
  }

  std::mt19937 random_;
  std::latch* all_handled_ = nullptr;  // of this round
};
