// SPDX-License-Identifier: MIT

// Tests a redis::Client in a process that forks, exits, or cancels its threads.

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "client_support.hpp"
#include "sanitizers/sanitizers.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::redis::Client;

namespace {

// Runs `fn` in a forked child, and returns how that exited.
int StatusOfChild(const std::function<int()>& fn) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGABRT, SIG_DFL);  // not Catch2's
    ::alarm(60);                 // a child that hangs is killed
    ::_exit(fn());
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

detail::ClientCore& CoreOf(Client& client) { return detail::ClientAccess::Core(client); }

Answer Ping(detail::ClientCore& core) {
  std::promise<Answer> answer;
  core.Start();
  core.Loop().Post([&] {
    const std::array<std::string_view, 1> words = {"PING"};
    core.Commands().Run({}, words, [&](Answer its) { answer.set_value(std::move(its)); });
  });
  return answer.get_future().get();
}

}  // namespace

TEST_CASE(
    "Redis client: in a forked child a client is refused, can be destroyed, and harms nobody") {
  const RedisServer server;
  auto client = std::make_unique<Client>(ClientOptionsFor(server));
  REQUIRE(Ping(CoreOf(*client)).IsReply());
  const int status = StatusOfChild([&] {
    try {
      CoreOf(*client).Start();
      return 1;
    } catch (const std::system_error& error) {
      if (error.code() != std::errc::operation_not_permitted) return 2;
    }
    client = nullptr;
#ifdef UNDER_THREAD_SANITIZER
    return 0;  // it does not let a forked child start threads
#endif
    Client own(ClientOptionsFor(server));
    return Ping(CoreOf(own)).IsReply() ? 0 : 3;
  });
  CHECK(status == 0);
  CHECK(Ping(CoreOf(*client)).IsReply());
  CHECK(server.Info("total_connections_received") <= 6);  // no connection was replaced
}

TEST_CASE("Redis client: a client that was not used before a fork is refused in the child, too") {
  const RedisServer server;
  Client client(ClientOptionsFor(server));
  CHECK(StatusOfChild([&] {
          try {
            CoreOf(client).Start();
          } catch (const std::system_error&) {
            return 0;
          }
          return 1;
        }) == 0);
  CHECK(Ping(CoreOf(client)).IsReply());
}

TEST_CASE("Redis client: a process may exit with commands in flight, also if its server hangs") {
  RedisServer server;
  for (const bool is_destroyed : {true, false}) {
    server.Stop();
    const int status = StatusOfChild([&] {
      static std::unique_ptr<Client> client;  // destroyed by exit
      client = std::make_unique<Client>(ClientOptionsFor(server));
      detail::ClientCore& core = CoreOf(*client);
      core.Start();
      core.Loop().Post([&core] {
        const std::array<std::string_view, 1> words = {"PING"};
        for (int i = 0; i < 100; ++i) core.Commands().Run({}, words, [](const Answer&) {});
      });
      static std::atomic<Client*> kept = nullptr;
      if (!is_destroyed) kept = client.release();  // it works on until the end
      std::exit(0);
      return 1;
    });
    CHECK(status == 0);
    server.Continue();
  }
}

TEST_CASE(
    "Redis client: a thread that is cancelled while it posts and destroys leaves all in order") {
  const RedisServer server;
  std::atomic<int> answered = 0;
  struct Arguments {
    const RedisServer& server;
    std::atomic<int>& answered;
  } arguments{server, answered};
  pthread_t thread = {};
  const auto work = [](void* data) -> void* {
    const auto& with = *static_cast<Arguments*>(data);
    int before = 0;
    ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    auto client = std::make_unique<Client>(ClientOptionsFor(with.server));
    detail::ClientCore& core = CoreOf(*client);
    core.Start();
    ::pthread_cancel(::pthread_self());  // pending from now on, acted upon where it is enabled
    ::pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
    for (int i = 0; i < 100; ++i) {
      core.Loop().Post([&core, &with] {
        const std::array<std::string_view, 1> words = {"PING"};
        core.Commands().Run({}, words, [&with](const Answer&) { ++with.answered; });
      });
    }
    client = nullptr;  // neither a write that wakes the loop nor the join is cancelled
    ::pthread_testcancel();
    return data;
  };
  REQUIRE(::pthread_create(&thread, nullptr, work, &arguments) == 0);
  void* result = nullptr;
  ::pthread_join(thread, &result);
  CHECK(result == PTHREAD_CANCELED);
  CHECK(answered == 100);
}

TEST_CASE("Redis client: many clients come and go, and leave neither threads nor files behind") {
  const RedisServer server;
  const std::size_t threads = CountThreads();
  const auto files = [] {
    const int file = ::dup(0);
    ::close(file);
    return file;  // the lowest free number
  };
  const int before = files();
  for (int i = 0; i < 50; ++i) {
    Client client(ClientOptionsFor(server));
    REQUIRE(Ping(CoreOf(client)).IsReply());
  }
  CHECK(CountThreads() == threads);
  CHECK(files() == before);
}
