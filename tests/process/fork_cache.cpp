// SPDX-License-Identifier: MIT

// This scenario forks while threads make and destroy what a ReadThrough that refers to a cache has:
// a lock in the table of all such locks. The fork may find the table locked.
//
// It does not run under a sanitizer, for the reasons given in fork.cpp.

#include "process.hpp"

#if !defined(UNDER_SANITIZER)

#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

using namespace test;
using process::InChild;

namespace {

struct Ones {
  std::optional<int> Get(int) { return 1; }
  void Put(int, int) {}
};
using Cached = singleflight::ReadThrough<int, int, Ones&>;

int AskOnce(Cached& cached) {
  return *cached.Get(7, [] { return 2; });
}

const process::Add new_read_through(
    "a child that is forked while other threads make ReadThroughs can make one, for a new cache "
    "and for one that others refer to",
    [] {
      std::atomic<int> rounds = 0;
      std::vector<JoiningThread> threads;
      for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&rounds](const StopToken& stop) {
          for (Ones cache; !stop.stop_requested(); ++rounds) {
            const singleflight::detail::CacheMutex<std::mutex> one(cache), other(cache);
          }
        });
      }
      Ones cache;
      Cached before(cache);
      Await([&] { return rounds > 100; });
      for (int i = 0; i < 100; ++i) {
        MUST(InChild([&] {
          Ones new_cache;
          Cached on_new_cache(new_cache), after(cache);
          MUST(AskOnce(on_new_cache) == 1);
          MUST(AskOnce(before) == 1);
          MUST(AskOnce(after) == 1);
        }));
      }
    });

}  // namespace

#endif
