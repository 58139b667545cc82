// SPDX-License-Identifier: MIT

// Tests ReadThrough with callers that block.

#include <atomic>
#include <latch>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "fake_cache.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::ReadThrough;
using singleflight::Role;

namespace {

using IntCache = FakeCache<int>;
using Users = ReadThrough<std::string, int, IntCache&>;

int MustNotRun() { throw std::logic_error("this load must not run"); }

[[noreturn]] void Throw() { throw std::runtime_error("the cache is down"); }

// A thread that asks for "key". Its load runs until Finish.
class HeldLoad {
 public:
  HeldLoad(Users& users, int value, singleflight::CallOptions options = {})
      : caller_([this, &users, value, options] {
          return users.Get(
              "key",
              [this, value] {
                begun_.count_down();
                finish_.wait();
                return value;
              },
              options);
        }) {
    begun_.wait();
  }

  const Outcome<int>& Finish() {
    finish_.count_down();
    return caller_.Join();
  }

 private:
  std::latch begun_{1}, finish_{1};
  Caller<int> caller_;
};

// A cache of one value, which expires when the test changes `epoch`.
struct ExpiringCache {
  static constexpr bool kConcurrent = true;
  std::optional<int> Get(const std::string&) {
    const std::lock_guard lock(mutex);
    return epoch_of_value == epoch ? std::optional(value) : std::nullopt;
  }
  void Put(const std::string&, int its_value) {
    const std::lock_guard lock(mutex);
    value = its_value;
    epoch_of_value = epoch;
  }
  std::mutex mutex;
  std::atomic<int> epoch = 1;
  int epoch_of_value = 0, value = 0;  // guarded by mutex
};

struct Uncopyable {
  explicit Uncopyable(int its_number) : number(its_number) {}
  Uncopyable(Uncopyable&&) noexcept = default;
  int number;
};

struct EmptyCache {
  static constexpr bool kConcurrent = true;
  std::optional<Uncopyable> Get(const std::string&) { return std::nullopt; }
  void Put(const std::string&, const Uncopyable&) {}
};

// A cache whose operations return results that must not be ignored.
struct TellingCache {
  [[nodiscard]] std::optional<std::string> Get(std::string_view key) {
    const auto found = entries.find(key);
    return found != entries.end() ? std::optional(found->second) : std::nullopt;
  }
  [[nodiscard]] bool Put(std::string_view key, const std::string& value) {
    return entries.insert_or_assign(std::string(key), value).second;
  }
  [[nodiscard]] std::size_t Erase(const std::string& key) { return entries.erase(key); }  // no view
  std::map<std::string, std::string, std::less<>> entries;
};

// Two objects hash a key differently, unless one is a copy of the other.
struct SeededHash {
  std::size_t operator()(int key) const noexcept { return std::hash<int>()(key) + seed; }
  std::size_t seed = ++seeds;
  static inline std::size_t seeds = 0;
};

}  // namespace

TEST_CASE("ReadThrough: a cached value is returned without running the load") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  const auto result = users.Get("key", MustNotRun);
  CHECK(*result == 1);
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(users.GetStats().hits == 1);
  CHECK(users.GetStats().misses == 0);
  CHECK(users.GetStats().calls == singleflight::Stats());
}

TEST_CASE("ReadThrough: a missing value is loaded once and put into the cache") {
  IntCache cache;
  Users users(cache);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  CHECK(cache.Peek("key") == 1);
  CHECK(*users.Get("key", MustNotRun) == 1);
  CHECK(users.GetStats().hits == 1);
  CHECK(users.GetStats().misses == 1);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough: ten callers that miss at the same time share one load") {
  IntCache cache;
  Users users(cache);
  const auto outcomes = AskAtOnce(10, [&] {
    return users.Get("key", [&] {
      AwaitCallers(users, "key", 10);
      return 1;
    });
  });
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == 1);
    CHECK(outcome.shared);
  }
  CHECK(users.GetStats().loads == 1);
  CHECK(cache.puts == 1);
}

