// SPDX-License-Identifier: MIT

// Tests LruCache alone. tests/cache/policies.test.cpp tests it below a ReadThrough.

#include <algorithm>
#include <atomic>
#include <functional>
#include <latch>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <singleflight/lru_cache.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "virtual_clock.hpp"

using namespace test;
using singleflight::LruCache;

namespace {

struct Traits : singleflight::LruCacheTraits {
  using Clock = VirtualClock<struct OfLruCache>;
};
using Clock = Traits::Clock;

template <class Key, class Value>
using Cache =
    LruCache<Key, Value, singleflight::DefaultHash<Key>, singleflight::DefaultEqual<Key>, Traits>;
using Numbers = Cache<int, int>;

// Which of the keys 0 to `end` - 1 are in the cache.
template <class C>
std::vector<int> KeysOf(C& cache, int end) {
  std::vector<int> keys;
  for (int key = 0; key < end; ++key) {
    if (cache.Peek(key)) keys.push_back(key);
  }
  return keys;
}

// A value whose last copy runs a function when it is destroyed.
class Notifying {
 public:
  explicit Notifying(std::function<void()> function)
      : last_(std::make_shared<Last>(std::move(function))) {}

 private:
  struct Last {
    explicit Last(std::function<void()> its_function) : function(std::move(its_function)) {}
    ~Last() { function(); }
    std::function<void()> function;
  };
  std::shared_ptr<Last> last_;
};

// Runs a hook whenever it is copied.
struct Hooked {
  explicit Hooked(int its_number) : number(its_number) {}
  Hooked(const Hooked& other) : number(other.number) {
    if (on_copy) on_copy();
  }
  Hooked(Hooked&&) noexcept = default;
  Hooked& operator=(const Hooked&) = delete;
  bool operator==(const Hooked&) const = default;
  int number;
  static inline std::function<void()> on_copy;
};
struct HookOnCopy {
  explicit HookOnCopy(std::function<void()> hook) { Hooked::on_copy = std::move(hook); }
  ~HookOnCopy() { Hooked::on_copy = nullptr; }
};
struct HashHooked {
  std::size_t operator()(const Hooked& key) const { return std::hash<int>()(key.number); }
};

[[noreturn]] void Throw() { throw std::runtime_error("no"); }

}  // namespace

TEST_CASE("LruCache: it returns the value that was put last, until it is erased") {
  LruCache<std::string, std::string> cache;
  CHECK_FALSE(cache.Get("key"));
  cache.Put("key", "1");
  cache.Put("key", "2");
  CHECK(cache.Get(std::string_view("key")) == "2");
  CHECK(cache.Erase("key"));
  CHECK_FALSE(cache.Erase("key"));
  CHECK_FALSE(cache.Get("key"));
  CHECK(cache.GetStats() == singleflight::LruCacheStats{.hits = 1, .misses = 2});
}

TEST_CASE("LruCache: the first to go is what nobody has asked for since it was put") {
  Numbers cache({.capacity = 3});
  for (int key = 0; key < 3; ++key) cache.Put(key, key);
  CHECK(cache.Get(0) == 0);
  cache.Put(3, 3);
  CHECK(KeysOf(cache, 4) == std::vector{0, 2, 3});
  CHECK(cache.Get(2) == 2);
  cache.Put(4, 4);
  CHECK(KeysOf(cache, 5) == std::vector{0, 2, 4});
  CHECK(cache.GetStats().evictions == 2);
}

TEST_CASE("LruCache: to peek does not keep an entry, and counts nothing") {
  Numbers cache({.capacity = 2});
  cache.Put(0, 0);
  cache.Put(1, 1);
  CHECK(cache.Peek(0) == 0);
  cache.Put(2, 2);
  CHECK(KeysOf(cache, 3) == std::vector{1, 2});
  CHECK(cache.GetStats().hits + cache.GetStats().misses == 0);
}

