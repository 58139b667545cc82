// SPDX-License-Identifier: MIT

// Ten threads ask for the same user at once: first each for itself, then through a Group.
//
//   c++ -std=c++20 -pthread -I include examples/quickstart.cpp -o quickstart && ./quickstart
//
// prints, always:
//
//   without a group: Load ran 10 times
//     thread 0 got Ada
//     ... (threads 1 to 8 the same)
//     thread 9 got Ada
//   with a group: Load ran 1 time
//     thread 0 got Ada, shared: yes
//     ... (threads 1 to 8 the same)
//     thread 9 got Ada, shared: yes

#include <atomic>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <singleflight/singleflight.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kThreads = 10;

struct User {
  int id;
  std::string name;
};

std::atomic<int> loads = 0;

// Stands for a database query.
User Load(int id) {
  ++loads;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return {id, "Ada"};
}

// Runs `ask` on ten threads; prints how often Load ran meanwhile, and what each thread got.
template <class Ask>
void TenAtOnce(const char* how, Ask ask) {
  loads = 0;
  std::vector<std::string> got(kThreads);
  {
    std::vector<std::jthread> threads;
    for (std::string& mine : got) threads.emplace_back([&] { mine = ask(); });
  }  // joins them
  std::cout << how << ": Load ran " << loads << (loads == 1 ? " time\n" : " times\n");
  for (std::size_t i = 0; i < kThreads; ++i)
    std::cout << "  thread " << i << " got " << got[i] << "\n";
}

}  // namespace

int main() {
  TenAtOnce("without a group", [] { return Load(42).name; });

  singleflight::Group<std::string, User> users;
  TenAtOnce("with a group", [&users] {
    auto [user, shared] = users.Do("user:42", [&users] {
      // So that this prints the same on any machine, however slowly its threads start: the load
      // begins when all ten are on the call. Your function has no need of that.
      while (users.Callers("user:42") < kThreads) std::this_thread::yield();
      return Load(42);
    });
    return user.name + (shared ? ", shared: yes" : ", shared: no");
  });
}
