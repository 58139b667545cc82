// SPDX-License-Identifier: MIT

// Callers with keys of their own, so that they meet only at the mutexes of a group's shards.
// Compiled with SINGLEFLIGHT_HELGRIND, Helgrind must find no race here. It runs every thread on one
// processor, so this is about what it knows, and about no order of events.

#include <cstddef>
#include <singleflight/group.hpp>
#include <string>
#include <thread>
#include <vector>

int main() {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kCalls = 300;
  singleflight::Group<std::string, std::size_t> group;
  std::vector<std::size_t> sums(kThreads);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&group, i, &sum = sums[i]] {
      for (std::size_t call = 0; call < kCalls; ++call) {
        const std::string key = std::to_string(i) + ':' + std::to_string(call % 100);
        sum += *group.Do(key, [] { return std::size_t{1}; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::size_t sum = 0;
  for (const std::size_t each : sums) sum += each;
  const bool right = sum == kThreads * kCalls && group.GetStats().executions == sum;
  return right ? 0 : 1;
}
