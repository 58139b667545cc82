// SPDX-License-Identifier: MIT

// These tests have several ReadThroughs that refer to one cache, which is not concurrent.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::GroupTraits;
using singleflight::ReadThrough;

namespace {

int MustNotRun() { throw std::logic_error("this load must not run"); }

std::atomic<int> blocked = 0;  // threads that have found a mutex locked

struct ReportingMutex {
  void lock() {
    if (mutex.try_lock()) return;
    ++blocked;
    mutex.lock();
  }
  void unlock() { mutex.unlock(); }
  std::mutex mutex;
};
struct ReportingTraits : GroupTraits {
  using Mutex = ReportingMutex;
};

std::set<const void*> locked;  // the mutexes that were locked. Only one thread uses it.

template <int>
struct NotedMutex {
  void lock() { locked.insert(this); }
  void unlock() {}
};
template <int kType>
struct NotingTraits : GroupTraits {
  using Mutex = NotedMutex<kType>;
};

template <class Cache, class Traits = NotingTraits<0>>
using Cached = ReadThrough<int, int, Cache, singleflight::DefaultHash<int>,
                           singleflight::DefaultEqual<int>, Traits>;

// A cache that has 1 for every key.
struct Ones {
  std::optional<int> Get(int) { return 1; }
  void Put(int, int) {}
  void Erase(int) {}
};
struct ConcurrentOnes : Ones {
  static constexpr bool kConcurrent = true;
};

// Returns how many different mutexes are locked when each of these is asked.
template <class... ReadThroughs>
std::size_t MutexesOf(ReadThroughs&... each) {
  locked.clear();
  (static_cast<void>(each.Get(7, MustNotRun)), ...);
  return locked.size();
}

}  // namespace

TEST_CASE("ReadThrough: two that refer to one cache call it one at a time") {
  struct Counted : Ones {
    std::optional<int> Get(int) {
      most = std::max(most, ++inside);
      if (first.exchange(false)) Await([this] { return blocked == 1 || inside == 2; });
      --inside;
      return 1;
    }
    std::atomic<bool> first = true;
    std::atomic<int> inside = 0;
    int most = 0;  // guarded by the ReadThroughs, as the test shows
  } cache;
  blocked = 0;
  Cached<Counted&, ReportingTraits> one(cache), other(cache);
  {
    const Caller asking([&] { return one.Get(7, MustNotRun); });
    Await([&] { return cache.inside == 1; });
    static_cast<void>(other.Get(7, MustNotRun));
  }
  CHECK(blocked == 1);
  CHECK(cache.most == 1);
}

TEST_CASE("ReadThrough: those that refer to one cache share a lock, whatever their types") {
  Ones cache;
  Cached<Ones&> one(cache), two(cache);
  CHECK(MutexesOf(one, two) == 1);
  Cached<Ones&, NotingTraits<1>> of_another_mutex(cache);
  CHECK(MutexesOf(one, of_another_mutex, two) == 1);
  ReadThrough<short, int, Ones&, singleflight::DefaultHash<short>,
              singleflight::DefaultEqual<short>, NotingTraits<0>>
      of_other_keys(cache);
  CHECK(MutexesOf(one, of_other_keys) == 1);
}

TEST_CASE("ReadThrough: those that refer to different caches, or own one, share no lock") {
  Ones cache, other;
  Cached<Ones&> refers(cache), refers_elsewhere(other);
  Cached<Ones> owns(cache), owns_as_well(cache);
  CHECK(MutexesOf(refers, refers_elsewhere, owns, owns_as_well) == 4);
}

TEST_CASE("ReadThrough: a concurrent cache is not locked, however many refer to it") {
  ConcurrentOnes cache;
  Cached<ConcurrentOnes&> one(cache), other(cache);
  CHECK(MutexesOf(one, other) == 0);
}

TEST_CASE("ReadThrough: the lock of a cache lasts as long as anyone refers to it, and no longer") {
  locked.clear();
  const std::ptrdiff_t before = live_allocations;
  std::size_t mutexes = 0;
  {
    Ones cache;
    auto first = std::make_unique<Cached<Ones&>>(cache);
    Cached<Ones&> second(cache);
    first.reset();
    Cached<Ones&> third(cache);
    mutexes = MutexesOf(second, third);
  }
  locked.clear();
  const std::ptrdiff_t after = live_allocations;
  CHECK(mutexes == 1);
  CHECK(after == before);
}

TEST_CASE("ReadThrough: a cache may ask another ReadThrough for a cache inside of it") {
  struct TwoTiers {  // has the same address as its first member
    std::optional<int> Get(int key) { return *tier->Get(key, MustNotRun); }
    void Put(int, int) {}
    void Erase(int) {}
    Ones ones;
    Cached<Ones&, ReportingTraits>* tier = nullptr;
  } cache;
  Cached<Ones&, ReportingTraits> tier(cache.ones);
  cache.tier = &tier;
  Cached<TwoTiers&, ReportingTraits> both(cache);
  CHECK(*both.Get(7, MustNotRun) == 1);
}

TEST_CASE(
    "ReadThrough: a cache with virtual functions is one cache, whatever it is referred to as") {
  struct Named {
    virtual ~Named() = default;
    std::string name;
  };
  struct Interface {
    virtual ~Interface() = default;
    virtual std::optional<int> Get(int) = 0;
    virtual void Put(int, int) = 0;
    virtual void Erase(int) = 0;
  };
  struct Whole final : Named, Interface {
    std::optional<int> Get(int) override { return 1; }
    void Put(int, int) override {}
    void Erase(int) override {}
  } cache;
  Interface& part = cache;
  REQUIRE(static_cast<const void*>(&part) != &cache);
  Cached<Whole&> by_whole(cache);
  Cached<Interface&> by_part(part);
  CHECK(MutexesOf(by_whole, by_part) == 1);
}

TEST_CASE("ReadThrough: several threads and ReadThroughs may use one plain map as their cache") {
  struct Map {
    std::optional<int> Get(int key) {
      const auto found = entries.find(key);
      return found != entries.end() ? std::optional(found->second) : std::nullopt;
    }
    void Put(int key, int value) { entries.insert_or_assign(key, value); }
    void Erase(int key) { entries.erase(key); }
    std::unordered_map<int, int> entries;
  } cache;
  constexpr int kRounds = 2000;
  std::atomic<int> wrong = 0;
  {
    std::vector<JoiningThread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&cache, &wrong] {
        for (int round = 0; round < kRounds; round += 100) {  // each makes some of its own
          ReadThrough<int, int, Map&> cached(cache);
          for (int key = round; key < round + 100; ++key) {
            if (*cached.Get(key, [key] { return key + 1; }) != key + 1) ++wrong;
            if (key % 3 == 0) cached.Invalidate(key);
          }
        }
      });
    }
  }
  CHECK(wrong == 0);
  std::size_t left = 0;
  for (int key = 0; key < kRounds; ++key) left += key % 3 != 0;
  CHECK(cache.entries.size() == left);
}