TEST_CASE("The naive pair, a cache asked before a group, can load twice") {
  IntCache cache;
  Group<std::string, int> group;
  std::atomic<int> loads = 0;
  const auto load = [&] {
    cache.Put("key", ++loads);
    return cache.Peek("key").value();
  };
  // One caller has missed. Before it asks the group, another caller's load begins and lands.
  const auto found = cache.Get("key");
  CHECK(*group.Do("key", load) == 1);
  REQUIRE_FALSE(found.has_value());
  CHECK(*group.Do("key", load) == 2);
}

TEST_CASE("ReadThrough: a load that lands between a caller's miss and its call is not repeated") {
  IntCache cache;
  Users users(cache);
  // As above, another caller's load begins and lands after this caller has missed.
  cache.after_get = [&] {
    cache.after_get = nullptr;
    CHECK(*users.Get("key", [] { return 1; }) == 1);
  };
  CHECK(*users.Get("key", MustNotRun) == 1);
  CHECK(users.GetStats().loads == 1);
  CHECK(users.GetStats().misses == 2);
}

TEST_CASE("ReadThrough: a load that began before Invalidate does not put its value") {
  IntCache cache;
  Users users(cache);
  HeldLoad before(users, 1);
  users.Invalidate("key");
  CHECK(before.Finish().value == 1);
  CHECK(cache.puts == 0);
  CHECK(users.GetStats().outdated == 1);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(cache.Peek("key") == 2);
}

TEST_CASE(
    "ReadThrough: a caller that asks after Invalidate does not join a load that began before it") {
  IntCache cache;
  Users users(cache);
  HeldLoad before(users, 1);
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(before.Finish().value == 1);
  CHECK(cache.Peek("key") == 2);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough: a caller that asks after Invalidate does not get the old cached value") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: a call that looked in the cache before the Erase is forgotten after it") {
  IntCache cache;
  Users users(cache);
  std::optional<HeldLoad> between;
  cache.before_erase = [&] { between.emplace(users, 1); };
  users.Invalidate("key");
  CHECK(users.Callers("key") == 0);
  between->Finish();
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough: Invalidate disturbs no other key") {
  IntCache cache;
  cache.Fill("other", 1);
  Users users(cache);
  HeldLoad load(users, 2);
  users.Invalidate("another");
  CHECK(load.Finish().value == 2);
  CHECK(cache.Peek("key") == 2);
  CHECK(cache.Peek("other") == 1);
  CHECK(users.GetStats().outdated == 0);
}

TEST_CASE("ReadThrough: a load may invalidate its own key") {
  IntCache cache;
  Users users(cache);
  CHECK(*users.Get("key", [&] {
    users.Invalidate("key");
    return 1;
  }) == 1);
  CHECK(cache.puts == 0);
}

TEST_CASE(
    "ReadThrough: if the cache fails to erase, Invalidate throws and still forgets the call") {
  IntCache cache;
  Users users(cache);
  HeldLoad before(users, 1);
  cache.before_erase = Throw;
  CHECK_THROWS_WITH(users.Invalidate("key"), "the cache is down");
  CHECK(users.Callers("key") == 0);
  CHECK(before.Finish().value == 1);
  CHECK(cache.puts == 0);
}

TEST_CASE("ReadThrough: a newer load's value is not replaced by an older load's") {
  IntCache cache;
  Users users(cache, {.group = {.max_age = 1ns}});
  HeldLoad older(users, 1);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(older.Finish().value == 1);
  CHECK(cache.Peek("key") == 2);
}

TEST_CASE("ReadThrough: a value that a load returns after it was asked to stop is not put") {
  IntCache cache;
  Users users(cache);
  StopSource stop;
  const auto result = users.Get("key",
                                [&](StopToken asked) {
                                  stop.request_stop();
                                  return asked.stop_requested() ? -1 : 1;
                                },
                                {.stop = stop.get_token()});
  CHECK(*result == -1);
  CHECK(cache.puts == 0);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE(
    "ReadThrough: readers get the old value while a Refresh loads, and the new one afterwards") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  const auto refreshed = users.Refresh("key", [&] {
    CHECK(*users.Get("key", MustNotRun) == 1);
    return 2;
  });
  CHECK(*refreshed == 2);
  CHECK(*users.Get("key", MustNotRun) == 2);
}

