// SPDX-License-Identifier: MIT

// These tests interleave callers of a ReadThrough that look in the cache, load, put, refresh and
// invalidate.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::ExploreAll;
using interleave::ExplorePreemptions;
using interleave::ExploreRandom;
using interleave::Mode;
using interleave::OneShard;
using interleave::Point;
using interleave::Run;
using interleave::Untracked;
using singleflight::GroupOptions;

namespace {

constexpr int kKey = 1;

// The result of a load: the source's version when the load began. Empty: the source had nothing.
struct Loaded {
  std::size_t load;
  std::size_t version;
};
using Value = std::optional<Loaded>;
constexpr std::size_t kPrimed = ~std::size_t{0};  // the `load` of the value that Prime puts
constexpr std::size_t kPutByHand = kPrimed - 1;   // and of those that a caller puts

std::size_t VersionOf(const Value& value) { return value ? value->version : 0; }

// A cache of one key. If it is not kConcurrent, it is plain memory, whose races are detected. If it
// is, each operation is one step that orders nothing for other threads.
template <bool kIsConcurrent>
class Cache {
 public:
  static constexpr bool kConcurrent = kIsConcurrent;

  std::optional<Value> Get(int) {
    return Access(Mode::kRead, [this] { return value_; });
  }
  void Put(int, const Value& value) {
    Access(Mode::kWrite, [&] { value_ = value; });
    const Untracked unseen;
    if (value->load != kPutByHand) puts.push_back(value->load);
  }
  void Erase(int) {
    Access(Mode::kWrite, [this] { value_.reset(); });
  }
  void Clear() { Erase(kKey); }
  template <class Predicate>
  void EraseIf(const Predicate& is_it) {
    if (is_it(kKey)) Erase(kKey);
  }

  // Only for use when the threads have finished.
  const std::optional<Value>& Peek() const { return value_; }
  std::vector<std::size_t> puts;  // the loads whose values were put

 private:
  template <class Use>
  auto Access(Mode mode, Use&& use) {
    if constexpr (kIsConcurrent) {
      Point(this, mode);
      const Untracked unseen;
      return use();
    } else {
      return use();
    }
  }

  std::optional<Value> value_;
};

template <class Cache>
using ReadThrough = singleflight::ReadThrough<int, Value, Cache&, singleflight::DefaultHash<int>,
                                              singleflight::DefaultEqual<int>, OneShard>;

// The naive combination that a ReadThrough replaces.
template <class Cache>
class NaivePair {
 public:
  NaivePair(Cache& cache, singleflight::ReadThroughOptions<int, Value> options)
      : cache_(cache), group_(options.group) {}

  template <class Load>
  std::optional<Value> Get(int key, Load load) {
    if (const auto hit = cache_.Get(key)) return hit;
    return *group_.Do(key, [&] {
      const Value value = load();
      cache_.Put(key, value);
      return value;
    });
  }
  void Invalidate(int key) {
    cache_.Erase(key);
    group_.Forget(key);
  }

 private:
  Cache& cache_;
  singleflight::Group<int, Value, singleflight::DefaultHash<int>, singleflight::DefaultEqual<int>,
                      OneShard>
      group_;
};

// Totals over all schedules of an exploration. They show whether a scenario reached the situation
// that it tests.
struct Seen {
  std::size_t hits = 0;
  std::size_t followers = 0;
  std::size_t outdated = 0;
  std::size_t loaded_twice = 0;
  std::size_t old_values = 0;  // given to callers that asked before the Invalidate
  std::size_t unwanted = 0;    // loads that were asked to stop
};
Seen seen;

// A cache, the source behind it, and callers. Check tests what must be true of every history.
template <class CacheType, class UsersType>
class WorldOf {
 public:
  using Users = UsersType;

  explicit WorldOf(GroupOptions options)
      : users(std::make_unique<Users>(
            cache, singleflight::ReadThroughOptions<int, Value>{.group = options})) {}

  CacheType cache;
  std::unique_ptr<Users> users;
  // The source has nothing until its first change.
  bool nothing_at_first = false;

