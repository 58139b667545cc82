// SPDX-License-Identifier: MIT

// Tests of CoDo with an executor.

#include <atomic>
#include <coroutine>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;

// An executor that keeps its tasks until the test runs them.
struct Queue {
  template <class ItsTask>
  void operator()(ItsTask task) {
    tasks.emplace_back(std::move(task));
  }
  // Runs the first task, on this thread.
  void RunOne() {
    const std::function<void()> task = std::move(tasks.front());
    tasks.erase(tasks.begin());
    task();
  }

  std::vector<std::function<void()>> tasks;
};

// Asks for "key" and stores the outcome.
template <class Fn, class Executor>
Routine Ask(IntGroup& group, Outcome<int>& outcome, Fn fn, Executor& executor,
            StopToken stop = {}) {
  return StoreOutcome(outcome, [&group, fn = std::move(fn), &executor, stop]() mutable {
    return CoDo(group, "key", std::move(fn), executor, stop);
  });
}

// The two kinds of function: a plain one, and one that returns an awaitable.
struct Plain {
  template <class Fn>
  static auto Of(Fn fn) {
    return fn;
  }
};
struct Awaitable {
  template <class Fn>
  static auto Of(Fn fn) {
    return [fn = std::move(fn)]() -> Task<int> { co_return fn(); };
  }
};

// Counts how often the token of its call is taken.
struct SpyGroup {
  using KeyType = IntGroup::KeyType;
  using ValueType = IntGroup::ValueType;
  using HashType = IntGroup::HashType;
  using KeyEqualType = IntGroup::KeyEqualType;
  using Waiter = IntGroup::Waiter;
  struct Lead : IntGroup::Lead {
    Lead(IntGroup::Lead lead, int& its_taken)
        : IntGroup::Lead(std::move(lead)), taken(&its_taken) {}
    StopToken GetStopToken() const {
      ++*taken;
      return IntGroup::Lead::GetStopToken();
    }
    int* taken;
  };

  template <class Launch>
  Role Join(const char* key, Waiter& waiter, Launch&& launch) {
    return group.Join(key, waiter, [&](IntGroup::Lead lead) { launch(Lead(lead, taken)); });
  }

  IntGroup group;
  int taken = 0;
};

}  // namespace