TEST_CASE("ReadThrough: ten Refreshes at once share one load") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  const auto outcomes = AskAtOnce(10, [&] {
    return users.Refresh("key", [&] {
      AwaitCallers(users, "key", 10);
      return 2;
    });
  });
  for (const auto& outcome : outcomes) CHECK(outcome.value == 2);
  CHECK(users.GetStats().loads == 1);
  CHECK(cache.puts == 1);
}

TEST_CASE("ReadThrough: a caller that misses while a Refresh loads waits for it") {
  IntCache cache;
  Users users(cache);
  const auto outcomes = AskAtOnce(2, [&, refreshes = std::make_shared<std::atomic<int>>(0)] {
    const auto load = [&] {
      AwaitCallers(users, "key", 2);
      return 1;
    };
    return (*refreshes)++ == 0 ? users.Refresh("key", load) : users.Get("key", load);
  });
  CHECK(outcomes[0].shared);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough: a Refresh that fails leaves the old value") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  CHECK_THROWS_WITH(users.Refresh("key", []() -> int { throw std::runtime_error("no"); }), "no");
  CHECK(*users.Get("key", MustNotRun) == 1);
}

TEST_CASE("ReadThrough: a Refresh whose key is invalidated meanwhile puts nothing") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  CHECK(*users.Refresh("key", [&] {
    users.Invalidate("key");
    return 2;
  }) == 2);
  CHECK_FALSE(cache.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a load's error reaches every waiting caller and is not cached") {
  IntCache cache;
  Users users(cache);
  const auto outcomes = AskAtOnce(2, [&] {
    return users.Get("key", [&]() -> int {
      AwaitCallers(users, "key", 2);
      throw std::runtime_error("no such user");
    });
  });
  CHECK(outcomes[0].message == "no such user");
  CHECK(outcomes[1].message == "no such user");
  CHECK(cache.puts == 0);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
}

TEST_CASE("ReadThrough: 'not found' is not cached, so the next caller loads again") {
  FakeCache<std::optional<int>> cache;
  ReadThrough<std::string, std::optional<int>, decltype(cache)&> users(cache);
  CHECK_FALSE(users.Get("key", [] { return std::nullopt; })->has_value());
  CHECK_FALSE(users.Get("key", [] { return std::nullopt; })->has_value());
  CHECK(users.GetStats().loads == 2);
  CHECK(cache.puts == 0);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  CHECK(cache.puts == 1);
}

TEST_CASE("ReadThrough: 'not found' is cached if the options ask for it") {
  FakeCache<std::shared_ptr<int>> cache;
  ReadThrough<std::string, std::shared_ptr<int>, decltype(cache)&> users(cache,
                                                                         {.cache_not_found = true});
  CHECK(*users.Get("key", [] { return nullptr; }) == nullptr);
  CHECK(*users.Get("key", []() -> std::shared_ptr<int> {
    throw std::logic_error("this load must not run");
  }) == nullptr);
  CHECK(cache.puts == 1);
}

TEST_CASE("ReadThrough: a null pointer of any kind means 'not found'") {
  FakeCache<std::shared_ptr<void>> cache;
  ReadThrough<std::string, std::shared_ptr<void>, decltype(cache)&> users(cache);
  CHECK(*users.Get("key", [] { return nullptr; }) == nullptr);
  CHECK(cache.puts == 0);
}