  // Puts a value into the cache before the threads start.
  void Prime() {
    cache.Put(kKey, Loaded{kPrimed, 0});
    cache.puts.clear();
  }

  // ---- For the scenario's threads

  auto Load() {
    return [this] { return DoLoad(); };
  }
  // Like Load, for a load that may be asked to stop.
  auto StoppableLoad() {
    return [this](std::stop_token stop) {
      const Value value = DoLoad();
      const bool asked = stop.stop_requested();
      const Untracked unseen;
      loads_[value->load].unwanted = asked;
      seen.unwanted += asked;
      return value;
    };
  }

  // Runs a caller that asks by `ask`, which returns a result or something like one.
  template <class Ask>
  void Call(Ask&& ask) {
    const std::size_t at_least = StartGet();
    EndAsking(at_least, *ask());
  }
  void Get() {
    Call([this] { return users->Get(kKey, Load()); });
  }
  void Refresh() {
    const std::size_t at_least = StartRefresh();
    EndAsking(at_least, *users->Refresh(kKey, Load()));
  }

  // Refreshes by a task that `executor` gets. If this caller does not lead, it may have joined
  // another call.
  template <class Executor>
  void RefreshInBackground(Executor&& executor) {
    const auto role = users->Refresh(kKey, Load(), std::forward<Executor>(executor));
    const Untracked unseen;
    ++(role == singleflight::Role::kLeader ? refreshes_ : may_have_joined_);
  }

  // Both return the oldest version that a caller which asks now may get.
  std::size_t StartGet() { return StartAsking(gets_); }
  std::size_t StartRefresh() { return StartAsking(refreshes_); }
  void EndAsking(std::size_t at_least, const Value& value) {
    const Untracked unseen;
    Expect(VersionOf(value) >= at_least,
           "a caller got a value that was invalidated before it asked");
    seen.old_values += VersionOf(value) < invalidated_;
  }

  // Changes the source and invalidates the key, by itself or with others, or puts the new value.
  void Change() {
    ChangeBy([this](std::size_t) { users->Invalidate(kKey); });
  }
  void ChangeAll() {
    ChangeBy([this](std::size_t) { users->InvalidateAll(); });
  }
  void ChangeIf() {
    ChangeBy([this](std::size_t) { users->InvalidateIf([](int key) { return key == kKey; }); });
  }
  // Whoever puts must keep others from changing the source between reading it and the Put.
  void ChangeByPut() {
    const std::lock_guard lock(changing_);
    ChangeBy([this](std::size_t version) { users->Put(kKey, Loaded{kPutByHand, version}); });
  }
  template <class Change>
  void ChangeBy(const Change& change) {
    const std::size_t version = Save();
    change(version);
    Point(&invalidated_, Mode::kWrite);
    const Untracked unseen;
    invalidated_ = std::max(invalidated_, version);
  }

  // ---- After the run

  std::size_t Loads() const { return loads_.size(); }
  std::size_t ThreadOf(const Value& value) const { return loads_[value->load].thread; }
  std::size_t LoadsOf(std::size_t thread) const {
    return static_cast<std::size_t>(std::count_if(
        loads_.begin(), loads_.end(), [=](const auto& load) { return load.thread == thread; }));
  }
  void ExpectCached(std::size_t version) const {
    Expect(cache.Peek().has_value(), "the cache has nothing");
    Expect(VersionOf(*cache.Peek()) == version, "the cache has the wrong value");
  }

  // Checks what must be true of every history.
  void Check() const {
    if (const auto& cached = cache.Peek()) {
      Expect(VersionOf(*cached) >= invalidated_, "the cache has what was invalidated");
    }
    for (const std::size_t load : cache.puts) {
      Expect(!loads_[load].unwanted, "a load that was asked to stop put its value");
    }
    seen.loaded_twice += loads_.size() > 1;
    if constexpr (requires { users->GetStats(); }) {
      if (users != nullptr) CheckStats(users->GetStats());
    }
  }

