// SPDX-License-Identifier: MIT

// Tests of DoThen and Caller.

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <optional>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoThen;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::Role;
using singleflight::Stats;

using Handle = singleflight::Caller;  // test::Caller is a thread

namespace {

using IntGroup = Group<std::string, int>;

constexpr auto kInline = [](auto task) { task(); };

auto KeepIn(std::function<void()>& kept) {
  return [&kept](auto task) { kept = task; };
}

constexpr auto kMustNotSubmit = [](auto) { FAIL("no task may be submitted"); };
constexpr auto kMustNotRun = []() -> int { throw std::logic_error("this fn must not run"); };
constexpr auto kMustNotBeCalled = [](auto&&) { std::abort(); };

// What a callback got.
struct Got {
  int times = 0;
  Outcome<int> outcome;
  std::thread::id on;
  bool in_catch_block = false;

  auto Callback() {
    return [this](KeyResult<int> result) {
      ++times;
      outcome = Keep([&] { return std::move(result).result(); });
      on = std::this_thread::get_id();
      in_catch_block = std::current_exception() != nullptr;
    };
  }
};

// A shared object that a callback captures, to see when the callback is destroyed.
struct Captured {
  std::shared_ptr<int> object = std::make_shared<int>(0);
  bool IsDestroyed() const { return object.use_count() == 1; }
};

}  // namespace

