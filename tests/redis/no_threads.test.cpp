// SPDX-License-Identifier: MIT

// Tests what a redis::Group does when the system has no more threads.

#include "support/no_threads.hpp"

#include <future>
#include <singleflight/detail/redis/deliverer.hpp>
#include <singleflight/detail/thread_mark.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::detail::Deliverer;

TEST_CASE("Deliverer: without a thread to be had, tasks run where they are posted") {
  if (!NoThreads::kWorks) return;
  const NoThreads guard;
  Deliverer deliverer;
  std::thread::id ran;
  deliverer.Post([&] { ran = std::this_thread::get_id(); });
  CHECK(ran == std::this_thread::get_id());
}

TEST_CASE("Deliverer: a task that waits runs those behind it, without a thread to be had") {
  if (!NoThreads::kWorks) return;
  std::vector<std::thread::id> ran;
  std::promise<void> posted, done;
  Deliverer deliverer;
  deliverer.Post([&] {
    posted.get_future().wait();
    {
      const NoThreads guard;
      ran.push_back(std::this_thread::get_id());
      singleflight::detail::BeforeBlocking();
    }
    done.set_value();
  });
  for (int i = 0; i < 2; ++i) {
    deliverer.Post([&] { ran.push_back(std::this_thread::get_id()); });
  }
  posted.set_value();
  done.get_future().wait();
  REQUIRE(ran.size() == 3);
  CHECK(ran[1] == ran[0]);
  CHECK(ran[2] == ran[0]);
  std::promise<std::thread::id> next;
  deliverer.Post([&] { next.set_value(std::this_thread::get_id()); });
  CHECK(next.get_future().get() != std::this_thread::get_id());  // there are threads again
}

TEST_CASE("redis: without a thread to be had, a caller is told so, and the next one tries again") {
  if (!NoThreads::kWorks) return;
  const RedisServer server;
  RedisPages pages(server);
  {
    const NoThreads guard;
    CHECK(ErrorOf([&] { return *pages.Do("k", [] { return "v"s; }); }) ==
          std::errc::resource_unavailable_try_again);
    CHECK(pages.Callers("k") == 0);
  }
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
}