  static void Expect(bool holds, const char* what) {
    if (!holds) interleave::Fail(what);
  }

 private:
  struct LoadNote {
    std::size_t thread;
    bool unwanted;
  };

  Value DoLoad() {
    Point(&saved_, Mode::kRead);
    const Untracked unseen;
    loads_.push_back({interleave::ThisThread(), false});
    if (saved_ == 0 && nothing_at_first) return std::nullopt;
    return Loaded{loads_.size() - 1, saved_};
  }

  std::size_t StartAsking(std::size_t& count) {
    Point(&invalidated_, Mode::kRead);
    const Untracked unseen;
    ++count;
    return invalidated_;
  }

  std::size_t Save() {
    Point(&saved_, Mode::kWrite);
    const Untracked unseen;
    return ++saved_;
  }

  void CheckStats(const singleflight::ReadThroughStats& stats) const {
    Expect(stats.hits + stats.misses == gets_, "a Get is neither a hit nor a miss, or is both");
    const std::size_t asked = stats.calls.executions + stats.calls.followers;
    const std::size_t at_least = stats.misses + refreshes_;
    Expect(at_least <= asked && asked <= at_least + may_have_joined_,
           "misses and Refreshes do not match the group's counts");
    Expect(stats.loads == loads_.size(), "the count of loads is wrong");
    Expect(nothing_at_first || stats.loads == cache.puts.size() + stats.outdated,
           "a value was neither put nor counted as outdated");
    Expect(stats.calls.failures + stats.get_failures + stats.put_failures == 0,
           "a failure was counted");
    Expect(stats.calls.in_flight == 0 && users->Callers(kKey) == 0, "a call is still in flight");
    seen.hits += stats.hits;
    seen.followers += stats.calls.followers;
    seen.outdated += stats.outdated;
  }

  // Once the threads have started, these are used only under Untracked. The search identifies them
  // by their addresses.
  std::mutex changing_;          // not used by those that invalidate
  std::size_t saved_ = 0;        // the source's version
  std::size_t invalidated_ = 0;  // versions older than this have been invalidated
  std::size_t gets_ = 0;
  std::size_t refreshes_ = 0;
  std::size_t may_have_joined_ = 0;
  std::vector<LoadNote> loads_;
};

template <bool kConcurrent>
using World = WorldOf<Cache<kConcurrent>, ReadThrough<Cache<kConcurrent>>>;
template <bool kConcurrent>
using Scenario = interleave::ScenarioOf<World<kConcurrent>>;

// Explores all schedules of `body(scenario)`, with a cache that needs a lock and with one that does
// not.
template <class Body>
void ExploreBoth(const std::string& name, Body&& body, GroupOptions options = {}) {
  seen = {};
  ExploreAll(name.c_str(), [&](Run& run) {
    Scenario<false> scenario(run, options);
    body(scenario);
  });
  ExploreAll((name + "_concurrent").c_str(), [&](Run& run) {
    Scenario<true> scenario(run, options);
    body(scenario);
  });
}
// Explores the schedules with few preemptions, if there are too many to explore all.
template <class Body>
void ExploreFew(const char* name, Body&& body) {
  ExplorePreemptions(name, test::Long() ? 3 : 2, [&](Run& run) {
    Scenario<false> scenario(run);
    body(scenario);
  });
}

// Explores random schedules.
template <class Body>
void ExploreSome(const char* name, std::size_t runs, Body&& body) {
  ExploreRandom(name, runs, [&](Run& run) {
    Scenario<false> scenario(run);
    body(scenario);
  });
}

const auto get = [](auto& world) { world.Get(); };
const auto refresh = [](auto& world) { world.Refresh(); };
const auto change = [](auto& world) { world.Change(); };
const auto change_all = [](auto& world) { world.ChangeAll(); };
const auto change_if = [](auto& world) { world.ChangeIf(); };
const auto change_by_put = [](auto& world) { world.ChangeByPut(); };
const auto change_then_get = [](auto& world) {
  world.Change();
  world.Get();
};

const auto loads_once = [](auto& world) { world.Expect(world.Loads() == 1, "not loaded once"); };
// Returns a scenario in which `callers` must load once.
const auto load_once = [](auto... callers) {
  return [=](auto& scenario) {
    (scenario.Thread(callers), ...);
    scenario.AtEnd(loads_once);
  };
};
const auto caches_the_change = [](auto& world) { world.ExpectCached(1); };

}  // namespace

