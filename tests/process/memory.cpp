// SPDX-License-Identifier: MIT

// These scenarios rethrow a leader's exception when there is no memory. The C++ runtime takes what
// it needs from a pool of its own, and terminates when that is used up.
//
// They do not run under a sanitizer, because its malloc cannot be replaced.

#include "process.hpp"

#if !defined(UNDER_SANITIZER)

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <exception>
#include <new>
#include <optional>
#include <system_error>

using namespace test;
using singleflight::DoAsync;
using singleflight::Group;
using singleflight::Stats;

namespace {

std::atomic<bool> no_memory = false;

struct Failure {
  int number;
};

}  // namespace

extern "C" void* __libc_malloc(std::size_t size);

extern "C" void* malloc(std::size_t size) {
  if (!no_memory) return __libc_malloc(size);
  errno = ENOMEM;
  return nullptr;
}

namespace {

struct WithoutMemory {
  WithoutMemory() { no_memory = true; }
  ~WithoutMemory() { no_memory = false; }
};

using IntGroup = Group<int, int>;

const process::Add rethrow(
    "when fn throws and there is no memory, each of 60 followers gets that exception", [] {
      constexpr int kFollowers = 60;
      IntGroup group;
      std::atomic<int> got = 0;
      std::atomic<int> got_others = 0;
      const auto ask = [&](auto wait) {
        try {
          static_cast<void>(wait());
          ++got_others;
        } catch (const Failure& failure) {
          failure.number == 7 ? ++got : ++got_others;
        } catch (...) {
          ++got_others;
        }
      };
      std::vector<std::thread> threads;
      threads.emplace_back([&] {
        ask([&] {
          return group.Do(1, [&]() -> int {
            AwaitCallers(group, 1, kFollowers + 1);
            no_memory = true;
            throw Failure{7};
          });
        });
      });
      AwaitCallers(group, 1, 1);
      for (int i = 0; i < kFollowers; i += 3) {
        threads.emplace_back([&] { ask([&] { return group.Do(1, [] { return 1; }); }); });
        threads.emplace_back(
            [&] { ask([&] { return group.Do(1, [] { return 1; }, {.timeout = 1h}); }); });
        threads.emplace_back(
            [&] { ask([&] { return DoAsync(group, 1, [] { return 1; }).Get(); }); });
      }
      Await([&] { return got + got_others == kFollowers + 1; });
      no_memory = false;
      for (auto& thread : threads) thread.join();
      MUST(got == kFollowers + 1);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = kFollowers, .failures = 1}));
    });

// Each handler keeps one part of the runtime's pool until it finishes.
void RethrowInHandlers(const singleflight::SharedFuture<int>& future, int times) {
  try {
    static_cast<void>(future.Get());
  } catch (const Failure&) {
    if (times > 0) RethrowInHandlers(future, times - 1);
  }
}

const process::Add exhausted(
    "with more handlers at once than the runtime has memory for, it terminates and does not hang",
    [] {
      std::set_terminate([] { _exit(11); });
      IntGroup group;
      const auto throws = []() -> int { throw Failure{7}; };
      const auto future = DoAsync(group, 1, throws, [](const auto& task) { task(); }).Share();
      const WithoutMemory without;
      RethrowInHandlers(future, 10'000);
    },
    {.exit_code = 11});

template <class Ask>
bool GetsBadAlloc(Ask ask) {
  const WithoutMemory without;
  try {
    static_cast<void>(ask());
  } catch (const std::bad_alloc&) {
    return true;
  } catch (...) {
  }
  return false;
}

const process::Add timed_out(
    "a follower that times out without memory for the error gets bad_alloc and leaves", [] {
      IntGroup group;
      std::optional<IntGroup::Lead> lead;
      auto first = group.Join(1, [&](IntGroup::Lead its_lead) { lead = std::move(its_lead); });
      const auto ask = [&] { return group.Do(1, [] { return 1; }, {.timeout = 1ms}); };
      try {
        static_cast<void>(ask());  // makes what such followers wait at
      } catch (const std::system_error&) {
      }
      MUST(GetsBadAlloc(ask));
      MUST(group.Callers(1) == 1);
      lead->Succeed(2);
      MUST(*first.Get() == 2);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 2}));
    });

const process::Add owner_dead(
    "when the leader vanishes and there is no memory for the error, the caller gets bad_alloc", [] {
      IntGroup group;
      auto future = DoAsync(
          group, 1, [] { return 1; }, [](const auto&) {});
      MUST(GetsBadAlloc([&] { return future.Get(); }));
      MUST(*group.Do(1, [] { return 2; }) == 2);
    });

}  // namespace

#endif
