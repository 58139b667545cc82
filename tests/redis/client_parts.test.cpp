// SPDX-License-Identifier: MIT

// Tests the parts of a redis::Client that need no server: the loop, its timers, the parser of
// replies and the digest of a script.

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <functional>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "client_support.hpp"
#include "proxy.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using detail::Clock;
using detail::EventLoop;
using detail::ReplyParser;
using detail::Timer;
using detail::TimerQueue;

namespace {

// Returns a reply as a text.
std::string Text(const Reply& reply) {
  switch (reply.type) {
    case Reply::Type::kNil:
      return "nil";
    case Reply::Type::kStatus:
      return "+" + reply.text;
    case Reply::Type::kString:
      return "'" + reply.text + "'";
    case Reply::Type::kInteger:
      return std::to_string(reply.integer);
    case Reply::Type::kError:
      return "-" + reply.text;
    case Reply::Type::kTooLarge:
      return "too large";
    case Reply::Type::kArray:
      break;
  }
  std::string text = "[";
  for (const Reply& element : reply.elements) text += Text(element) + " ";
  return text + "]";
}

// Returns all replies in `bytes`, which arrive in pieces of this size.
std::string ParseIn(std::size_t piece, std::string_view bytes, std::size_t limit = 1000) {
  ReplyParser parser(limit);
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    const bool is_valid = parser.Feed(bytes.substr(at, piece), [&](const Reply& reply) {
      text += Text(reply) + "\n";
      return true;
    });
    if (!is_valid) return text + "invalid";
  }
  return text;
}

}  // namespace

TEST_CASE("Redis reply: a reply is the same however its bytes are divided") {
  const std::string bytes =
      "+OK\r\n-ERR no\r\n:-42\r\n:+7\r\n$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
      "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n*1\r\n+y\r\n$-1\r\n:9223372036854775807\r\n"s;
  const std::string text =
      "+OK\n-ERR no\n-42\n7\n'a\r\n'\n''\nnil\nnil\n[]\n"
      "[1 ['x' [+y ] ] nil ]\n9223372036854775807\n";
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) CHECK(ParseIn(piece, bytes) == text);
}

TEST_CASE("Redis reply: what exceeds the limit is skipped, and what follows is read") {
  const auto bulk = [](std::size_t size) {
    return "$" + std::to_string(size) + "\r\n" + std::string(size, 'x') + "\r\n";
  };
  const std::string bytes = bulk(101) + ":1\r\n*2\r\n" + bulk(101) + ":2\r\n*2\r\n:3\r\n" +
                            bulk(101) + "*2\r\n*2\r\n" + bulk(101) + bulk(5) + ":4\r\n:5\r\n";
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
    CHECK(ParseIn(piece, bytes, 100) == "too large\n1\ntoo large\ntoo large\ntoo large\n5\n");
  }
  CHECK(ParseIn(1, bulk(100), 100) == "'" + std::string(100, 'x') + "'\n");
  std::string many = "*1000\r\n";
  for (int i = 0; i < 1000; ++i) many += ":1\r\n";
  CHECK(ParseIn(7, many + ":6\r\n", 10'000) == "too large\n6\n");  // elements cost memory, too
}

TEST_CASE("Redis reply: a size that is only claimed costs nothing") {
  ReplyParser parser(1'000'000'000'000);
  CHECK(parser.Feed("*1000000000\r\n$1000000000\r\nx", [](const Reply&) { return true; }));
}

TEST_CASE("Redis reply: bytes that no server sends are refused") {
  for (const char* bytes :
       {"x\r\n", "\r\n", ":\r\n", ":x\r\n", ":1 \r\n", ":9223372036854775808\r\n", "$x\r\n",
        "$-2\r\n", "$1\r\nxyz", "$1099511627777\r\n", "*-2\r\n", "*x\r\n", "%1\r\n", "$\r\n"}) {
    INFO(bytes);
    CHECK(ParseIn(100, bytes) == "invalid");
  }
  CHECK(ParseIn(100'000, "+" + std::string(70'000, 'x')) == "invalid");
}