TEST_CASE("Interleavings: callers of one key load it once") {
  ExploreBoth("loads_once", load_once(get, get));
  CHECK(seen.hits > 0);
  CHECK(seen.followers > 0);
  ExploreFew("loads_once_3", load_once(get, get, get));
}

namespace {

// Callers that do not block in Get.
const auto get_async = [](auto& world) {
  const auto here = [](auto task) { task(); };
  world.Call([&] { return singleflight::DoAsync(*world.users, kKey, world.Load(), here).Get(); });
};
const auto get_many = [](auto& world) {
  world.Call([&] {
    const auto load = [&](std::span<const int>) { return std::vector{world.Load()()}; };
    return singleflight::DoMany(*world.users, std::vector{kKey}, load).front().result();
  });
};

template <class World>
test::Task<Value> LoadSlowly(World& world, test::Signal& upstream) {
  const Value value = world.Load()();
  co_await upstream;
  co_return value;
}
template <class World>
test::FireAndForget GetInCoroutine(World& world, test::Signal& upstream) {
  const std::size_t at_least = world.StartGet();
  const auto load = [&] { return LoadSlowly(world, upstream); };
  const auto result = co_await singleflight::CoDo(*world.users, kKey, load);
  world.EndAsking(at_least, *result);
}
// Answers a load that began before the threads started.
auto Firing(std::shared_ptr<test::Signal> upstream) {
  return [upstream](auto&) { upstream->Fire(); };
}

// A task that has not run yet, and the Future of its caller.
template <class Scenario>
struct Submitted {
  explicit Submitted(Scenario& scenario) : world(&*scenario), at_least(world->StartGet()) {
    const auto store = [this](auto its_task) { task = its_task; };
    future = std::make_shared<singleflight::Future<Value>>(
        singleflight::DoAsync(*world->users, kKey, world->StoppableLoad(), store));
  }

  auto Running() {
    return [task = std::exchange(task, nullptr)](auto&) mutable {
      task();
      task = nullptr;
    };
  }
  auto Getting() const {
    return [future = future, at_least = at_least](auto& its_world) {
      its_world.EndAsking(at_least, *future->Get());
    };
  }

  decltype(&*std::declval<Scenario&>()) world;
  std::size_t at_least;
  std::function<void()> task;
  std::shared_ptr<singleflight::Future<Value>> future;
};

}  // namespace

TEST_CASE("Interleavings: whichever way callers ask, the key is loaded once") {
  ExploreBoth("loads_once_async", load_once(get_async, get));
  CHECK(seen.hits > 0);
  CHECK(seen.followers > 0);
  ExploreBoth("loads_once_many", load_once(get_many, get_async));
  CHECK(seen.hits > 0);
  CHECK(seen.followers > 0);
  ExploreSome("loads_once_each_way", 5000, load_once(get, get_async, get_many));
  ExploreBoth("loads_once_coroutine", [](auto& scenario) {
    const auto upstream = std::make_shared<test::Signal>();
    const auto unused = std::make_shared<test::Signal>();
    GetInCoroutine(*scenario, *upstream);
    scenario.Thread(Firing(upstream));
    scenario.Thread([unused](auto& world) { GetInCoroutine(world, *unused); });
    scenario.Thread(get);
    scenario.AtEnd(loads_once);
  });
  CHECK(seen.hits > 0);
  CHECK(seen.followers > 0);
}