TEST_CASE("LruCache: an entry that was asked for stays so when its value is replaced") {
  Numbers cache({.capacity = 2});
  cache.Put(0, 0);
  CHECK(cache.Get(0) == 0);
  cache.Put(0, 10);
  cache.Put(1, 1);
  cache.Put(2, 2);
  CHECK(cache.Peek(0) == 10);
}

TEST_CASE("LruCache: if every entry was asked for, the oldest goes") {
  Numbers cache({.capacity = 3});
  for (int key = 0; key < 3; ++key) {
    cache.Put(key, key);
    CHECK(cache.Get(key) == key);
  }
  cache.Put(3, 3);
  CHECK(KeysOf(cache, 4) == std::vector{1, 2, 3});
}

TEST_CASE("LruCache: a scan of keys that are asked for once leaves the popular ones") {
  Numbers cache({.capacity = 100});
  for (int key = 0; key < 50; ++key) {
    cache.Put(key, key);
    CHECK(cache.Get(key) == key);
  }
  for (int key = 1000; key < 1090; ++key) cache.Put(key, key);
  CHECK(KeysOf(cache, 50).size() == 50);
}

TEST_CASE("LruCache: a full cache holds exactly its capacity, in one shard or in many") {
  const std::size_t shards = GENERATE(1u, 2u, 16u, 256u);
  Numbers cache({.capacity = 100, .shards = shards});
  for (int key = 0; key < 1000; ++key) {
    cache.Put(key, key);
    CHECK(cache.GetStats().entries == std::min<std::size_t>(std::size_t(key) + 1, 100));
    CHECK(cache.Peek(key) == key);
  }
  CHECK(cache.GetStats().evictions == 900);
}

TEST_CASE("LruCache: an entry is kept for its time, counted from its last put") {
  Numbers cache({.ttl = 10ms});
  cache.Put(1, 1);
  Clock::Pass(6ms);
  cache.Put(1, 2);
  Clock::Pass(9ms);
  CHECK(cache.Get(1) == 2);
  Clock::Pass(1ms);
  CHECK_FALSE(cache.Get(1));
  CHECK(cache.GetStats().expired == 1);
  CHECK(cache.GetStats().entries == 0);
}

TEST_CASE("LruCache: an entry may have a time of its own, longer or shorter than the others'") {
  Numbers cache({.ttl = 10ms});
  cache.Put(1, 1, 5ms);
  cache.Put(2, 2, 20ms);
  cache.Put(3, 3);
  Clock::Pass(5ms);
  CHECK(KeysOf(cache, 4) == std::vector{2, 3});
  Clock::Pass(5ms);
  CHECK(KeysOf(cache, 4) == std::vector{2});
  Clock::Pass(10ms);
  CHECK(KeysOf(cache, 4).empty());
}

TEST_CASE("LruCache: an entry whose time is not positive is not kept, nor is what it replaces") {
  Numbers cache;
  for (const auto ttl : {0ns, -1ns, (std::chrono::nanoseconds::min)()}) {
    cache.Put(1, 1);
    cache.Put(1, 2, ttl);
    CHECK_FALSE(cache.Get(1));
  }
}

TEST_CASE("LruCache: no time is too long, whatever its clock shows") {
  const auto start = GENERATE(std::numeric_limits<Clock::rep>::min(), Clock::rep(-5),
                              std::numeric_limits<Clock::rep>::max() - 1000);
  const auto before = Clock::time.exchange(start);
  Numbers cache;
  cache.Put(1, 1, (std::chrono::hours::max)());
  cache.Put(2, 2, (std::chrono::nanoseconds::max)() - 1ns);
  cache.Put(3, 3, 10ns);
  cache.Put(4, 4);
  Clock::Pass(9ns);
  CHECK(KeysOf(cache, 5) == std::vector{1, 2, 3, 4});
  Clock::Pass(1ns);
  CHECK(KeysOf(cache, 5) == std::vector{1, 2, 4});
  Clock::time = before;
}