TEST_CASE("ReadThrough: a load that finds nothing erases the old value if the cache threw in Get") {
  FakeCache<std::optional<int>> cache;
  cache.Fill("key", 1);
  cache.before_get = Throw;
  ReadThrough<std::string, std::optional<int>, decltype(cache)&> users(cache);
  CHECK_FALSE(users.Get("key", [] { return std::nullopt; })->has_value());
  CHECK_FALSE(cache.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a Refresh that finds nothing erases the old value") {
  FakeCache<std::optional<int>> cache;
  cache.Fill("key", 1);
  ReadThrough<std::string, std::optional<int>, decltype(cache)&> users(cache);
  CHECK_FALSE(users.Refresh("key", [] { return std::nullopt; })->has_value());
  CHECK_FALSE(cache.Peek("key").has_value());
}

TEST_CASE("ReadThrough: caching 'not found' is refused for a Value that cannot be empty") {
  IntCache cache;
  CHECK_THROWS_AS(Users(cache, {.cache_not_found = true}), std::invalid_argument);
}

TEST_CASE("ReadThrough: a cache that throws in Get counts as a miss and is not asked again") {
  IntCache cache;
  cache.Fill("key", 1);
  cache.before_get = Throw;
  Users users(cache);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(users.GetStats().get_failures == 1);
  CHECK(users.GetStats().misses == 1);
  CHECK(cache.gets == 1);
  CHECK(cache.Peek("key") == 2);
}

TEST_CASE("ReadThrough: when the cache throws in Put, all callers still get the value") {
  IntCache cache;
  cache.before_put = [] { throw 42; };  // NOLINT(hicpp-exception-baseclass): any type may be thrown
  Users users(cache);
  const auto outcomes = AskAtOnce(10, [&] {
    return users.Get("key", [&] {
      AwaitCallers(users, "key", 10);
      return 1;
    });
  });
  for (const auto& outcome : outcomes) CHECK(outcome.value == 1);
  CHECK(users.GetStats().put_failures == 1);
  CHECK(users.GetStats().calls.failures == 0);
}

TEST_CASE("ReadThrough: ten thousand reads at each expiry cost one load") {
  ExpiringCache cache;
  ReadThrough<std::string, int, ExpiringCache&> users(cache);
  constexpr int kExpiries = 10, kThreads = 50, kReadsEach = 200;
  for (int epoch = 1; epoch <= kExpiries; ++epoch) {
    cache.epoch = epoch;
    std::latch all_are_up(kThreads);
    std::atomic<int> loads = 0, right = 0;
    std::vector<JoiningThread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        all_are_up.arrive_and_wait();
        for (int read = 0; read < kReadsEach; ++read) {
          right += *users.Get("key", [&] {
            ++loads;
            return epoch;
          }) == epoch;
        }
      });
    }
    threads.clear();
    CHECK(loads == 1);
    CHECK(right == kThreads * kReadsEach);
  }
  const auto stats = users.GetStats();
  CHECK(stats.loads == kExpiries);
  CHECK(stats.hits + stats.misses == kExpiries * kThreads * kReadsEach);
  CHECK(stats.calls.executions + stats.calls.followers == stats.misses);
}

TEST_CASE("ReadThrough: a cache that is not marked concurrent is used by one thread at a time") {
  struct PlainCache {
    std::optional<int> Get(const std::string& key) {
      const auto found = entries.find(key);
      return found != entries.end() ? std::optional(found->second) : std::nullopt;
    }
    void Put(const std::string& key, int value) { entries.insert_or_assign(key, value); }
    void Erase(const std::string& key) { entries.erase(key); }
    std::unordered_map<std::string, int> entries;
  };
  // ThreadSanitizer reports any concurrent use. Without it, the map would break sooner or later.
  ReadThrough<std::string, int, PlainCache> users{PlainCache()};
  std::vector<JoiningThread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 1000; ++n) {
        const std::string key = std::to_string((n * (i + 1)) % 100);
        if (n % 10 == i) users.Invalidate(key);
        if (n % 10 == i + 5) users.Refresh(key, [&] { return std::stoi(key); }).value();
        right += *users.Get(key, [&] { return std::stoi(key); }) == std::stoi(key);
      }
    });
  }
  threads.clear();
  CHECK(right == 4000);
}

TEST_CASE("ReadThrough: a cache that is marked concurrent is used by several threads at a time") {
  IntCache cache;
  cache.Fill("key", 1);
  std::latch both_are_in(2);
  cache.before_get = [&] { both_are_in.arrive_and_wait(); };
  Users users(cache);
  for (const auto& outcome : AskAtOnce(2, [&] { return users.Get("key", MustNotRun); })) {
    CHECK(outcome.value == 1);
  }
}