TEST_CASE("DoThen: the callback gets the result, on the thread that lands the call") {
  IntGroup group;
  std::function<void()> task;
  Got first;
  Got second;
  const Handle leader = DoThen(
      group, "key", [] { return 7; }, KeepIn(task), first.Callback());
  const Handle follower = DoThen(group, "key", kMustNotRun, kMustNotSubmit, second.Callback());
  CHECK(group.Callers("key") == 2);
  CHECK(first.times == 0);
  std::thread::id landed_on;
  JoiningThread([&] {
    landed_on = std::this_thread::get_id();
    task();
  }).join();
  for (const Got* got : {&first, &second}) {
    CHECK(got->times == 1);
    CHECK(got->outcome.value == 7);
    CHECK(got->outcome.shared);
    CHECK(got->on == landed_on);
  }
  CHECK(first.outcome.role == Role::kLeader);
  CHECK(second.outcome.role == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

TEST_CASE("DoThen: without an executor the function and the callback run on one new thread") {
  IntGroup group;
  std::latch called(1);
  std::thread::id ran_on;
  std::thread::id called_on;
  const Handle caller = DoThen(
      group, "key",
      [&] {
        ran_on = std::this_thread::get_id();
        return 7;
      },
      [&](const KeyResult<int>&) {
        called_on = std::this_thread::get_id();
        called.count_down();
      });
  called.wait();
  CHECK(ran_on == called_on);
  CHECK(ran_on != std::this_thread::get_id());
}

TEST_CASE("DoThen: if the executor runs the task at once, the callback is called inside DoThen") {
  IntGroup group;
  Got got;
  Handle caller = DoThen(
      group, "key", [] { return 7; }, kInline, got.Callback());
  CHECK(got.times == 1);
  CHECK(got.outcome.value == 7);
  CHECK_FALSE(got.outcome.shared);
  CHECK_FALSE(caller.Leave());
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("DoThen: a callback, a thread and a Future can wait for one call") {
  IntGroup group;
  std::function<void()> task;
  Got got;
  const Handle caller = DoThen(
      group, "key", [] { return 7; }, KeepIn(task), got.Callback());
  auto future = singleflight::DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
  test::Caller blocked([&] { return group.Do("key", kMustNotRun); });
  AwaitCallers(group, "key", 3);
  task();
  CHECK(got.outcome.value == 7);
  CHECK(*future.Get() == 7);
  CHECK(blocked.Join().value == 7);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2});
}

TEST_CASE("DoThen: keys, functions, values and callbacks may be move-only, and a value void") {
  Group<int, std::unique_ptr<int>> pointers;
  int got = 0;
  const Handle pointer = DoThen(
      pointers, 1, [one = std::make_unique<int>(7)]() mutable { return std::move(one); }, kInline,
      [&got, seven = std::make_unique<int>(7)](KeyResult<std::unique_ptr<int>> result) {
        got = **result + *seven;
      });
  CHECK(got == 14);
  Group<int, void> nothing;
  const Handle none = DoThen(
      nothing, 1, [] {}, kInline, [&got](KeyResult<void> result) { got = result ? 1 : 2; });
  CHECK(got == 1);
}

TEST_CASE("DoThen: a ReadThrough's cached value reaches the callback inside DoThen") {
  struct Cache {
    std::optional<int> Get(const std::string&) { return value; }
    void Put(const std::string&, int its_value) { value = its_value; }
    std::optional<int> value;
  };
  singleflight::ReadThrough<std::string, int, Cache> numbers{Cache()};
  Got loaded;
  Got hit;
  const Handle first = DoThen(
      numbers, "key", [] { return 7; }, kInline, loaded.Callback());
  CHECK(loaded.outcome.value == 7);
  Handle second = DoThen(numbers, "key", kMustNotRun, kMustNotSubmit, hit.Callback());
  CHECK(hit.outcome.value == 7);
  CHECK(hit.outcome.role == Role::kLeader);
  CHECK_FALSE(second.Leave());
}

TEST_CASE("DoThen: a follower makes one allocation") {
  IntGroup group;
  std::function<void()> task;
  const Handle leader = DoThen(
      group, "a key that is too long for the small string optimization", [] { return 7; },
      KeepIn(task), [](const KeyResult<int>&) {});
  Got got;
  const std::size_t before = allocations;
  const Handle follower = DoThen(group, "a key that is too long for the small string optimization",
                                 kMustNotRun, kMustNotSubmit, got.Callback());
  CHECK(allocations == before + 1);
  task();
  CHECK(got.outcome.value == 7);
}

TEST_CASE("Promise 5: an error of any kind reaches the callback, outside any catch block") {
  IntGroup group;
  Got threw;
  const Handle one = DoThen(
      group, "key", []() -> int { throw std::runtime_error("down"); }, kInline, threw.Callback());
  CHECK(threw.outcome.message == "down");
  CHECK_FALSE(threw.in_catch_block);

  int thrown = 0;
  const Handle two = DoThen(
      group, "key", []() -> int { throw 5; }, kInline,
      [&](const KeyResult<int>& result) {
        try {
          std::rethrow_exception(result.error());
        } catch (const int number) {
          thrown = number;
        }
      });
  CHECK(thrown == 5);

  Got dropped;
  const Handle three = DoThen(
      group, "key", kMustNotRun, [](auto) {}, dropped.Callback());
  CHECK(dropped.outcome.error == std::errc::owner_dead);

  Got refused;
  const Handle four = DoThen(
      group, "key", kMustNotRun, [](auto) { throw std::runtime_error("the pool is full"); },
      refused.Callback());
  CHECK(refused.outcome.message == "the pool is full");
  CHECK_FALSE(refused.in_catch_block);
  CHECK(threw.times + dropped.times + refused.times == 3);
}

TEST_CASE(
    "Promise 7: a value whose move throws as it is given to a callback is that call's error") {
  struct Fragile {
    explicit Fragile(int its_moves) : moves(its_moves) {}
    Fragile(Fragile&& other) : moves(other.moves - 1) {
      if (moves == 0) throw std::runtime_error("moved too often");
    }
    int moves;
  };
  int delivered = 0;
  for (int moves = 1; delivered == 0; ++moves) {
    Group<int, Fragile> group;
    int errors = 0;
    const Handle caller = DoThen(
        group, 1, [moves] { return Fragile(moves); }, kInline,
        [&](const KeyResult<Fragile>& result) { ++(result ? delivered : errors); });
    CHECK(delivered + errors == 1);
    REQUIRE(moves < 100);
  }
}

TEST_CASE("Promise 7: wherever memory runs out, DoThen throws or the callback gets the error") {
  IntGroup group;
  int thrown = 0;
  int failed = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    Handle caller;
    Captured captured;
    Got got;
    bool threw = false;
    try {
      const FailAllocations fail(allocation);
      DoThen(
          caller, group, "key", [] { return 7; }, kInline,
          [callback = got.Callback(), object = captured.object](KeyResult<int> result) mutable {
            callback(std::move(result));
          });
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    CHECK(captured.IsDestroyed());
    CHECK_FALSE(caller.Leave());  // it must not report that it left as well
    CHECK((threw ? 1 : 0) + got.times == 1);
    if (got.outcome.value == 7) break;
    ++(threw ? thrown : failed);
  }
  CHECK(thrown > 0);
  CHECK(failed > 0);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 8: a callback and its destructor run with no lock held") {
  IntGroup group;
  // GetStats would deadlock if this thread held a shard's lock.
  struct Asking {
    ~Asking() { static_cast<void>(group.GetStats()); }
    IntGroup& group;
  };
  std::function<void()> task;
  int called = 0;
  const auto callback = [&](const KeyResult<int>&) {
    static_cast<void>(group.GetStats());
    ++called;
  };
  const Handle called_back = DoThen(
      group, "key", [] { return 7; }, KeepIn(task),
      [callback, asking = std::make_unique<Asking>(Asking{group})](KeyResult<int> result) {
        callback(result);
      });
  Handle leaves = DoThen(
      group, "key", kMustNotRun, kMustNotSubmit,
      [asking = std::make_unique<Asking>(Asking{group})](const KeyResult<int>&) { std::abort(); });
  CHECK(leaves.Leave());
  task();
  CHECK(called == 1);
}

TEST_CASE("Promise 10: a Caller that leaves is not called back, and the call continues") {
  IntGroup group;
  std::function<void()> task;
  Got stays;
  const Captured captured;
  const Handle leader = DoThen(
      group, "key", [] { return 7; }, KeepIn(task), stays.Callback());
  Handle leaves = DoThen(group, "key", kMustNotRun, kMustNotSubmit,
                         [object = captured.object](const KeyResult<int>&) { std::abort(); });
  CHECK(group.Callers("key") == 2);
  CHECK(leaves.Leave());
  CHECK(captured.IsDestroyed());
  CHECK(group.Callers("key") == 1);
  CHECK(leaves.Leave());  // it has left
  task();
  CHECK(leaves.Leave());
  CHECK(stays.outcome.value == 7);
  CHECK_FALSE(stays.outcome.shared);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

TEST_CASE(
    "Promise 10: a Caller that is destroyed or assigned to leaves, one that is moved does not") {
  IntGroup group;
  std::function<void()> task;
  Got got;
  Handle kept;
  {
    const Handle leader = DoThen(
        group, "key", [] { return 7; }, KeepIn(task), kMustNotBeCalled);
    const Handle follower = DoThen(group, "key", kMustNotRun, kMustNotSubmit, kMustNotBeCalled);
    Handle moved = DoThen(group, "key", kMustNotRun, kMustNotSubmit, got.Callback());
    Handle again(std::move(moved));
    Handle& itself = again;
    again = std::move(itself);
    Handle other = DoThen(group, "key", kMustNotRun, kMustNotSubmit, kMustNotBeCalled);
    CHECK(group.Callers("key") == 4);
    other = std::move(again);
    CHECK(group.Callers("key") == 3);
    kept = std::move(other);
    CHECK(group.Callers("key") == 3);
  }
  CHECK(group.Callers("key") == 1);
  task();
  CHECK(got.times == 1);
  CHECK_FALSE(kept.Leave());
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3, .left = 3});
}