TEST_CASE("LruCache: without a time to live, the clock is never read") {
  Numbers cache;
  const int before = Clock::reads;
  cache.Put(1, 1);
  CHECK(cache.Get(1) == 1);
  CHECK(Clock::reads == before);
}

TEST_CASE("LruCache: a put removes at most two entries that have expired, and the earliest first") {
  Numbers cache;
  for (int key = 0; key < 100; ++key) cache.Put(key, key, 10ms + std::chrono::nanoseconds(key));
  Clock::Pass(11ms);
  cache.Put(1000, 1);
  CHECK(cache.GetStats().entries == 99);
  CHECK(cache.GetStats().expired == 2);
  CHECK_FALSE(cache.Get(99));
  CHECK(cache.GetStats().expired == 3);
}

TEST_CASE("LruCache: what has expired goes before what has not") {
  Numbers cache({.capacity = 6});
  for (int key = 0; key < 6; ++key) cache.Put(key, key, key % 2 == 0 ? 20ms : 10ms);
  Clock::Pass(10ms);
  for (int key = 6; key < 9; ++key) cache.Put(key, key);
  CHECK(KeysOf(cache, 9) == std::vector{0, 2, 4, 6, 7, 8});
  CHECK(cache.GetStats().evictions == 0);
  CHECK(cache.GetStats().expired == 3);
}

TEST_CASE("LruCache: what has expired is found, whatever was erased or replaced before") {
  std::mt19937 random;  // not seeded
  for (int round = 0; round < 50; ++round) {
    Numbers cache({.shards = 1});  // a put looks only in its own
    std::map<int, int> lengths;
    for (int i = 0; i < 400; ++i) {
      const int put = int(random() % 200), length = 1 + int(random() % 100);
      cache.Put(put, i, std::chrono::nanoseconds(length));
      lengths[put] = length;
      const int erased = int(random() % 200);
      cache.Erase(erased);
      lengths.erase(erased);
    }
    const auto expired = static_cast<std::size_t>(
        std::ranges::count_if(lengths, [](const auto& entry) { return entry.second <= 50; }));
    Clock::Pass(50ns);
    for (int key = 1000; key < 1100; ++key) cache.Put(key, 0);
    REQUIRE(cache.GetStats().expired == expired);
    REQUIRE(cache.GetStats().entries == lengths.size() - expired + 100);
  }
}