TEST_CASE("ReadThrough: a hit allocates nothing and copies the value once, out of the cache") {
  struct Counted {
    Counted() = default;
    Counted(const Counted&) { ++copies; }
    Counted(Counted&&) noexcept {}
    Counted& operator=(const Counted&) = delete;
    static int& Copies() {
      static int count = 0;
      return count;
    }
    int& copies = Copies();
  };
  struct OneEntry {
    std::optional<Counted> Get(std::string_view) { return entry; }
    void Put(std::string_view, const Counted&) {}
    std::optional<Counted> entry{std::in_place};
  };
  ReadThrough<std::string, Counted, OneEntry> users{OneEntry()};
  Counted::Copies() = 0;
  const std::string_view key = "a key that is too long to be kept inside a string object";
  const std::size_t before = allocations;
  const auto result = users.Get(key, [] { return Counted(); });
  CHECK(allocations == before);
  CHECK(Counted::Copies() == 1);
}

TEST_CASE("ReadThrough: an unshared load allocates nothing and copies nothing") {
  ReadThrough<std::string, Uncopyable, EmptyCache> users{EmptyCache()};
  const std::string key = "a key that is too long to be kept inside a string object";
  const std::size_t before = allocations;
  const auto result = users.Get(key, [] { return Uncopyable(1); });
  CHECK(allocations == before);
}

TEST_CASE("ReadThrough: a cache with string keys is passed a const Key& if it takes no view") {
  IntCache cache;
  Users users(cache);
  CHECK(*users.Get(std::string_view("key"), [] { return 1; }) == 1);
  CHECK(*users.Get(std::string("key"), MustNotRun) == 1);
  CHECK(cache.Peek("key") == 1);
}

TEST_CASE("ReadThrough: a cache's operations may return anything and need not all take views") {
  TellingCache cache;
  ReadThrough<std::string, std::string, TellingCache&> users(cache);
  CHECK(*users.Get("key", [] { return "value"; }) == "value");
  CHECK(cache.entries.size() == 1);
  users.Invalidate("key");
  CHECK(cache.entries.empty());
}

TEST_CASE("ReadThrough: locking a key makes no new Hash object, as two may hash differently") {
  struct NumberCache {
    std::optional<int> Get(int) { return std::nullopt; }
    void Put(int, int) {}
    void Erase(int) {}
  };
  ReadThrough<int, int, NumberCache, SeededHash> numbers{NumberCache()};
  const std::size_t made = SeededHash::seeds;
  CHECK(*numbers.Get(1, [] { return 1; }) == 1);
  CHECK(*numbers.Refresh(1, [] { return 2; }) == 2);
  numbers.Invalidate(1);
  CHECK(SeededHash::seeds == made);
}

TEST_CASE("ReadThrough: keys may be of any type that can be hashed") {
  struct Numbers {
    std::optional<std::string> Get(int key) {
      const auto found = entries.find(key);
      return found != entries.end() ? std::optional(found->second) : std::nullopt;
    }
    void Put(int key, const std::string& value) { entries[key] = value; }
    std::map<int, std::string> entries;
  };
  ReadThrough<int, std::string, Numbers> users{Numbers()};
  CHECK(*users.Get(1, [] { return "one"; }) == "one");
  CHECK(*users.Get(1, [] { return "two"; }) == "one");
}

TEST_CASE("ReadThrough: a caller can leave, and a limit can refuse it, as in a group") {
  IntCache cache;
  Users users(cache, {.group = {.max_callers_per_call = 2}});
  HeldLoad load(users, 1);
  CHECK(ErrorOf([&] { return users.Get("key", MustNotRun, {.timeout = 0ns}); }) ==
        std::errc::timed_out);
  Caller follower([&] { return users.Get("key", MustNotRun); });
  AwaitCallers(users, "key", 2);
  CHECK(ErrorOf([&] { return users.Get("key", MustNotRun); }) ==
        std::errc::resource_unavailable_try_again);
  CHECK(load.Finish().value == 1);
  CHECK(follower.Join().value == 1);
}

TEST_CASE("ReadThrough: a load that asks for its own key gets a deadlock error") {
  IntCache cache;
  Users users(cache);
  CHECK(ErrorOf([&] {
          return users.Get("key", [&] { return users.Get("key", MustNotRun).value(); });
        }) == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("ReadThrough: limits that would serve nobody are refused") {
  IntCache cache;
  CHECK_THROWS_AS(Users(cache, {.group = {.max_calls_in_flight = 0}}), std::invalid_argument);
}