TEST_CASE("CoDo with an executor: a plain function runs where the task is called") {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  std::thread::id ran_on;
  const Routine routine = Ask(
      group, outcome,
      [&] {
        ran_on = std::this_thread::get_id();
        return 7;
      },
      queue);
  CHECK(ran_on == std::thread::id());
  CHECK_FALSE(routine.Done());
  REQUIRE(queue.tasks.size() == 1);
  CHECK(group.Callers("key") == 1);

  std::thread::id worker;
  JoiningThread([&] {
    worker = std::this_thread::get_id();
    queue.RunOne();
  }).join();
  CHECK(ran_on == worker);
  CHECK(routine.Done());
  CHECK(outcome.value == 7);
  CHECK(outcome.role == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("CoDo with an executor: an awaitable function starts where the task is called") {
  IntGroup group;
  Queue queue;
  Signal signal;
  Outcome<int> outcome;
  std::thread::id started_on;
  const Routine routine = Ask(
      group, outcome,
      [&]() -> Task<int> {
        started_on = std::this_thread::get_id();
        co_await signal;
        co_return 7;
      },
      queue);
  CHECK(started_on == std::thread::id());
  REQUIRE(queue.tasks.size() == 1);

  std::thread::id worker;
  JoiningThread([&] {
    worker = std::this_thread::get_id();
    queue.RunOne();
  }).join();
  CHECK(started_on == worker);
  CHECK(signal.Awaited());
  CHECK_FALSE(routine.Done());
  signal.Fire();
  CHECK(outcome.value == 7);  // it went on within Fire
}

TEMPLATE_TEST_CASE("CoDo with an executor: a task that runs at once suspends nobody", "", Plain,
                   Awaitable) {
  IntGroup group;
  Outcome<int> outcome;
  int resumed = 0;
  const auto at_once = [](const auto& task) { task(); };
  const auto ask = [&]() -> Routine {
    const auto resume_on = [&](std::coroutine_handle<>) { ++resumed; };
    const auto fn = TestType::Of([] { return 7; });
    outcome.value = *co_await CoDo(group, "key", fn, at_once, {}, resume_on);
  };
  const Routine routine = ask();
  CHECK(outcome.value == 7);
  CHECK(resumed == 0);
}

TEMPLATE_TEST_CASE("CoDo with an executor: a follower's function and executor are not used", "",
                   Plain, Awaitable) {
  IntGroup group;
  Queue queue;
  Queue unused;
  Outcome<int> leading;
  Outcome<int> following;
  const Routine leader = Ask(group, leading, TestType::Of([] { return 7; }), queue);
  const Routine follower = Ask(group, following, TestType::Of([] { return 8; }), unused);
  CHECK(unused.tasks.empty());
  queue.RunOne();
  CHECK(leading.value == 7);
  CHECK(following.value == 7);
  CHECK(following.role == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: however many copies of the task are called, it runs once", "", Plain,
    Awaitable) {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  int runs = 0;
  const Routine routine = Ask(group, outcome, TestType::Of([&] { return ++runs; }), queue);
  const std::function<void()> copy = queue.tasks.front();
  queue.RunOne();
  copy();
  copy();
  CHECK(runs == 1);
  CHECK(outcome.value == 1);
}

TEMPLATE_TEST_CASE("CoDo with an executor: a task may be called on two threads at once", "", Plain,
                   Awaitable) {
  for (int round = 0; round < 500; ++round) {
    IntGroup group;
    Queue queue;
    Outcome<int> outcome;
    std::atomic<int> runs = 0;
    const Routine routine = Ask(group, outcome, TestType::Of([&] { return ++runs; }), queue);
    const std::function<void()> copy = queue.tasks.front();
    JoiningThread other(copy);
    queue.RunOne();
    other.join();
    REQUIRE(runs == 1);
    REQUIRE(outcome.value == 1);
  }
}

TEMPLATE_TEST_CASE("CoDo with an executor: a task that is destroyed lands the call with owner_dead",
                   "", Plain, Awaitable) {
  IntGroup group;
  const auto never = [] { return 7; };
  const auto drop = [](const auto&) {};
  Outcome<int> at_once;
  const Routine first = Ask(group, at_once, TestType::Of(never), drop);
  CHECK(at_once.error == std::errc::owner_dead);

  Queue queue;
  Outcome<int> later;
  const Routine second = Ask(group, later, TestType::Of(never), queue);
  std::function<void()> copy = queue.tasks.front();
  queue.tasks.clear();
  CHECK_FALSE(second.Done());
  copy = nullptr;
  CHECK(later.error == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

TEMPLATE_TEST_CASE("CoDo with an executor: what the executor throws is the call's failure", "",
                   Plain, Awaitable) {
  IntGroup group;
  Outcome<int> outcome;
  const auto full = [](const auto&) { throw std::runtime_error("the queue is full"); };
  const Routine routine = Ask(group, outcome, TestType::Of([] { return 7; }), full);
  CHECK(outcome.message == "the queue is full");
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: a task that an executor keeps although it throws never runs", "", Plain,
    Awaitable) {
  IntGroup group;
  std::function<void()> kept;
  Outcome<int> outcome;
  int runs = 0;
  const auto keep_and_throw = [&](auto task) {
    kept = std::move(task);
    throw std::runtime_error("no thread could be started");
  };
  const Routine routine = Ask(group, outcome, TestType::Of([&] { return ++runs; }), keep_and_throw);
  CHECK(outcome.message == "no thread could be started");
  kept();
  CHECK(runs == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: an executor that throws after it ran the task is ignored", "", Plain,
    Awaitable) {
  IntGroup group;
  Outcome<int> outcome;
  const auto run_and_throw = [](const auto& task) {
    task();
    throw std::runtime_error("too late");
  };
  const Routine routine = Ask(group, outcome, TestType::Of([] { return 7; }), run_and_throw);
  CHECK(outcome.value == 7);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEMPLATE_TEST_CASE("CoDo with an executor: what the function throws reaches the coroutine", "",
                   Plain, Awaitable) {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  const Routine routine =
      Ask(group, outcome, TestType::Of([]() -> int { throw std::runtime_error("down"); }), queue);
  queue.RunOne();
  CHECK(outcome.message == "down");
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: the task needs neither the coroutine nor the executor any more", "",
    Plain, Awaitable) {
  IntGroup group;
  std::vector<std::function<void()>> tasks;
  Outcome<int> outcome;
  std::optional<int> seen;
  {
    const auto captured = std::make_shared<int>(7);
    auto queue = [&tasks](auto task) { tasks.emplace_back(std::move(task)); };
    Routine routine =
        Ask(group, outcome, TestType::Of([captured, &seen] { return *(seen = *captured); }), queue);
    routine.Destroy();
  }
  REQUIRE(tasks.size() == 1);
  tasks.front()();
  CHECK(seen == 7);
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1});
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: the captures of the function are destroyed before the call lands", "",
    Plain, Awaitable) {
  IntGroup group;
  Queue queue;
  long uses = 0;
  auto captured = std::make_shared<int>(7);
  const std::weak_ptr<int> seen = captured;
  const auto ask = [&]() -> Routine {
    {
      // A capture of a const variable is const, so it is copied where the others are moved.
      const auto fixed = std::move(captured);
      const auto fn = TestType::Of([fixed] { return *fixed; });
      static_cast<void>(co_await CoDo(group, "key", fn, queue));
      uses = seen.use_count();
    }
  };
  const Routine routine = ask();
  const std::function<void()> copy = queue.tasks.front();  // a pool may keep a task for long
  queue.RunOne();
  CHECK(uses == 2);  // `fixed` and `fn`
  CHECK(seen.expired());
}

TEMPLATE_TEST_CASE(
    "CoDo with an executor: a destroyed task destroys the captures before the call lands", "",
    Plain, Awaitable) {
  IntGroup group;
  Queue queue;
  long uses = -1;
  auto captured = std::make_shared<int>(7);
  const std::weak_ptr<int> seen = captured;
  const auto ask = [&]() -> Routine {
    auto fn = TestType::Of([taken = std::move(captured)] { return *taken; });
    try {
      static_cast<void>(co_await CoDo(group, "key", std::move(fn), queue));
    } catch (const std::system_error&) {
      uses = seen.use_count();
    }
  };
  const Routine routine = ask();
  CHECK(seen.use_count() == 1);
  queue.tasks.clear();
  CHECK(uses == 0);
}

TEST_CASE("CoDo with an executor: a function that can only be moved is moved") {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  auto plain = [number = std::make_unique<int>(7)] { return *number; };
  const Routine first = Ask(group, outcome, std::move(plain), queue);
  queue.RunOne();
  CHECK(outcome.value == 7);

  auto awaitable = [number = std::make_unique<int>(8)]() -> Task<int> { co_return *number; };
  const Routine second = Ask(group, outcome, std::move(awaitable), queue);
  queue.RunOne();
  CHECK(outcome.value == 8);
}

TEST_CASE("CoDo with an executor: resume_on gets the coroutine from the thread that ran the task") {
  IntGroup group;
  Queue queue;
  std::coroutine_handle<> posted;
  std::thread::id posted_by;
  int value = 0;
  const auto ask = [&]() -> Routine {
    const auto resume_on = [&](std::coroutine_handle<> handle) {
      posted = handle;
      posted_by = std::this_thread::get_id();
    };
    const auto fn = [] { return 7; };
    value = *co_await CoDo(group, "key", fn, queue, {}, resume_on);
  };
  const Routine routine = ask();
  std::thread::id worker;
  JoiningThread([&] {
    worker = std::this_thread::get_id();
    queue.RunOne();
  }).join();
  CHECK(posted_by == worker);
  CHECK(value == 0);
  posted.resume();
  CHECK(value == 7);
}

TEST_CASE("CoDo with an executor: it may be a function, a reference, or an executor of DoAsync") {
  using AnyTask = std::function<void()>;
  static std::vector<AnyTask> tasks;
  struct Local {
    static void Post(AnyTask task) { tasks.push_back(std::move(task)); }
  };
  struct Pool {  // neither copyable nor movable
    Pool() = default;
    Pool(const Pool&) = delete;
    void operator()(AnyTask task) { kept.push_back(std::move(task)); }
    std::vector<AnyTask> kept;
  };
  IntGroup group;
  Pool pool;
  std::atomic<int> sum = 0;
  const std::function<void(AnyTask)> erased = Local::Post;
  const auto ask = [&]() -> FireAndForget {
    const auto fn = [] { return 1; };
    sum += *co_await CoDo(group, "key", fn, Local::Post);
    sum += *co_await CoDo(group, "key", fn, erased);
    sum += *co_await CoDo(group, "key", fn, pool);
    sum += *co_await CoDo(group, "key", fn, std::ref(pool));
    sum += *co_await CoDo(group, "key", fn, singleflight::NewThread());
  };
  const auto run_last = [](std::vector<AnyTask>& from) {
    const AnyTask task = std::move(from.back());
    from.pop_back();
    task();
  };
  ask();
  run_last(tasks);
  run_last(tasks);
  run_last(pool.kept);
  run_last(pool.kept);
  Await([&] { return sum == 5; });
  CHECK(group.GetStats().executions == 5);
}

TEMPLATE_TEST_CASE("CoDo with an executor: the value may be void, and fn may take a token", "",
                   Plain, Awaitable) {
  Group<int, void> group;
  Queue queue;
  int runs = 0;
  bool done = false;
  const auto ask = [&]() -> Routine {
    const auto fn = TestType::Of([&] { return ++runs; });
    const auto with_token = [&](const StopToken&) { return fn(); };
    co_await CoDo(group, 1, fn, queue);
    co_await CoDo(group, 1, with_token, queue);
    done = true;
  };
  const Routine routine = ask();
  queue.RunOne();
  queue.RunOne();
  CHECK(runs == 2);
  CHECK(done);
}

TEMPLATE_TEST_CASE("CoDo with an executor: a ReadThrough gives only what it must load to it", "",
                   Plain, Awaitable) {
  struct Cache {
    std::optional<int> Get(int key) {
      const auto found = values.find(key);
      return found == values.end() ? std::nullopt : std::optional(found->second);
    }
    void Put(int key, int value) { values[key] = value; }
    std::map<int, int> values;
  };
  Cache cache;
  singleflight::ReadThrough<int, int, Cache&> numbers(cache);
  Queue queue;
  int runs = 0;
  std::vector<int> values;
  const auto ask = [&]() -> Routine {
    const auto load = TestType::Of([&] { return ++runs; });
    values.push_back(*co_await CoDo(numbers, 1, load, queue));
    values.push_back(*co_await CoDo(numbers, 1, load, queue));
  };
  const Routine routine = ask();
  queue.RunOne();
  CHECK(values == std::vector<int>{1, 1});
  CHECK(cache.values == std::map<int, int>{{1, 1}});
  CHECK(queue.tasks.empty());
}

TEST_CASE("CoDo: what converts to a StopToken as the fourth argument is one") {
  struct Session {
    // NOLINTNEXTLINE(google-explicit-constructor)
    operator StopToken() const { return stop.get_token(); }
    StopSource stop;
  };
  IntGroup group;
  Session session;
  std::optional<std::errc> error;
  session.stop.request_stop();
  const auto ask = [&]() -> Routine {
    try {
      const auto fn = [] { return 7; };
      static_cast<void>(co_await CoDo(group, "key", fn, session));
    } catch (const std::system_error& caught) {
      error = static_cast<std::errc>(caught.code().value());
    }
  };
  const Routine routine = ask();
  CHECK(error == std::errc::operation_canceled);
}

TEMPLATE_TEST_CASE("Promise 7: whichever allocation fails, a call with an executor fails and ends",
                   "", Plain, Awaitable) {
  IntGroup group;
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    Queue queue;
    queue.tasks.reserve(1);
    Outcome<int> outcome;
    std::optional<Routine> routine;
    try {
      const FailAllocations fail(allocation);
      routine = Ask(group, outcome, TestType::Of([] { return 7; }), queue);
      if (!queue.tasks.empty()) queue.RunOne();
    } catch (const std::bad_alloc&) {
      continue;  // the coroutine's own frame was not allocated
    }
    CHECK(group.GetStats().in_flight == 0);
    if (outcome.value == 7) break;
    CHECK(outcome.message == std::bad_alloc().what());
    ++failures;
  }
  CHECK(failures > 1);
}

TEMPLATE_TEST_CASE("Promise 7: to start the work on an executor's thread allocates nothing", "",
                   Plain, Awaitable) {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  const Routine routine = Ask(group, outcome, TestType::Of([] { return 7; }), queue);
  const std::size_t before = allocations;
  queue.RunOne();
  CHECK(outcome.value == 7);
  // At most the frame of fn's own coroutine, which Clang may place elsewhere.
  const std::size_t own_frame = std::is_same_v<TestType, Awaitable> ? 1 : 0;
  CHECK(allocations - before <= own_frame);
}

TEST_CASE("Promise 9: a queued function that blocks on its own key is refused") {
  IntGroup group;
  Queue queue;
  Outcome<int> outcome;
  std::optional<std::errc> refused;
  const auto ask_again = [&] {
    refused = ErrorOf([&] { return group.Do("key", [] { return 8; }); });
    return 7;
  };
  const Routine plain = Ask(group, outcome, ask_again, queue);
  queue.RunOne();
  CHECK(refused == std::errc::resource_deadlock_would_occur);

  refused.reset();
  const auto starts = [&] { return [](int value) -> Task<int> { co_return value; }(ask_again()); };
  const Routine awaitable = Ask(group, outcome, starts, queue);
  queue.RunOne();
  CHECK(refused == std::errc::resource_deadlock_would_occur);
  CHECK(outcome.value == 7);
}

TEST_CASE("Promise 10: a coroutine whose task is still queued leaves as soon as it is stopped") {
  IntGroup group;
  Queue queue;
  Outcome<int> leading;
  Outcome<int> following;
  StopSource stop;
  const auto fn = [] { return 7; };
  const Routine leader = Ask(group, leading, fn, queue, stop.get_token());
  const Routine follower = Ask(group, following, fn, queue);
  stop.request_stop();
  CHECK(leading.error == std::errc::operation_canceled);
  queue.RunOne();
  CHECK(following.value == 7);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

TEST_CASE("Promise 11: a queued function that takes a token can be asked to stop before it runs") {
  IntGroup group;
  Queue queue;
  bool asked = false;
  const auto leave_before_it_runs = [&](auto fn) {
    Outcome<int> outcome;
    StopSource stop;
    const Routine routine = Ask(group, outcome, fn, queue, stop.get_token());
    stop.request_stop();
    CHECK(outcome.error == std::errc::operation_canceled);
    CHECK(group.Callers("key") == 0);  // it was forgotten, and a newcomer starts afresh
    asked = false;
    queue.RunOne();
    CHECK(asked);
  };
  const auto plain = [&](const StopToken& token) {
    asked = token.stop_requested();
    return 7;
  };
  leave_before_it_runs(plain);
  leave_before_it_runs([&](StopToken token) -> Task<int> { co_return plain(token); });
  CHECK(group.GetStats() == Stats{.executions = 2, .left = 2});
}

TEST_CASE(
    "Promise 11: the token is taken before the work starts, and only if the function has it") {
  std::vector<std::function<void()>> tasks;
  const auto queue = [&](auto task) { tasks.emplace_back(std::move(task)); };
  const auto taken_by = [&](auto fn, auto... executor) {
    SpyGroup spy;
    const auto ask = [&]() -> Routine {
      static_cast<void>(co_await CoDo(spy, "key", fn, executor...));
    };
    const Routine routine = ask();
    const int taken = spy.taken;
    for (const auto& task : std::exchange(tasks, {})) task();  // lands the call
    return taken;
  };
  const auto plain = [] { return 7; };
  const auto plain_with_token = [](const StopToken&) { return 7; };
  const auto awaitable = []() -> Task<int> { co_return 7; };
  const auto awaitable_with_token = [](StopToken) -> Task<int> { co_return 7; };
  CHECK(taken_by(plain, queue) == 0);
  CHECK(taken_by(awaitable, queue) == 0);
  CHECK(taken_by(plain_with_token, queue) == 1);
  CHECK(taken_by(awaitable_with_token, queue) == 1);
  CHECK(taken_by(plain) == 0);
  CHECK(taken_by(awaitable) == 0);
  CHECK(taken_by(plain_with_token) == 1);
  CHECK(taken_by(awaitable_with_token) == 1);
}