TEST_CASE("Interleavings: a Get never returns a value that was invalidated before it") {
  ExploreBoth("invalidate", [](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  CHECK(seen.outdated > 0);
  CHECK(seen.old_values > 0);
  ExploreBoth("invalidate_primed", [](auto& scenario) {
    scenario->Prime();
    scenario.Thread(get);
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  // The leader looks again, finds a value that was put since, and is overtaken by Invalidate.
  ExploreBoth("invalidate_what_was_put", [](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread([](auto& world) {
      world.Get();
      world.Change();
      world.Get();
    });
    scenario.AtEnd(caches_the_change);
  });
  ExploreFew("invalidate_3", [](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread(change_then_get);
    scenario.Thread(get);
    scenario.AtEnd(caches_the_change);
  });
  ExploreFew("invalidate_twice", [](auto& scenario) {
    scenario->Prime();
    scenario.Thread(get);
    scenario.Thread(change_then_get);
    scenario.Thread(change_then_get);
    scenario.AtEnd([](auto& world) { world.ExpectCached(2); });
  });
}

TEST_CASE("Interleavings: an asynchronous load that was invalidated does not put its value") {
  ExploreBoth("invalidate_async", [](auto& scenario) {
    Submitted submitted(scenario);
    scenario.Thread(submitted.Running());
    scenario.Thread(change_then_get);
    scenario.Finally([world = submitted.world, getting = submitted.Getting()] { getting(*world); });
    scenario.AtEnd(caches_the_change);
  });
  CHECK(seen.outdated > 0);
  CHECK(seen.old_values > 0);
  ExploreSome("invalidate_async_3", 5000, [](auto& scenario) {
    Submitted submitted(scenario);
    scenario.Thread(submitted.Running());
    scenario.Thread(submitted.Getting());
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  ExploreBoth("invalidate_coroutine", [](auto& scenario) {
    const auto upstream = std::make_shared<test::Signal>();
    GetInCoroutine(*scenario, *upstream);
    scenario.Thread(Firing(upstream));
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  CHECK(seen.outdated > 0);
  ExploreBoth("invalidate_coroutine_3", [](auto& scenario) {
    const auto upstream = std::make_shared<test::Signal>();
    GetInCoroutine(*scenario, *upstream);
    scenario.Thread(Firing(upstream));
    scenario.Thread(change);
    scenario.Thread(get);
  });
}

TEST_CASE(
    "Interleavings: a load in flight undoes neither InvalidateAll nor InvalidateIf nor a Put") {
  const auto explore = [](const std::string& name, auto change_it) {
    const auto change_it_then_get = [change_it](auto& world) {
      change_it(world);
      world.Get();
    };
    ExploreBoth(name, [&](auto& scenario) {
      scenario.Thread(get);
      scenario.Thread(change_it_then_get);
      scenario.AtEnd(caches_the_change);
    });
    CHECK(seen.outdated > 0);
    CHECK(seen.old_values > 0);
    ExploreBoth(name + "_primed", [&](auto& scenario) {
      scenario->Prime();
      scenario.Thread(get);
      scenario.Thread(change_it_then_get);
      scenario.AtEnd(caches_the_change);
    });
    ExploreBoth(name + "_refreshed", [&](auto& scenario) {
      scenario->Prime();
      scenario.Thread(refresh);
      scenario.Thread(change_it_then_get);
      scenario.AtEnd(caches_the_change);
    });
    CHECK(seen.outdated > 0);
    ExploreBoth(name + "_async", [&](auto& scenario) {
      Submitted submitted(scenario);
      scenario.Thread(submitted.Running());
      scenario.Thread(change_it_then_get);
      scenario.Finally(
          [world = submitted.world, getting = submitted.Getting()] { getting(*world); });
      scenario.AtEnd(caches_the_change);
    });
    CHECK(seen.outdated > 0);
    ExploreSome((name + "_4").c_str(), 2000, [&](auto& scenario) {
      scenario.Thread(get);
      scenario.Thread(change_it_then_get);
      scenario.Thread(change_it_then_get);
      scenario.Thread(get);
      scenario.AtEnd([](auto& world) { world.ExpectCached(2); });
    });
  };
  explore("change_all", change_all);
  explore("change_if", change_if);
  explore("change_by_put", change_by_put);
}

TEST_CASE("Interleavings: when two loads are in flight, the value of the later one stays") {
  // The first load was invalidated before the second began. So it makes no difference which of them
  // finishes first.
  ExploreBoth("two_loads", [](auto& scenario) {
    const auto first = std::make_shared<test::Signal>();
    const auto second = std::make_shared<test::Signal>();
    GetInCoroutine(*scenario, *first);
    scenario->Change();
    GetInCoroutine(*scenario, *second);
    scenario.Thread(Firing(first));
    scenario.Thread(Firing(second));
    scenario.Thread(get);
    scenario.AtEnd([](auto& world) {
      world.Expect(world.Loads() == 2, "there were not two loads");
      world.ExpectCached(1);
    });
  });
  CHECK(seen.outdated > 0);
  // A caller that finds the first call too old forgets it, perhaps while its value is being put.
  const auto too_old = [](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread([](auto& world) {
      interleave::PassTime(20ms);
      world.Get();
    });
    scenario.AtEnd([](auto& world) {
      const bool both = world.LoadsOf(1) == 1;
      world.Expect(world.ThreadOf(*world.cache.Peek()) == (both ? 1u : 0u),
                   "the older value stays");
    });
  };
  ExploreBoth("two_loads_max_age", too_old, {.max_age = 10ms});
  CHECK(seen.loaded_twice > 0);
  CHECK(seen.outdated > 0);
}

TEST_CASE("Interleavings: while a key is refreshed, its readers always find a value") {
  const auto readers = [](auto... others) {
    return [=](auto& scenario) {
      scenario->Prime();
      scenario.Thread(refresh);
      (scenario.Thread(others), ...);
      scenario.AtEnd([](auto& world) {
        loads_once(world);
        world.Expect(world.users->GetStats().misses == 0, "a reader found nothing");
        world.Expect((*world.cache.Peek())->load == 0, "the old value is still there");
      });
    };
  };
  ExploreBoth("refresh_reader", readers(get));
  ExploreBoth("refresh_readers", readers(get, get));
}

TEST_CASE("Interleavings: overlapping Refreshes load once") {
  const auto refreshes = [](auto... others) {
    return [=](auto& scenario) {
      scenario->Prime();
      scenario.Thread(refresh);
      (scenario.Thread(others), ...);
      scenario.AtEnd([](auto& world) {
        const auto stats = world.users->GetStats();
        world.Expect(stats.loads == stats.calls.executions, "a Refresh did not load");
        world.Expect(stats.misses == 0, "a reader found nothing");
        world.Expect((*world.cache.Peek())->load == world.Loads() - 1, "an older value stays");
      });
    };
  };
  ExploreBoth("refresh_refresh", refreshes(refresh));
  CHECK(seen.followers > 0);
  CHECK(seen.loaded_twice > 0);
  ExploreBoth("refresh_refresh_reader", refreshes(refresh, get));
}

TEST_CASE("Interleavings: a Refresh that was overtaken by Invalidate puts nothing") {
  ExploreBoth("refresh_overtaken", [](auto& scenario) {
    scenario->Prime();
    scenario.Thread(refresh);
    scenario.Thread(change);
  });
  CHECK(seen.outdated > 0);
  ExploreBoth("refresh_overtaken_get", [](auto& scenario) {
    scenario->Prime();
    scenario.Thread(refresh);
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  // A Refresh that found nothing does not erase a newer value either.
  ExploreBoth("refresh_finds_nothing", [](auto& scenario) {
    scenario->nothing_at_first = true;
    scenario.Thread(refresh);
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  CHECK(seen.outdated > 0);
  ExploreBoth("refresh_in_background", [](auto& scenario) {
    scenario->Prime();
    std::function<void()> task;
    scenario->RefreshInBackground([&task](auto its_task) { task = its_task; });
    scenario.Thread([task = std::exchange(task, nullptr)](auto&) mutable {
      task();
      task = nullptr;
    });
    scenario.Thread(change_then_get);
    scenario.AtEnd(caches_the_change);
  });
  CHECK(seen.outdated > 0);
}

TEST_CASE("Interleavings: a load that nobody wants any more does not put its value") {
  ExploreBoth("load_left", [](auto& scenario) {
    Submitted submitted(scenario);
    scenario.Thread(submitted.Running());
    scenario.Thread([future = submitted.future](auto& world) {
      *future = {};
      world.Get();
    });
  });
  CHECK(seen.unwanted > 0);
  CHECK(seen.outdated > 0);
}

TEST_CASE("Interleavings: a ReadThrough can be destroyed while one of its calls lands") {
  ExploreBoth("read_through_ends", [](auto& scenario) {
    Submitted submitted(scenario);
    scenario.Thread(submitted.Running());
    scenario.Thread([](auto& world) { world.users.reset(); });
    scenario.Finally([world = submitted.world, getting = submitted.Getting()] { getting(*world); });
  });
  CHECK(seen.unwanted > 0);
}

TEST_CASE(
    "Interleavings: four different callers of a ReadThrough leave the latest value in the cache") {
  ExploreSome("read_through_callers", 5000, [](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread(change_then_get);
    scenario.Thread(refresh);
    scenario.Thread([](auto& world) {
      get_async(world);
      change_then_get(world);
    });
    scenario.AtEnd([](auto& world) { world.ExpectCached(2); });
  });
}

namespace {

// Callers that may leave the call to others, or to nobody.
const auto get_in_time = [](auto& world) {
  try {
    world.Call([&] { return world.users->Get(kKey, world.StoppableLoad(), {.timeout = 1ms}); });
  } catch (const std::system_error& error) {
    world.Expect(error.code() == std::errc::timed_out,
                 "a caller got neither a value nor a timeout");
  }
};
const auto get_and_abandon = [](auto& world) {
  std::function<void()> task;
  const auto store = [&task](auto its_task) { task = its_task; };
  world.StartGet();
  static_cast<void>(singleflight::DoAsync(*world.users, kKey, world.StoppableLoad(), store));
  if (task) task();
};
const auto refresh_in_background = [](auto& world) {
  world.RefreshInBackground([](auto task) { task(); });
};
const auto pass_time = [](auto&) { interleave::PassTime(2ms); };

template <class World>
void RunDrawn(unsigned drawn, World& world, bool changes_by_put) {
  switch (drawn % 14) {
    case 0:
      return get_async(world);
    case 1:
      return get_many(world);
    case 2:
      return get_in_time(world);
    case 3:
      return get_and_abandon(world);
    case 4:
      return refresh(world);
    case 5:
      return refresh_in_background(world);
    case 6:
      return pass_time(world);
    case 7:
      return changes_by_put ? change_by_put(world) : change_all(world);
    case 8:
      return changes_by_put ? change_by_put(world) : change_if(world);
    case 9:
    case 10:
    case 11:
      return changes_by_put ? change_by_put(world) : change(world);
    default:
      return get(world);
  }
}

template <bool kConcurrent>
std::size_t ExploreProgram(unsigned seed) {
  interleave::Pct search = interleave::RandomSearch(seed, 30, 150);
  return Explore("read_through_program_" + std::to_string(seed), search,
                 [seed](Run& run) {
                   std::mt19937 random(seed);
                   GroupOptions options;
                   if (random() % 3 == 0) options.max_age = 1ms;
                   Scenario<kConcurrent> scenario(run, options);
                   if (random() % 2 == 0) scenario->Prime();
                   const bool by_put = random() % 3 == 0;
                   for (int thread = 0; thread < 3; ++thread) {
                     scenario.Thread([first = random(), second = random(), by_put](auto& world) {
                       RunDrawn(static_cast<unsigned>(first), world, by_put);
                       RunDrawn(static_cast<unsigned>(second), world, by_put);
                     });
                   }
                 })
      .schedules;
}

}  // namespace

TEST_CASE("Interleavings: the promises hold in random programs of every ReadThrough operation") {
  const unsigned programs = test::Long() ? 10000 : 300;
  std::size_t schedules = 0;
  for (unsigned seed = 1; seed <= programs; ++seed) {
    schedules += seed % 2 == 0 ? ExploreProgram<false>(seed) : ExploreProgram<true>(seed);
  }
  interleave::Report("random", "read_through_programs", schedules);
}

namespace {

// Returns the failure that the search finds if the naive pair takes the place of the ReadThrough.
template <class Body>
std::string FailureOfNaivePair(Body&& body) {
  try {
    interleave::Exhaustive search;
    Explore("naive_pair", search, [&](Run& run) {
      interleave::ScenarioOf<WorldOf<Cache<true>, NaivePair<Cache<true>>>> scenario(run);
      body(scenario);
    });
    return {};
  } catch (const std::runtime_error& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }
}

}  // namespace

TEST_CASE(
    "Interleavings: without a ReadThrough, a cache and a group load twice and bring back old "
    "values") {
  const std::string twice = FailureOfNaivePair(load_once(get, get));
  CHECK(twice == "interleavings: naive_pair: not loaded once");
  const std::string brought_back = FailureOfNaivePair([](auto& scenario) {
    scenario.Thread(get);
    scenario.Thread(change);
  });
  CHECK(brought_back == "interleavings: naive_pair: the cache has what was invalidated");
}

TEST_CASE("Interleavings: a key's lock holds up only the threads that want the same key") {
  using singleflight::detail::KeyLock;
  // These two keys share a mutex.
  constexpr std::uint64_t kOne = 1;
  constexpr std::uint64_t kOther = 22;
  struct Keys {
    KeyLock lock;
    int changed[2] = {};
    std::atomic<bool> other_changed = false;
  };
  ExploreAll("key_lock", [&](Run& run) {
    const auto keys = std::make_shared<Keys>();
    for (int i = 0; i < 2; ++i) {
      run.Thread([keys] {
        const KeyLock::Holder changing(keys->lock, kOne);
        ++keys->changed[0];
      });
    }
    run.Thread([keys] {
      const KeyLock::Holder changing(keys->lock, kOther);
      ++keys->changed[1];
    });
  });
  // No thread could continue if the first one held up the other key, or if its waiter were woken
  // instead.
  ExploreAll("key_lock_held", [&](Run& run) {
    const auto keys = std::make_shared<Keys>();
    run.Thread([keys] {
      const KeyLock::Holder changing(keys->lock, kOne);
      while (!keys->other_changed.load()) std::this_thread::yield();
      ++keys->changed[0];
    });
    run.Thread([keys] {
      const KeyLock::Holder changing(keys->lock, kOne);
      ++keys->changed[0];
    });
    for (int i = 0; i < 2; ++i) {
      run.Thread([keys] {
        {
          const KeyLock::Holder changing(keys->lock, kOther);
          if (++keys->changed[1] == 1) return;
        }
        keys->other_changed.store(true);
      });
    }
  });
}

TEST_CASE("Interleavings: two ReadThroughs call the cache to which they refer one at a time") {
  struct Both {
    Cache<false> cache;
    ReadThrough<Cache<false>> one{cache}, other{cache};
  };
  ExploreAll("shared_cache", [](Run& run) {
    const auto both = std::make_shared<Both>();
    const auto load = [] { return Value(Loaded{0, 0}); };
    run.Thread([both, load] { static_cast<void>(both->one.Get(kKey, load)); });
    run.Thread([both, load] { static_cast<void>(both->other.Get(kKey, load)); });
    run.AtEnd([both] {
      if (!both->cache.Peek()) interleave::Fail("the cache has nothing");
    });
  });
  // Each thread makes its own, and destroys it, so the lock comes and goes.
  ExploreAll("shared_cache_made_meanwhile", [](Run& run) {
    const auto cache = std::make_shared<Cache<false>>();
    for (int i = 0; i < 2; ++i) {
      run.Thread([cache] {
        ReadThrough<Cache<false>> own(*cache);
        static_cast<void>(own.Get(kKey, [] { return Value(Loaded{0, 0}); }));
      });
    }
  });
}