TEST_CASE("Promise 10: a Caller that is detached is called back all the same") {
  IntGroup group;
  std::function<void()> task;
  Got got;
  DoThen(
      group, "key", [] { return 7; }, KeepIn(task), got.Callback())
      .Detach();
  Handle none;
  none.Detach();
  CHECK(group.Callers("key") == 1);
  task();
  CHECK(got.outcome.value == 7);
}

TEST_CASE("Promise 11: the last Caller to leave asks the call to stop, even while it is queued") {
  IntGroup group;
  StopToken stop;
  std::function<void()> task;
  const auto fn = [&](StopToken token) {
    stop = std::move(token);
    return 1;
  };
  Handle first = DoThen(group, "key", fn, KeepIn(task), kMustNotBeCalled);
  Handle second = DoThen(group, "key", kMustNotRun, kMustNotSubmit, kMustNotBeCalled);
  CHECK(first.Leave());
  CHECK(second.Leave());
  Got newcomer;
  const Handle third = DoThen(
      group, "key", [] { return 2; }, kInline, newcomer.Callback());
  CHECK(newcomer.outcome.value == 2);
  task();
  CHECK(stop.stop_requested());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE("Promise 12: a caller whom a limit refuses gets the error from DoThen") {
  IntGroup group({.max_callers_per_call = 1});
  std::function<void()> task;
  const Handle leader = DoThen(
      group, "key", [] { return 7; }, KeepIn(task), [](const KeyResult<int>&) {});
  const Captured captured;
  Handle refused;
  const auto ask = [&] {
    DoThen(refused, group, "key", kMustNotRun, kMustNotSubmit,
           [object = captured.object](const KeyResult<int>&) { std::abort(); });
    return 0;
  };
  CHECK(ErrorOf(ask) == std::errc::resource_unavailable_try_again);
  CHECK(captured.IsDestroyed());
  CHECK_FALSE(refused.Leave());  // it did not leave: it never came
  CHECK_THROWS_AS(ask(), std::invalid_argument);
  refused = {};
  CHECK(ErrorOf(ask) == std::errc::resource_unavailable_try_again);
  task();
}

TEST_CASE("Promise 14: a Caller may leave, or be destroyed, after its group") {
  std::function<void()> task;
  Got got;
  Handle leader;
  Handle follower;
  {
    IntGroup group;
    leader = DoThen(
        group, "key", [] { return 7; }, KeepIn(task), got.Callback());
    follower = DoThen(group, "key", kMustNotRun, kMustNotSubmit, [](const KeyResult<int>&) {});
    task();
  }
  CHECK(got.times == 1);
  CHECK_FALSE(leader.Leave());
  follower = {};
}

TEST_CASE("Caller: when its callback has returned, it keeps neither that nor what it was given") {
  using Value = std::shared_ptr<int>;
  const Captured captured;
  const Captured given;
  struct Failure {
    Value object;
  };
  Group<int, Value> group;
  int called = 0;
  const auto callback = [&called, object = captured.object](const KeyResult<Value>&) { ++called; };
  const Handle got_value = DoThen(
      group, 1, [&] { return given.object; }, kInline, callback);
  CHECK(given.IsDestroyed());
  const Handle got_error = DoThen(
      group, 1, [&]() -> Value { throw Failure{given.object}; }, kInline, callback);
  CHECK(given.IsDestroyed());
  CHECK(called == 2);
  CHECK(captured.object.use_count() == 2);  // only `callback` itself is left
}

TEST_CASE("Caller: a callback may find that it can no longer leave, and may destroy its Caller") {
  struct Request {
    explicit Request(Captured& captured) : object(captured.object) {}
    std::shared_ptr<int> object;
    Handle caller;  // last
  };
  IntGroup group;
  std::function<void()> task;
  Captured captured;
  auto* const request = new Request(captured);
  bool could_leave = true;
  bool was_destroyed = false;
  DoThen(
      request->caller, group, "key", [] { return 7; }, KeepIn(task),
      [&, request](const KeyResult<int>& result) {
        could_leave = request->caller.Leave();
        delete request;
        was_destroyed = captured.IsDestroyed() && *result == 7;  // the callback itself lives on
      });
  task();
  CHECK_FALSE(could_leave);
  CHECK(was_destroyed);
}

TEST_CASE("Caller: a callback that owns its Caller destroys it, whether it leaves or is called") {
  struct Request {
    explicit Request(int& its_destroyed) : destroyed(its_destroyed) {}
    ~Request() { ++destroyed; }
    int& destroyed;
    Handle caller;
  };
  IntGroup group;
  int destroyed = 0;
  std::function<void()> task;
  const auto start = [&](auto executor) {
    auto request = std::make_shared<Request>(destroyed);
    DoThen(
        request->caller, group, "key", [] { return 7; }, executor,
        [request](const KeyResult<int>&) {});
    return &request->caller;
  };
  start(kInline);
  CHECK(destroyed == 1);
  start(KeepIn(task));
  CHECK(destroyed == 1);
  task();
  CHECK(destroyed == 2);
  Handle* const leaves = start(KeepIn(task));
  CHECK(leaves->Leave());
  CHECK(destroyed == 3);
}

TEST_CASE("Caller: what a stop request runs may destroy the Caller that is leaving") {
  IntGroup group;
  std::function<void()> task;
  const Captured captured;
  auto caller = std::make_unique<Handle>();
  std::latch inside(1);
  std::latch left(1);
  DoThen(
      *caller, group, "key",
      [&](const StopToken& stop) {
        const StopCallback on_stop(stop, [&] { caller.reset(); });
        inside.count_down();
        left.wait();
        return 7;
      },
      KeepIn(task), [object = captured.object](const KeyResult<int>&) { std::abort(); });
  const JoiningThread running(std::exchange(task, nullptr));
  inside.wait();
  CHECK(caller->Leave());
  CHECK(caller == nullptr);
  CHECK(captured.IsDestroyed());
  left.count_down();
}

TEST_CASE("Caller: a callback may ask again, with the same Caller") {
  IntGroup group;
  std::vector<int> got;
  Handle caller;
  std::function<void(KeyResult<int>)> next = [&](const KeyResult<int>& result) {
    got.push_back(*result);
    if (got.size() == 3) return;
    caller = {};
    DoThen(
        caller, group, "key", [&] { return static_cast<int>(got.size()); }, kInline, next);
  };
  DoThen(
      caller, group, "key", [] { return 0; }, kInline, next);
  CHECK(got == std::vector<int>{0, 1, 2});
  got.clear();
  next = [&](const KeyResult<int>& result) {
    got.push_back(*result);
    if (got.size() < 3) {
      caller = DoThen(
          group, "key", [&] { return static_cast<int>(got.size()); }, kInline, next);
    }
  };
  caller = DoThen(
      group, "key", [] { return 0; }, kInline, next);
  CHECK(got == std::vector<int>{0, 1, 2});
}

TEST_CASE("Caller: one that has left before DoThen asks for nothing, until it is assigned to") {
  IntGroup group;
  const Captured captured;
  Handle caller;
  CHECK(caller.Leave());
  CHECK(caller.Leave());
  DoThen(caller, group, "key", kMustNotRun, kMustNotSubmit,
         [object = captured.object](const KeyResult<int>&) { std::abort(); });
  CHECK(captured.IsDestroyed());
  CHECK(caller.Leave());
  CHECK(group.GetStats() == Stats{});
  caller = {};
  Got got;
  DoThen(
      caller, group, "key", [] { return 7; }, kInline, got.Callback());
  CHECK(got.outcome.value == 7);
  CHECK_THROWS_AS(DoThen(caller, group, "key", kMustNotRun, kMustNotSubmit, kMustNotBeCalled),
                  std::invalid_argument);
}

namespace {

// A key whose hash runs `during_join`, inside Join.
struct HookedHash {
  std::size_t operator()(int key) const {
    if (during_join) std::exchange(during_join, nullptr)();
    return std::hash<int>()(key);
  }
  static inline std::function<void()> during_join;
};
using HookedGroup = Group<int, int, HookedHash, std::equal_to<>>;

}  // namespace

TEST_CASE("Caller: one that leaves while DoThen joins has left, and the call continues") {
  HookedGroup group;
  const Captured captured;
  std::function<void()> task;
  Handle leader;
  bool left = false;
  const auto leave = [&] { left = leader.Leave(); };
  const auto callback = [object = captured.object](const KeyResult<int>&) { std::abort(); };
  std::optional<bool> was_stopped;
  HookedHash::during_join = leave;
  DoThen(
      leader, group, 1,
      [&](const StopToken& stop) {
        was_stopped = stop.stop_requested();
        return 7;
      },
      KeepIn(task), callback);
  CHECK(left);
  CHECK(captured.object.use_count() == 2);  // only `callback` itself is left
  CHECK(group.Callers(1) == 0);
  task();
  CHECK(was_stopped == true);

  leader = {};
  Got got;
  Handle follower;
  DoThen(
      leader, group, 1, [] { return 7; }, KeepIn(task), got.Callback());
  HookedHash::during_join = [&] { left = follower.Leave(); };
  left = false;
  DoThen(follower, group, 1, kMustNotRun, kMustNotSubmit, callback);
  CHECK(left);
  CHECK(captured.object.use_count() == 2);
  CHECK(group.Callers(1) == 1);
  task();
  CHECK(got.outcome.value == 7);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE("Caller: one that leaves while DoThen fails has left, and DoThen does not throw") {
  HookedGroup group;
  const Captured captured;
  Handle caller;
  bool left = false;
  HookedHash::during_join = [&] {
    left = caller.Leave();
    throw std::runtime_error("no hash");
  };
  DoThen(caller, group, 1, kMustNotRun, kMustNotSubmit,
         [object = captured.object](const KeyResult<int>&) { std::abort(); });
  CHECK(left);
  CHECK(captured.IsDestroyed());

  Handle other;
  HookedHash::during_join = [] { throw std::runtime_error("no hash"); };
  CHECK_THROWS_WITH(DoThen(other, group, 1, kMustNotRun, kMustNotSubmit, kMustNotBeCalled),
                    "no hash");
  CHECK_FALSE(other.Leave());
  CHECK(group.GetStats() == Stats{});
}

TEST_CASE("Caller: one that leaves while a cache is asked is not called back with a hit") {
  using Value = std::shared_ptr<int>;
  struct Cache {
    std::optional<Value> Get(int) {
      if (during_get) during_get();
      return value;
    }
    void Put(int, const Value&) {}
    Value value = std::make_shared<int>(7);
    std::function<void()> during_get;
  } cache;
  singleflight::ReadThrough<int, Value, Cache&> numbers(cache);
  const Captured captured;
  Handle caller;
  bool left = false;
  cache.during_get = [&] { left = caller.Leave(); };
  DoThen(
      caller, numbers, 1, [] { return Value(); }, kMustNotSubmit,
      [object = captured.object](const KeyResult<Value>&) { std::abort(); });
  CHECK(left);
  CHECK(captured.IsDestroyed());
  CHECK(cache.value.use_count() == 1);  // the Caller does not keep the hit
}

TEST_CASE("Caller: destroying it waits for a callback that is running on another thread") {
  IntGroup group;
  for (int round = 0; round < 100; ++round) {
    std::function<void()> task;
    std::latch called(1);
    std::atomic<bool> destroying = false;
    std::atomic<bool> destroyed = false;
    bool destroyed_too_soon = false;
    auto captured = std::make_shared<int>(0);
    std::optional<Handle> caller = DoThen(
        group, "key", [] { return 7; }, KeepIn(task),
        [&, captured](const KeyResult<int>&) {
          called.count_down();
          Await([&] { return destroying.load(); });
          LetOthersRun(100);
          destroyed_too_soon = destroyed;
        });
    JoiningThread landing(std::exchange(task, nullptr));
    called.wait();
    CHECK_FALSE(caller->Leave());  // does not wait
    destroying = true;
    caller.reset();
    destroyed = true;
    CHECK(captured.use_count() == 1);
    landing.join();
    CHECK_FALSE(destroyed_too_soon);
  }
}

TEST_CASE("Caller: when threads make it leave while its call lands, exactly one outcome comes") {
  constexpr int kRounds = 3000;
  IntGroup group;
  int wrong = 0;
  int left_in_all = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::function<void()> task;
    std::atomic<int> called = 0;
    std::atomic<int> left = 0;
    auto captured = std::make_shared<int>(7);
    auto caller = std::make_unique<Handle>();
    Got stays;
    const Handle leader = DoThen(
        group, "key", [] { return 7; }, KeepIn(task), stays.Callback());
    std::latch together(4);
    {
      std::vector<JoiningThread> threads;
      threads.emplace_back([&, run = std::exchange(task, nullptr)] {
        together.arrive_and_wait();
        run();
      });
      for (int i = 0; i < 2; ++i) {
        threads.emplace_back([&] {
          together.arrive_and_wait();
          if (caller->Leave()) ++left;
        });
      }
      together.arrive_and_wait();
      DoThen(
          *caller, group, "key", [] { return 8; }, kInline,
          [&called, captured](const KeyResult<int>& result) { called += *result; });
    }
    const bool has_left = caller->Leave();
    caller.reset();
    if (captured.use_count() != 1) ++wrong;
    if (stays.outcome.value != 7) ++wrong;
    // If it had joined too late for the first call, it led one of its own.
    if (has_left ? called != 0 || left == 0 : (called != 7 && called != 8) || left != 0) ++wrong;
    left_in_all += has_left ? 1 : 0;
  }
  CHECK(wrong == 0);
  CHECK(left_in_all <= kRounds);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Caller: when it is destroyed while its call lands, nothing of the callback runs after") {
  constexpr int kRounds = 3000;
  IntGroup group;
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::function<void()> task;
    int called = 0;  // a data race, unless ~Caller waits
    auto captured = std::make_shared<int>(7);
    auto caller = std::make_unique<Handle>(DoThen(
        group, "key", [] { return 7; }, KeepIn(task),
        [&called, captured](const KeyResult<int>& result) { called += *result; }));
    std::latch together(2);
    JoiningThread landing([&, run = std::exchange(task, nullptr)] {
      together.arrive_and_wait();
      run();
    });
    together.arrive_and_wait();
    caller.reset();
    if (captured.use_count() != 1 || (called != 0 && called != 7)) ++wrong;
  }
  CHECK(wrong == 0);
}
