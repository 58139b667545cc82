// SPDX-License-Identifier: MIT

// CoDo: the coroutines of an event loop wait for a call without blocking a thread.
//
//   c++ -std=c++20 -pthread -I include examples/coroutine.cpp -o coroutine && ./coroutine
//
// prints, always:
//
//   1000 coroutines asked for one user. The group ran 1 query, and 1000 coroutines got Ada.
//   Two coroutines were on one call. The leader left after 10 ms. The follower still got Ada.
//   A query that blocks ran on a worker's thread. A coroutine and a thread in Do both got Ada.
//   The coroutine resumed on its loop's thread.
//   The group counted 3 executions, 1001 followers, 1 caller that left, 0 failures.

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <iostream>
#include <singleflight/singleflight.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/event_loop.hpp"
#include "support/flags.hpp"
#include "support/joining_thread.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::CoDo;
using Users = singleflight::Group<std::string, std::string>;

// Stands for a database query. The call awaits this coroutine.
Task<std::string> Load(Loop& loop) {
  co_await loop.Sleep(100ms);
  co_return "Ada";
}

Task<std::string> Ask(Users& users, Loop& loop) {
  const auto load = [&loop] { return Load(loop); };
  auto [user, shared] = co_await CoDo(users, "user:42", load);
  co_return "got " + user;
}

// Leaves the call after `timeout`.
Task<std::string> AskInTime(Users& users, Loop& loop, Loop::Clock::duration timeout) {
  singleflight::StopSource stop;
  loop.After(timeout, [stop]() mutable { stop.request_stop(); });
  try {
    const auto load = [&loop] { return Load(loop); };
    co_return "got " + *co_await CoDo(users, "user:42", load, stop.get_token());
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::operation_canceled) throw;
    co_return "left";
  }
}

// Lets an executor run a function that blocks, and resumes on the loop's thread. If many coroutines
// wait, this also gives each of them its own turn on the loop.
Task<std::string> AskWorker(Users& users, Loop& loop, JoiningThread& worker) {
  const auto load = [&users] {  // blocks until another caller has joined
    while (users.Callers("user:42") < 2) std::this_thread::yield();
    return "Ada";
  };
  const std::thread::id thread = std::this_thread::get_id();
  const auto on_worker = [&worker](auto task) { worker = JoiningThread(task); };
  const auto on_loop = [&loop](std::coroutine_handle<> handle) { loop.Post(handle); };
  const auto user = co_await CoDo(users, "user:42", load, on_worker, {}, on_loop);
  const bool is_back = std::this_thread::get_id() == thread;
  co_return *user + ".\nThe coroutine resumed on " +
      (is_back ? "its loop's thread" : "another thread");
}

}  // namespace

int main(int argc, char** argv) {
  Flags(argc, argv).RefuseOthers();
  Loop loop;
  Users users;
  std::vector<Task<std::string>> asked;
  const auto run = [&] {
    loop.RunUntil([&asked] { return std::ranges::all_of(asked, &Task<std::string>::Done); });
  };

  while (asked.size() < 1000) asked.push_back(Ask(users, loop));
  run();
  const auto got_ada = std::ranges::count(asked, "got Ada", &Task<std::string>::Result);
  std::cout << asked.size() << " coroutines asked for one user. The group ran "
            << users.GetStats().executions << " query, and " << got_ada << " coroutines got Ada.\n";

  asked.clear();
  asked.push_back(AskInTime(users, loop, 10ms));
  asked.push_back(Ask(users, loop));
  run();
  std::cout << "Two coroutines were on one call. The leader " << asked[0].Result()
            << " after 10 ms. The follower still " << asked[1].Result() << ".\n";

  asked.clear();
  JoiningThread worker;
  asked.push_back(AskWorker(users, loop, worker));  // the loop's thread is free meanwhile
  const auto user = users.Do("user:42", [] { return "another query"; });
  run();
  const singleflight::Stats stats = users.GetStats();
  std::cout << "A query that blocks ran on a worker's thread. A coroutine and a thread in Do both"
            << (*user == "Ada" ? " got " : " did not get ") << asked[0].Result() << ".\n"
            << "The group counted " << stats.executions << " executions, " << stats.followers
            << " followers, " << stats.left << " caller that left, " << stats.failures
            << " failures.\n";
}