TEST_CASE("LruCache: putting one key again and again takes no more memory than once") {
  Numbers cache({.ttl = 1h});
  cache.Put(1, 0);
  const auto before = live_allocations.load();
  for (int i = 0; i < 100'000; ++i) cache.Put(1, i);
  CHECK(live_allocations == before);
  for (int i = 0; i < 100'000; ++i) {
    cache.Erase(1);
    cache.Put(1, i);
  }
  CHECK(live_allocations == before);
  CHECK(cache.GetStats().entries == 1);
}

TEST_CASE("LruCache: a hit allocates nothing, also for a long string that is not a std::string") {
  LruCache<std::string, int> cache({.ttl = 1h});
  const char* const key = "a key that is too long to be kept inside of a string object";
  cache.Put(key, 1);
  const auto before = allocations;
  CHECK(cache.Get(std::string_view(key)).has_value());
  CHECK(cache.Peek(std::string_view(key)).has_value());
  CHECK(allocations == before);
}

TEST_CASE("LruCache: keys are converted as those of a Group are") {
  Numbers cache;
  cache.Put(7, 1);
  CHECK(cache.Get(7L) == 1);
  CHECK(cache.Get({7}) == 1);
  CHECK_THROWS_AS(cache.Get(7L + (1L << 32)), std::out_of_range);
}

TEST_CASE("LruCache: weights are never exceeded, and heavy entries displace many light ones") {
  Numbers cache({.capacity = 10,
                 .weigher = [](int, int weight) { return static_cast<std::size_t>(weight); }});
  for (int key = 0; key < 10; ++key) cache.Put(key, 1);
  cache.Put(10, 7);
  CHECK(KeysOf(cache, 11) == std::vector{7, 8, 9, 10});
  CHECK(cache.GetStats().weight == 10);
  cache.Put(10, 2);
  CHECK(cache.GetStats().weight == 5);
  cache.Put(11, 10);
  CHECK(KeysOf(cache, 12) == std::vector{11});
}

TEST_CASE(
    "LruCache: an entry that is heavier than the whole is not kept, nor is what it replaces") {
  Numbers cache({.capacity = 10, .weigher = [](int, int weight) { return std::size_t(weight); }});
  cache.Put(0, 1);
  cache.Put(1, 1);
  cache.Put(1, 11);
  CHECK(KeysOf(cache, 2) == std::vector{0});
  cache.Put(2, (std::numeric_limits<int>::max)());
  CHECK(KeysOf(cache, 3) == std::vector{0});
  CHECK(cache.GetStats().weight == 1);
}

TEST_CASE("LruCache: an entry as heavy as the whole displaces those of all shards") {
  Numbers cache({.capacity = 100,
                 .weigher = [](int, int weight) { return std::size_t(weight); },
                 .shards = 16});
  for (int key = 0; key < 100; ++key) cache.Put(key, 1);
  cache.Put(100, 100);
  CHECK(KeysOf(cache, 101) == std::vector{100});
  CHECK(cache.GetStats().evictions == 100);
}

TEST_CASE("LruCache: a weight of zero counts as one, so the number of entries is limited, too") {
  Numbers cache({.capacity = 3, .weigher = [](int, int) { return std::size_t(0); }});
  for (int key = 0; key < 9; ++key) cache.Put(key, key);
  CHECK(cache.GetStats().entries == 3);
}

TEST_CASE("LruCache: options that leave nothing to cache are refused") {
  CHECK_THROWS_AS(Numbers({.capacity = 0}), std::invalid_argument);
  CHECK_THROWS_AS(Numbers({.ttl = 0s}), std::invalid_argument);
  CHECK_THROWS_AS(Numbers({.shards = 3}), std::invalid_argument);
  CHECK_THROWS_AS(Numbers({.shards = 512}), std::invalid_argument);
}

TEST_CASE("LruCache: values are destroyed without a lock, whatever removes them") {
  Cache<int, Notifying> cache({.capacity = 3});
  std::vector<std::size_t> seen;
  const auto notifying = [&] {
    return Notifying([&] { seen.push_back(cache.GetStats().entries); });
  };
  cache.Put(0, notifying());
  cache.Put(0, notifying());
  CHECK(seen == std::vector<std::size_t>{1});
  cache.Erase(0);
  CHECK(seen.back() == 0);
  for (int key = 0; key < 4; ++key) cache.Put(key, notifying());
  CHECK(seen.size() == 3);
  cache.EraseIf([](int key) { return key == 1; });
  CHECK(seen.back() == 2);
  cache.Put(2, notifying(), 1ns);
  Clock::Pass(1ns);
  CHECK_FALSE(cache.Get(2));
  CHECK(seen.back() == 1);
  cache.Put(4, notifying(), 0ns);
  CHECK(seen.size() == 7);
  cache.Clear();
  CHECK(seen.size() == 8);
}

TEST_CASE("LruCache: what a put returns holds what it removed, until it is destroyed") {
  int destroyed = 0;
  Cache<int, Notifying> cache({.capacity = 1});
  cache.Put(1, Notifying([&] { ++destroyed; }));
  {
    const auto removed = cache.Put(2, Notifying([&] { ++destroyed; }));
    CHECK(removed.count() == 1);
    CHECK(destroyed == 0);
  }
  CHECK(destroyed == 1);
}

TEST_CASE("LruCache: a value's copy may use the cache, and replace the very entry") {
  Cache<int, Hooked> cache;
  cache.Put(1, Hooked(1));
  const HookOnCopy hook([&] {
    Hooked::on_copy = nullptr;
    cache.Put(1, Hooked(2));
  });
  CHECK(cache.Get(1)->number == 1);
  CHECK(cache.Get(1)->number == 2);
}

TEST_CASE("LruCache: a weigher and a predicate may use the cache") {
  std::function<std::size_t()> other;
  Numbers cache({.weigher = [&](int, int) { return other ? other() : 1; }});
  cache.Put(1, 1);
  other = [&] {
    other = nullptr;
    cache.Put(2, 2);
    return cache.GetStats().entries;
  };
  cache.Put(3, 3);
  CHECK(cache.GetStats().weight == 4);
  CHECK(cache.EraseIf([&](int key) {
    cache.Erase(key);
    cache.Put(key + 100, key);
    return key < 4;
  }) == 0);
  CHECK(KeysOf(cache, 4).empty());
}

TEST_CASE("LruCache: if a copy throws, the cache is as before") {
  LruCache<Hooked, Hooked, HashHooked> cache;
  cache.Put(Hooked(1), Hooked(10));
  {
    const HookOnCopy hook(Throw);
    CHECK_THROWS_WITH(cache.Get(Hooked(1)), "no");
    CHECK_THROWS_WITH(cache.Put(Hooked(1), Hooked(11)), "no");
    CHECK_THROWS_WITH(cache.Put(Hooked(2), Hooked(12)), "no");
  }
  CHECK(cache.Get(Hooked(1))->number == 10);
  CHECK_FALSE(cache.Get(Hooked(2)));
  CHECK(cache.GetStats().weight == 1);
}

TEST_CASE("LruCache: if the weigher throws, the cache is as before") {
  Numbers cache({.weigher = [](int, int value) -> std::size_t {
    if (value == 2) Throw();
    return 1;
  }});
  cache.Put(1, 1);
  CHECK_THROWS_WITH(cache.Put(1, 2), "no");
  CHECK_THROWS_WITH(cache.Put(2, 2), "no");
  CHECK(KeysOf(cache, 3) == std::vector{1});
  CHECK(cache.Get(1) == 1);
}

TEST_CASE("LruCache: if there is no memory, a put throws and the cache is as before, or it works") {
  Numbers cache({.capacity = 30, .ttl = 1h});
  for (int key = 0; key < 50; ++key) {
    const auto before = cache.GetStats();
    for (std::size_t index = 0;; ++index) {
      try {
        const FailAllocations fail(index);
        cache.Put(key, key);
        break;
      } catch (const std::bad_alloc&) {
      }
      const bool is_as_before = cache.GetStats() == before;
      CHECK(is_as_before);
    }
    CHECK(cache.Peek(key) == key);
  }
  CHECK(cache.GetStats().entries == 30);
}

TEST_CASE("LruCache: entries are erased by their keys, or by their keys and values") {
  Numbers cache;
  for (int key = 0; key < 1000; ++key) cache.Put(key, key % 10);
  CHECK(cache.EraseIf([](int key) { return key >= 20; }) == 980);
  CHECK(cache.EraseIf([](int key, int value) { return key == value; }) == 10);
  CHECK(KeysOf(cache, 1000) == std::vector{10, 11, 12, 13, 14, 15, 16, 17, 18, 19});
}

TEST_CASE("LruCache: a predicate that throws ends the search, and what was erased stays so") {
  Numbers cache;
  for (int key = 0; key < 100; ++key) cache.Put(key, key);
  int asked = 0;
  CHECK_THROWS_WITH(cache.EraseIf([&](int) { return ++asked > 10 ? (Throw(), true) : true; }),
                    "no");
  CHECK(cache.GetStats().entries == 90);
}

TEST_CASE("LruCache: entries that were there from the beginning are all found while others come") {
  Numbers cache({.capacity = 1'000'000, .shards = 2});
  for (int key = 0; key < 100; ++key) cache.Put(key, key);
  int next = 1000;
  CHECK(cache.EraseIf([&](int key) {  // the shards grow while they are searched
    for (int i = 0; key < 1000 && i < 100; ++i, ++next) cache.Put(next, 0);
    return key < 1000;
  }) == 100);
  CHECK(KeysOf(cache, 1000).empty());
  CHECK(cache.GetStats().entries == 10'000);
}

TEST_CASE("LruCache: no entry is lost or doubled, whatever is put, erased and expires") {
  std::mt19937 random;  // not seeded
  const auto shards = std::size_t(GENERATE(1, 4));
  Numbers cache({.capacity = 200,
                 .weigher = [](int key, int) { return std::size_t(key % 5); },
                 .shards = shards});
  struct Entry {
    int value;
    Clock::rep expires;
  };
  std::map<int, Entry> model;
  for (int step = 0; step < 100'000; ++step) {
    const int key = int(random() % 600);
    const auto ttl = std::chrono::nanoseconds(1 + random() % 1000);
    switch (random() % 8) {
      case 0:
        cache.Erase(key);
        model.erase(key);
        break;
      case 1:
      case 2:
      case 3:
        cache.Put(key, step, ttl);
        model[key] = {step, Clock::time + ttl.count()};
        break;
      case 4:
        Clock::Pass(std::chrono::nanoseconds(random() % 3));
        break;
      default: {
        const auto found = cache.Get(key);
        if (!found) break;  // it may have been evicted
        const auto expected = model.find(key);
        REQUIRE(expected != model.end());
        REQUIRE(*found == expected->second.value);
        REQUIRE(expected->second.expires > Clock::time);
      }
    }
    if (step % 1000 == 0) {
      std::size_t weight = 0, entries = 0;
      cache.EraseIf([&](int its_key, int) {
        weight += std::max<std::size_t>(std::size_t(its_key % 5), 1);
        ++entries;
        return false;
      });
      REQUIRE(weight == cache.GetStats().weight);
      REQUIRE(entries == cache.GetStats().entries);
      REQUIRE(weight <= 200);
    }
  }
  CHECK(cache.GetStats().evictions > 0);
  CHECK(cache.GetStats().expired > 0);
}

TEST_CASE("LruCache: threads never exceed the capacity, and never see a value of another key") {
  const auto shards = std::size_t(GENERATE(1, 4));
  LruCache<int, std::shared_ptr<const int>> cache(
      {.capacity = 64,
       .weigher = [](int key, const auto&) { return std::size_t(key % 7 == 0 ? 40 : 1); },
       .ttl = 1ms,
       .shards = shards});
  std::atomic<bool> wrong = false;
  std::vector<JoiningThread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random{std::mt19937::result_type(t)};
      for (int i = 0; i < 3000; ++i) {
        const int key = int(random() % 200);
        const auto found = cache.Get(key);
        if (found && **found != key) wrong = true;
        cache.Put(key, std::make_shared<const int>(key));
        if (i % 50 == t) cache.Erase(key);
        if (i % 500 == t) cache.EraseIf([&](int other) { return other % 10 == t; });
        if (i % 1000 == t) cache.Clear();
        // That of several shards is not a snapshot of one moment.
        if (shards == 1 && cache.GetStats().weight > 64) wrong = true;
      }
    });
  }
  threads.clear();
  CHECK_FALSE(wrong);
  CHECK(cache.GetStats().weight <= 64);
}

TEST_CASE("LruCache: of two entries that are each as heavy as the whole, one is kept") {
  for (int round = 0; round < 200; ++round) {
    Numbers cache(
        {.capacity = 10, .weigher = [](int, int) { return std::size_t(10); }, .shards = 16});
    std::latch both(2);
    std::vector<JoiningThread> threads;
    for (int key = 0; key < 2; ++key) {
      threads.emplace_back([&, key] {
        both.arrive_and_wait();
        cache.Put(key, key);
      });
    }
    threads.clear();
    REQUIRE(cache.GetStats().entries == 1);
  }
}
