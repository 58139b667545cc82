// SPDX-License-Identifier: MIT

// Tests that a process which leads many calls, far from the server, loses none of their leases.

#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <string>
#include <vector>

#include "outages.hpp"
#include "proxy.hpp"
#include "sanitizers/sanitizers.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

#if defined(UNDER_SANITIZER)  // too slow for so many
constexpr std::size_t kLeases = 500;
#else
constexpr std::size_t kLeases = 5'000;
#endif

// Keeps what it is given, for the time of a long `fn`.
class Tasks {
 public:
  void Add(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  std::size_t Size() {
    const std::lock_guard lock(mutex_);
    return tasks_.size();
  }
  void RunAll() {
    for (const auto& task : tasks_) task();
    tasks_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
};

// Leads many calls for two lengths of a lease, over a network with this delay either way.
void CheckNoneIsLost(std::chrono::milliseconds delay) {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  proxy.DelayBy(delay);
  const auto options = WithLease(2s, singleflight::redis::OnOutage::kFail);
  RedisPages pages(LongTimeouts(proxy.Socket()), options);
  Tasks tasks;
  std::vector<singleflight::Future<std::string>> futures;
  for (std::size_t i = 0; i < kLeases; ++i) {
    futures.push_back(DoAsync(
        pages, std::to_string(i), [] { return "own"s; },
        [&](auto task) { tasks.Add(std::move(task)); }));
  }
  Await([&] { return tasks.Size() == kLeases; });
  const auto begun = std::chrono::steady_clock::now();
  Await([&] { return Since(begun) >= 2 * options.lease; });
  CHECK(server.Ask("DBSIZE").number == static_cast<long long>(kLeases));
  CHECK(pages.GetStats().lost_leases == 0);
  CHECK(pages.GetStats().failed_renewals == 0);
  tasks.RunAll();
  std::size_t own = 0;
  for (auto& future : futures) own += *future.Get() == "own" ? 1 : 0;
  CHECK(own == kLeases);
  Await([&] { return server.Ask("DBSIZE").number == 0; });
  CHECK(pages.GetStats().unpublished == 0);
}

}  // namespace

TEST_CASE("5,000 leases are renewed at 10 ms from the server") { CheckNoneIsLost(10ms); }

TEST_CASE("5,000 leases are renewed at 50 ms from the server") { CheckNoneIsLost(50ms); }