TEST_CASE("Redis reply: random bytes never crash the parser") {
  std::minstd_rand random(42);
  constexpr std::string_view kAlphabet = "+-:$*\r\n0123456789x";
  std::uniform_int_distribution<std::size_t> pick(0, kAlphabet.size() - 1);
  std::size_t replies = 0;
  for (int i = 0; i < 20'000; ++i) {
    ReplyParser parser(50);
    bool is_valid = true;
    for (int piece = 0; piece < 10 && is_valid; ++piece) {
      std::string bytes;
      for (int byte = 0; byte < 6; ++byte) bytes += kAlphabet[pick(random)];
      if (piece % 2 == 1) bytes += "\r\n";
      is_valid = parser.Feed(bytes, [&](const Reply&) { return ++replies, true; });
    }
  }
  CHECK(replies > 0);
}

TEST_CASE("Redis script: the digest is the SHA-1 of the text") {
  // From FIPS 180-4's examples, and around the sizes at which the padding needs another block.
  CHECK(detail::Sha1("abc") == "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK(detail::Sha1("") == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  CHECK(detail::Sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  CHECK(detail::Sha1(std::string(1'000'000, 'a')) == "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  const RedisServer server;
  for (std::size_t size = 50; size < 70; ++size) {
    const std::string text = "return 1 --" + std::string(size - 11, '\xfe');
    CHECK(server.Ask("SCRIPT", "LOAD", text).text == detail::Sha1(text));
  }
}

TEST_CASE("Redis timer: timers run in the order of their times, and a cancelled one does not") {
  TimerQueue queue;
  std::minstd_rand random(1);
  const Clock::time_point start = Clock::now();
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<int> ran;
  std::vector<int> expected;
  std::vector<int> times(10'000);
  for (int i = 0; i < 10'000; ++i) times[static_cast<std::size_t>(i)] = i;
  std::shuffle(times.begin(), times.end(), random);
  for (const int time : times) {
    timers.push_back(std::make_unique<Timer>(queue, [&ran, time] { ran.push_back(time); }));
    timers.back()->Set(start + std::chrono::milliseconds(50'000));
    timers.back()->Set(start + std::chrono::milliseconds(time));
  }
  for (std::size_t i = 0; i < timers.size(); ++i) {
    if (times[i] % 3 == 0) timers[i]->Cancel();
    if (times[i] % 3 == 1) timers[i] = nullptr;
  }
  for (int i = 2; i < 10'000; i += 3) expected.push_back(i);
  CHECK(queue.Next() == start + 2ms);
  queue.RunDue(start - 1ms);
  CHECK(ran.empty());
  queue.RunDue(start + 4999ms);
  CHECK(ran.size() == 1666);
  queue.RunDue(start + 20s);
  CHECK(ran == expected);
  CHECK_FALSE(queue.Next().has_value());
}

TEST_CASE("Redis timer: a timer may set, destroy and cancel timers while it runs") {
  TimerQueue queue;
  const Clock::time_point now = Clock::now();
  int runs = 0;
  Timer repeats(queue, [&] { repeats.Set((++runs, now)); });
  repeats.Set(now);
  queue.RunDue(now);
  CHECK(runs == 1);  // the next call's turn
  queue.RunDue(now);
  CHECK(runs == 2);
  repeats.Cancel();

  std::unique_ptr<Timer> own;
  Timer never(queue, [&] { runs = -1; });
  own = std::make_unique<Timer>(queue, [&] {
    own = nullptr;
    never.Cancel();
    ++runs;
  });
  own->Set(now);
  never.Set(now + 1ms);
  queue.RunDue(now + 1s);
  CHECK(runs == 3);
}

TEST_CASE("Redis loop: tasks of one thread run in their order, on the loop's thread") {
  EventLoop loop;
  std::vector<int> order;
  std::promise<bool> on_loop;
  for (int i = 0; i < 1000; ++i) loop.Post([&order, i] { order.push_back(i); });
  loop.Start();
  loop.Post([&] { on_loop.set_value(loop.IsLoopThread()); });
  CHECK(on_loop.get_future().get());
  CHECK_FALSE(loop.IsLoopThread());
  CHECK(std::ranges::is_sorted(order));
  CHECK(order.size() == 1000);
}

TEST_CASE(
    "Redis loop: what was posted before the loop stops runs, and what that posts and defers") {
  int runs = 0;
  detail::LoopFunction deferred([&] { ++runs; });
  {
    EventLoop loop;
    loop.Start();
    for (int i = 0; i < 100; ++i) {
      loop.Post([&] {
        ++runs;
        loop.Post([&] { ++runs; });
      });
    }
    loop.Post([&] { loop.Post([&] { loop.Defer(deferred); }); });
  }
  CHECK(runs == 201);
}

TEST_CASE("Redis loop: no task of many threads is lost") {
  EventLoop loop;
  loop.Start();
  int runs = 0;  // of the loop's thread
  {
    std::vector<JoiningThread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20'000; ++i) loop.Post([&] { ++runs; });
      });
    }
  }
  loop.Stop();
  CHECK(runs == 80'000);
}

TEST_CASE("Redis loop: a task that is posted when the loop sleeps wakes it, each time") {
  EventLoop loop;
  loop.Start();
  for (int i = 0; i < 2000; ++i) {
    std::promise<void> ran;
    loop.Post([&] { ran.set_value(); });
    ran.get_future().wait();
  }
  CHECK(loop.WakeUps() <= 2000);
  CHECK(loop.WakeUps() > 0);
}

TEST_CASE("Redis loop: what is deferred runs once, after all that was posted and was due") {
  EventLoop loop;
  std::string order;
  std::promise<void> done;
  detail::LoopFunction deferred([&] {
    order += 'd';
    done.set_value();
  });
  Timer timer(loop.Timers(), [&] { order += 't'; });
  loop.Post([&] {
    loop.Defer(deferred);
    timer.Set(loop.Now());
    order += 'a';
  });
  loop.Post([&] { order += 'b'; });
  loop.Start();
  done.get_future().wait();
  loop.Stop();
  CHECK(order == "abtd");
}

TEST_CASE("Redis loop: a file's handler may remove any file, and add others in their place") {
  std::array<std::array<int, 2>, 3> pairs;
  for (auto& pair : pairs) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
    REQUIRE(::write(pair[1], "x", 1) == 1);
  }
  EventLoop loop;
  std::array<std::size_t, 2> index = {};
  std::string calls;
  std::promise<void> done;
  EventLoop::Handler third = [&](short) {
    calls += 'c';
    loop.RemoveFile(index[0]);
    done.set_value();
  };
  const auto remove_both = [&](char name) {
    calls += name;
    loop.RemoveFile(index[0]);
    loop.RemoveFile(index[1]);
    index[0] = loop.AddFile(pairs[2][0], POLLIN, &third);
  };
  EventLoop::Handler first = [&](short) { remove_both('a'); };
  EventLoop::Handler second = [&](short) { remove_both('b'); };
  loop.Post([&] {
    index = {loop.AddFile(pairs[0][0], POLLIN, &first), loop.AddFile(pairs[1][0], POLLIN, &second)};
  });
  loop.Start();
  done.get_future().wait();
  loop.Stop();
  CHECK(calls == "ac");
  for (const auto& pair : pairs) {
    for (const int file : pair) ::close(file);
  }
}

TEST_CASE("Redis loop: signals never run their handlers on the loop's thread") {
  EventLoop loop;
  loop.Start();
  std::promise<sigset_t> blocked;
  loop.Post([&] {
    sigset_t set;
    ::pthread_sigmask(SIG_BLOCK, nullptr, &set);
    blocked.set_value(set);
  });
  const sigset_t set = blocked.get_future().get();
  for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1}) {
    CHECK(::sigismember(&set, signal) == 1);
  }
}

TEST_CASE("Redis loop: a client that is destroyed on its own loop aborts with a message") {
  std::array<int, 2> pipe;
  REQUIRE(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe[1], STDERR_FILENO);
    ::signal(SIGABRT, SIG_DFL);  // not Catch2's
    auto* const core = new detail::ClientCore(ClientOptions{});
    core->Start();
    core->Loop().Post([core] { delete core; });
    for (;;) ::pause();
  }
  ::close(pipe[1]);
  std::string message;
  for (char byte; ::read(pipe[0], &byte, 1) == 1;) message += byte;
  ::close(pipe[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
  CHECK(message == "singleflight::redis: a Client must not be destroyed on its own event loop\n");
}
