// SPDX-License-Identifier: MIT

// Tests of CoDo on a small stack. This file is built without optimization, so that no compiler
// turns a resumption into a jump. A resumption that does not return then takes stack.

#include <pthread.h>

#include <cstddef>

#include "sanitizers/sanitizers.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;
using singleflight::Stats;

namespace {

#if defined(UNDER_SANITIZER)
constexpr std::uint64_t kMany = 100'000;  // sanitizers are slow and need memory
#else
constexpr std::uint64_t kMany = 1'000'000;
#endif

// Runs `body` on a thread with a stack of 256 KiB.
template <class Body>
void OnSmallStack(Body body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstacksize(&attributes, std::size_t{256} << 10) == 0);
  pthread_t thread;
  const auto run = [](void* its_body) -> void* {
    (*static_cast<Body*>(its_body))();
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, &body) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace

TEST_CASE("CoDo: a loop of very many calls that complete at once does not grow the stack") {
  Group<int, int> group;
  std::uint64_t sum = 0;
  OnSmallStack([&] {
    const auto ask = [&]() -> FireAndForget {
      const auto plain = [] { return 1; };
      const auto task = []() -> Task<int> { co_return 1; };
      for (std::uint64_t i = 0; i < kMany / 2; ++i) {
        sum += static_cast<std::uint64_t>(*co_await CoDo(group, 1, plain));
        sum += static_cast<std::uint64_t>(*co_await CoDo(group, 1, task));
      }
    };
    ask();
  });
  CHECK(sum == kMany);
  CHECK(group.GetStats() == Stats{.executions = kMany});
}

TEST_CASE("CoDo: very many followers of one call are resumed on one small stack") {
  Group<int, int> group;
  std::uint64_t sum = 0;
  OnSmallStack([&] {
    Signal signal;
    const auto fn = [&]() -> Task<int> {
      co_await signal;
      co_return 1;
    };
    const auto ask = [&]() -> FireAndForget {
      sum += static_cast<std::uint64_t>(*co_await CoDo(group, 1, fn));
    };
    for (std::uint64_t i = 0; i < kMany; ++i) ask();
    signal.Fire();
  });
  CHECK(sum == kMany);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = kMany - 1});
}
