// SPDX-License-Identifier: MIT

// Ten callers ask for the same user at the same time: first without a group, then through one.
//
//   c++ -std=c++20 -pthread -I include examples/quickstart.cpp -o quickstart && ./quickstart
//
// prints (the times vary):
//
//   Ten callers ask for one user at the same time.
//   The database runs one query at a time, and each query takes 50 ms.
//
//   without a group: 10 loads, all answered after 502 ms
//     10 of 10 callers got Ada, and shared was true for 0 of them
//   with a group: 1 load, all answered after 52 ms
//     10 of 10 callers got Ada, and shared was true for 10 of them

#include <atomic>
#include <chrono>
#include <iostream>
#include <mutex>
#include <singleflight/singleflight.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::chrono_literals;

struct User {
  int id;
  std::string name;
};

std::mutex database;  // held by the query that is running
std::atomic<int> loads = 0;

// Stands for a database query.
User Load(int id) {
  const std::lock_guard query(database);
  ++loads;
  std::this_thread::sleep_for(50ms);
  return {id, "Ada"};
}

// Calls `ask` on ten threads at the same time, and prints what they got.
void AskTenTimes(const char* how, auto ask) {
  loads = 0;
  std::atomic<int> got_ada = 0, saw_shared = 0;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> callers;
  while (callers.size() < 10) {
    callers.emplace_back([&] {
      const auto [user, shared] = ask();
      if (user.name == "Ada") ++got_ada;
      if (shared) ++saw_shared;
    });
  }
  for (std::thread& caller : callers) caller.join();
  const auto time = std::chrono::steady_clock::now() - start;

  std::cout << how << ": " << loads << (loads == 1 ? " load" : " loads") << ", all answered after "
            << time / 1ms << " ms\n"
            << "  " << got_ada << " of 10 callers got Ada, and shared was true for " << saw_shared
            << " of them\n";
}

}  // namespace

int main() {
  std::cout << "Ten callers ask for one user at the same time.\n"
               "The database runs one query at a time, and each query takes 50 ms.\n\n";

  AskTenTimes("without a group", [] { return std::pair(Load(42), false); });

  singleflight::Group<std::string, User> users;
  AskTenTimes("with a group", [&users] {
    return users.Do("user:42", [&users] {
      // This waits until all ten callers are on the call, so that the counts are the same on any
      // machine, however slowly its threads start. Your function does not need it.
      while (users.Callers("user:42") < 10) std::this_thread::yield();
      return Load(42);
    });
  });
}
