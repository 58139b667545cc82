// SPDX-License-Identifier: MIT

// CoDo: the coroutines of an event loop wait for a call, and block no thread.
//
//   c++ -std=c++20 -pthread -I include examples/coroutine.cpp -o coroutine && ./coroutine
//
// prints, always:
//
//   1000 coroutines for one key: 1 execution, 1000 got Ada
//   of two, the one that led left after 10 ms, the other waited on: got Ada
//   on the call of another thread: got Ada, back on the loop's thread: yes
//   executions 3, followers 1001, left 1, failures 0

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <iostream>
#include <singleflight/singleflight.hpp>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "support/event_loop.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::CoDo;
using Users = singleflight::Group<std::string, std::string>;

// Stands for a database query: a coroutine, which the call awaits.
Task<std::string> Load(Loop& loop) {
  co_await loop.Sleep(100ms);
  co_return "Ada";
}

Task<std::string> Ask(Users& users, Loop& loop) {
  const auto load = [&loop] { return Load(loop); };
  auto [user, shared] = co_await CoDo(users, "user:42", load);
  co_return "got " + user;
}

// One that waits no longer than `timeout`.
Task<std::string> AskInTime(Users& users, Loop& loop, Loop::Clock::duration timeout) {
  std::stop_source stop;
  loop.After(timeout, [stop]() mutable { stop.request_stop(); });
  try {
    const auto load = [&loop] { return Load(loop); };
    co_return "got " + *co_await CoDo(users, "user:42", load, stop.get_token());
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::operation_canceled) throw;
    co_return "left";
  }
}

// One that goes on on the loop's thread, whichever thread lands the call. Where many wait, this
// also gives each a turn of its own.
Task<std::string> AskAndReturn(Users& users, Loop& loop) {
  const std::thread::id thread = std::this_thread::get_id();
  const auto load = [&loop] { return Load(loop); };
  const auto on_loop = [&loop](std::coroutine_handle<> handle) { loop.Post(handle); };
  const auto user = co_await CoDo(users, "user:42", load, {}, on_loop);
  co_return "got " + *user +
      (std::this_thread::get_id() == thread ? ", back on the loop's thread: yes" : ", lost");
}

}  // namespace

int main() {
  Loop loop;
  Users users;
  std::vector<Task<std::string>> asked;
  const auto run = [&] {
    loop.RunUntil([&asked] { return std::ranges::all_of(asked, &Task<std::string>::Done); });
  };

  while (asked.size() < 1000) asked.push_back(Ask(users, loop));
  run();
  const auto got_ada = std::ranges::count(asked, "got Ada", &Task<std::string>::Result);
  std::cout << asked.size() << " coroutines for one key: " << users.GetStats().executions
            << " execution, " << got_ada << " got Ada\n";

  asked.clear();
  asked.push_back(AskInTime(users, loop, 10ms));
  asked.push_back(Ask(users, loop));
  run();
  std::cout << "of two, the one that led " << asked[0].Result()
            << " after 10 ms, the other waited on: " << asked[1].Result() << "\n";

  asked.clear();
  const auto load_slowly = [&users] {  // until the coroutine has joined
    while (users.Callers("user:42") < 2) std::this_thread::yield();
    return "Ada";
  };
  const std::jthread blocking([&] { std::ignore = users.Do("user:42", load_slowly); });
  while (users.Callers("user:42") < 1) std::this_thread::yield();
  asked.push_back(AskAndReturn(users, loop));
  run();
  const singleflight::Stats stats = users.GetStats();
  std::cout << "on the call of another thread: " << asked[0].Result() << "\nexecutions "
            << stats.executions << ", followers " << stats.followers << ", left " << stats.left
            << ", failures " << stats.failures << "\n";
}
