// SPDX-License-Identifier: MIT

// Tests of CoDo. Lambdas that capture by value are named before they are awaited, because of the
// bug of GCC 12 that coro.hpp describes.

#include <atomic>
#include <latch>
#include <mutex>

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

int MustNotRun() { throw std::logic_error("this fn must not run"); }

// Asks for "key" and stores the outcome.
template <class Fn = int (&)()>
Routine Ask(IntGroup& group, Outcome<int>& outcome, Fn&& fn = MustNotRun, StopToken stop = {}) {
  return StoreOutcome(outcome, [&group, &fn, stop] { return CoDo(group, "key", fn, stop); });
}

// Makes an `fn` that returns `value` once `signal` fires, as work does that waits for an upstream.
auto AfterSignal(Signal& signal, int value = 7) {
  return [&signal, value]() -> Task<int> {
    co_await signal;
    co_return value;
  };
}

// A coroutine whose promise has an await_transform, which passes every awaitable on.
struct Passing {
  struct promise_type : FireAndForget::promise_type {
    Passing get_return_object() noexcept { return {}; }
    template <class Awaitable>
    Awaitable&& await_transform(Awaitable&& awaitable) {
      return std::forward<Awaitable>(awaitable);
    }
  };
};

}  // namespace

TEST_CASE("CoDo: a function that is not a coroutine runs at once, and nothing is suspended") {
  IntGroup group;
  Outcome<int> outcome;
  const auto fn = [] { return 7; };
  const Routine routine = Ask(group, outcome, fn);
  CHECK(routine.Done());
  CHECK(outcome.value == 7);
  CHECK_FALSE(outcome.shared);
  CHECK(outcome.role == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("CoDo: the task that fn returns may complete at once, complete later, or fail") {
  IntGroup group;
  Outcome<int> at_once;
  const auto complete = []() -> Task<int> { co_return 7; };
  const Routine first = Ask(group, at_once, complete);
  CHECK(at_once.value == 7);

  Outcome<int> later;
  Signal signal;
  const Routine second = Ask(group, later, AfterSignal(signal, 8));
  CHECK_FALSE(second.Done());
  signal.Fire();
  CHECK(later.value == 8);

  Outcome<int> failed;
  const auto fail = []() -> Task<int> {
    throw std::runtime_error("down");
    co_return 0;
  };
  const Routine third = Ask(group, failed, fail);
  CHECK(failed.message == "down");
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 1});
}

TEST_CASE("Promise 1: ten coroutines share one execution, and all get its result") {
  IntGroup group;
  Signal signal;
  Outcome<int> outcomes[10];
  std::vector<Routine> routines;
  const auto fn = AfterSignal(signal);
  for (auto& outcome : outcomes) routines.push_back(Ask(group, outcome, fn));
  CHECK(group.Callers("key") == 10);
  signal.Fire();
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == 7);
    CHECK(outcome.shared);
    CHECK(outcome.role == (&outcome == outcomes ? Role::kLeader : Role::kFollower));
  }
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 9});
}

TEST_CASE("Promise 2: a coroutine that asks again after it was resumed gets a new call") {
  IntGroup group;
  Signal signal;
  Outcome<int> outcome;
  int again = 0;
  const auto ask_twice = [](IntGroup& its_group, Signal& its_signal, int& its_again) -> Routine {
    const auto fn = AfterSignal(its_signal);
    static_cast<void>(co_await CoDo(its_group, "key", fn));
    const auto result = co_await CoDo(its_group, "key", [] { return 8; });
    its_again = *result;
  };
  const Routine twice = ask_twice(group, signal, again);
  const Routine once = Ask(group, outcome);
  signal.Fire();
  CHECK(again == 8);
  CHECK(outcome.value == 7);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1});
}

TEST_CASE("CoDo: a key may be in braces or a view, and a value may be void or move-only") {
  Group<std::string, void> nothing;
  Group<std::pair<int, int>, std::unique_ptr<int>, decltype([](const std::pair<int, int>& pair) {
          return static_cast<std::size_t>(pair.first);
        })>
      pointers;
  int ran = 0;
  int value = 0;
  const auto ask = [&]() -> Routine {
    const auto task = [&]() -> Task<int> { co_return ++ran; };
    co_await CoDo(nothing, std::string_view("key"), task);
    co_await CoDo(nothing, std::string("key"), [&] { ++ran; });
    const auto result = co_await CoDo(pointers, {1, 2}, [] { return std::make_unique<int>(7); });
    value = **result;
    co_await CoDo(nothing, "key", [&](StopToken stop) { ran += stop.stop_possible() ? 1 : 0; });
  };
  const Routine routine = ask();
  CHECK(ran == 3);
  CHECK(value == 7);
}

TEST_CASE("CoDo: the captures of a function that is moved into it are destroyed exactly once") {
  IntGroup group;
  const auto captured = std::make_shared<int>(7);
  const auto ask = [&]() -> Routine {
    auto fn = [captured] { return *captured; };
    static_cast<void>(co_await CoDo(group, "key", std::move(fn)));
    auto task = [captured]() -> Task<int> { co_return *captured; };
    static_cast<void>(co_await CoDo(group, "key", std::move(task)));
  };
  {
    const Routine routine = ask();
    CHECK(routine.Done());
  }
  CHECK(captured.use_count() == 1);
}

TEST_CASE("CoDo: the captures of an awaitable function are destroyed before the call lands") {
  IntGroup group;
  Signal signal;
  auto captured = std::make_shared<int>(7);
  long uses = 0;
  const auto ask = [&]() -> Routine {
    auto fn = [captured, &signal]() -> Task<int> {
      co_await signal;
      co_return *captured;
    };
    static_cast<void>(co_await CoDo(group, "key", std::move(fn)));
    uses = captured.use_count();
  };
  const Routine routine = ask();
  const long uses_before = captured.use_count();
  signal.Fire();
  CHECK(uses == uses_before - 1);
}

TEST_CASE("CoDo: a follower allocates nothing but its own frame") {
  IntGroup group;
  Signal signal;
  Outcome<int> outcomes[3];
  const auto fn = AfterSignal(signal);
  const Routine leader = Ask(group, outcomes[0], fn);
  const std::size_t before = allocations;
  const Routine follower = Ask(group, outcomes[1]);
  const Routine other = Ask(group, outcomes[2]);
  CHECK(allocations == before + 2);
  signal.Fire();
  CHECK(outcomes[2].value == 7);
}

TEST_CASE("CoDo: the co_await throws if a limit refuses the caller") {
  IntGroup group({.max_callers_per_call = 1});
  Signal signal;
  Outcome<int> leading;
  Outcome<int> refused;
  const auto fn = AfterSignal(signal);
  const Routine leader = Ask(group, leading, fn);
  const Routine late = Ask(group, refused);
  CHECK(late.Done());
  CHECK(refused.error == std::errc::resource_unavailable_try_again);
  signal.Fire();
  CHECK(leading.value == 7);
}

TEST_CASE(
    "Promise 7: whichever allocation fails, only that coroutine fails, and the key works again") {
  IntGroup group;
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    Outcome<int> outcome;
    const auto complete = []() -> Task<int> { co_return 7; };
    try {
      const FailAllocations fail(allocation);
      const Routine routine = Ask(group, outcome, complete);
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

TEST_CASE("Promise 8: fn runs and coroutines are resumed with no lock held, outside catch blocks") {
  IntGroup group;
  Signal signal;
  std::vector<bool> in_catch_block;
  const auto look = [&] {
    static_cast<void>(group.GetStats());  // waits for ever if a lock is held
    in_catch_block.push_back(std::current_exception() != nullptr);
  };
  const auto ask = [&](auto fn) -> Routine {
    try {
      static_cast<void>(co_await CoDo(group, "key", fn));
    } catch (const std::runtime_error&) {
      // The exception is handled here, so `look` sees only a catch block of the resuming code.
    }
    look();
  };
  const auto fn = [&]() -> Task<int> {
    look();
    co_await signal;
    look();
    throw std::runtime_error("down");
    co_return 0;
  };
  const Routine first = ask(fn);
  const Routine second = ask(fn);
  signal.Fire();
  CHECK(in_catch_block == std::vector<bool>(4, false));
}

TEST_CASE("Promise 9: a function that blocks on its own key is refused") {
  IntGroup group;
  Outcome<int> outcome;
  std::optional<std::errc> refused;
  const auto ask_again = [&] { return ErrorOf([&] { return group.Do("key", MustNotRun); }); };
  const auto plain = [&] {
    refused = ask_again();
    return 7;
  };
  const Routine first = Ask(group, outcome, plain);
  CHECK(refused == std::errc::resource_deadlock_would_occur);

  refused.reset();
  const auto starts = [&] {
    refused = ask_again();
    return [](int value) -> Task<int> { co_return value; }(7);
  };
  const Routine second = Ask(group, outcome, starts);
  CHECK(refused == std::errc::resource_deadlock_would_occur);
  CHECK(outcome.value == 7);
}

TEST_CASE("Promise 10: a coroutine that is stopped leaves at once, and the call continues") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> following;
  StopSource stop;
  const auto fn = AfterSignal(signal);
  const Routine leader = Ask(group, leading, fn);
  const Routine follower = Ask(group, following, MustNotRun, stop.get_token());
  stop.request_stop();
  CHECK(follower.Done());
  CHECK(following.error == std::errc::operation_canceled);
  CHECK(group.Callers("key") == 1);
  signal.Fire();
  CHECK(leading.value == 7);
  CHECK_FALSE(leading.shared);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

TEST_CASE("Promise 10: a coroutine that leads may leave, and the call continues for the others") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> following;
  StopSource stop;
  const auto fn = AfterSignal(signal);
  const Routine leader = Ask(group, leading, fn, stop.get_token());
  const Routine follower = Ask(group, following);
  stop.request_stop();
  CHECK(leading.error == std::errc::operation_canceled);
  signal.Fire();
  CHECK(following.value == 7);
}

TEST_CASE(
    "Promise 10: a coroutine that was stopped before it asks runs nothing and joins nothing") {
  IntGroup group;
  Outcome<int> outcome;
  StopSource stop;
  stop.request_stop();
  const Routine routine = Ask(group, outcome, MustNotRun, stop.get_token());
  CHECK(outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats());
}

TEST_CASE("Promise 10: a coroutine leaves even if the stop comes before it has suspended") {
  IntGroup group;
  Outcome<int> outcome;
  StopSource stop;
  Signal signal;
  const auto fn = [&]() -> Task<int> {
    stop.request_stop();
    co_await signal;
    co_return 7;
  };
  const Routine routine = Ask(group, outcome, fn, stop.get_token());
  CHECK(outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1, .in_flight = 1});
  signal.Fire();
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1});
}

TEST_CASE("Promise 10: a caller can be stopped while it runs the function itself") {
  IntGroup group;
  Outcome<int> outcome;
  StopSource stop;
  bool asked = false;
  const auto plain = [&](StopToken token) {
    stop.request_stop();
    asked = token.stop_requested();
    return 7;
  };
  const Routine first = Ask(group, outcome, plain, stop.get_token());
  CHECK(asked);
  CHECK(outcome.error == std::errc::operation_canceled);

  stop = StopSource();
  asked = false;
  Outcome<int> awaiting;
  const auto task = [&](StopToken token) -> Task<int> { co_return plain(std::move(token)); };
  const Routine second = Ask(group, awaiting, task, stop.get_token());
  CHECK(asked);
  CHECK(awaiting.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 2, .left = 2});
}

TEST_CASE("Promise 11: work that is asked to stop may own the coroutine that was its last caller") {
  IntGroup group;
  auto session = std::make_shared<Routine>();
  const std::weak_ptr<Routine> ended = session;
  StopSource stop;
  int handles = 0;
  const auto ask = [](IntGroup& its_group, std::shared_ptr<Routine> its_session, StopToken its_stop,
                      int& its_handles) -> Routine {
    auto fn = [kept = std::move(its_session)](StopToken token) -> Task<int> {
      co_await UntilStopped(std::move(token));
      co_return 7;
    };
    const auto resume_on = [&its_handles](std::coroutine_handle<>) { ++its_handles; };
    static_cast<void>(co_await CoDo(its_group, "key", std::move(fn), its_stop, resume_on));
  };
  *session = ask(group, session, stop.get_token(), handles);
  session.reset();
  CHECK_FALSE(ended.expired());
  stop.request_stop();  // the work finishes, and destroys the frame that was to be resumed
  CHECK(ended.expired());
  CHECK(handles == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1});
}

TEST_CASE("CoDo: it works in a coroutine whose await_transform passes awaitables on") {
  IntGroup group;
  Signal signal;
  int sum = 0;
  const auto fn = AfterSignal(signal);
  const auto ask = [&]() -> Passing {
    sum += *co_await CoDo(group, "key", fn);
    sum += *co_await CoDo(group, "key", [] { return 1; });
  };
  ask();
  signal.Fire();
  CHECK(sum == 8);
}

TEST_CASE("Promise 10: a coroutine leaves if its frame is destroyed while it is suspended") {
  IntGroup group;
  Signal signal;
  Outcome<int> outcomes[3];
  const auto fn = AfterSignal(signal);
  Routine leader = Ask(group, outcomes[0], fn);
  Routine follower = Ask(group, outcomes[1]);
  const Routine other = Ask(group, outcomes[2]);
  follower.Destroy();
  CHECK(group.Callers("key") == 2);
  leader.Destroy();
  CHECK(group.Callers("key") == 1);
  signal.Fire();
  CHECK(outcomes[2].value == 7);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 2});
}

TEST_CASE("Promise 10: a coroutine that is resumed may destroy those that would be resumed next") {
  IntGroup group;
  Signal signal;
  std::vector<Routine> others;
  int resumed = 0;
  const auto ask_and_destroy = [&]() -> Routine {
    const auto fn = AfterSignal(signal);
    static_cast<void>(co_await CoDo(group, "key", fn));
    ++resumed;
    others.erase(others.begin(), others.begin() + 2);
  };
  const auto ask = [&](int number) -> Routine {
    static_cast<void>(co_await CoDo(group, "key", MustNotRun));
    resumed += number;
  };
  const Routine first = ask_and_destroy();
  for (const int number : {10, 100, 1000}) others.push_back(ask(number));
  signal.Fire();
  CHECK(resumed == 1001);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3});
}

TEST_CASE("Promise 11: when the last coroutine leaves, the call is asked to stop") {
  IntGroup group;
  Signal signal;
  Outcome<int> first;
  Outcome<int> second;
  Outcome<int> newcomer;
  StopSource stop;
  StopToken asked;
  const auto fn = [&](StopToken token) -> Task<int> {
    asked = std::move(token);
    co_await signal;
    co_return 7;
  };
  const Routine leader = Ask(group, first, fn, stop.get_token());
  Routine follower = Ask(group, second);
  stop.request_stop();
  CHECK_FALSE(asked.stop_requested());
  follower.Destroy();
  CHECK(asked.stop_requested());
  const auto afresh = [] { return 8; };
  const Routine late = Ask(group, newcomer, afresh);
  CHECK(newcomer.value == 8);
  signal.Fire();
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE(
    "Promise 11: when the last coroutine to leave races with a newcomer, no newcomer is stopped") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  int wrong = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> leaving;
    Outcome<int> newcomer;
    StopSource stop;
    const auto fn = [&](StopToken asked) -> Task<int> {
      co_await signal;
      co_return asked.stop_requested() ? -1 : 1;
    };
    const Routine leader = Ask(group, leaving, fn, stop.get_token());
    std::latch together(2);
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    together.arrive_and_wait();
    const auto afresh = [] { return 2; };
    const Routine late = Ask(group, newcomer, afresh);
    stopping.join();
    signal.Fire();
    const bool joined = newcomer.value == 1 && newcomer.role == Role::kFollower;
    const bool led = newcomer.value == 2 && newcomer.role == Role::kLeader;
    if (joined == led || leaving.error != std::errc::operation_canceled) ++wrong;
  }
  CHECK(wrong == 0);
  const Stats stats = group.GetStats();
  CHECK(stats.executions + stats.followers == 2 * kRounds);
  CHECK(stats.left == kRounds);
  CHECK(stats.in_flight == 0);
}

TEST_CASE("Promise 10: when a result and a stop race, a coroutine gets exactly one of them") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  std::uint64_t values = 0;
  std::uint64_t cancellations = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> leading;
    Outcome<int> following;
    StopSource stop;
    const auto fn = AfterSignal(signal);
    const Routine leader = Ask(group, leading, fn);
    const Routine follower = Ask(group, following, MustNotRun, stop.get_token());
    std::latch together(2);
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    together.arrive_and_wait();
    signal.Fire();
    stopping.join();
    values += following.value == 7 ? 1 : 0;
    cancellations += following.error == std::errc::operation_canceled ? 1 : 0;
    if (leading.shared != (following.value == 7)) ++values;  // makes the sum below wrong
  }
  CHECK(values + cancellations == kRounds);
  CHECK(group.GetStats() ==
        Stats{.executions = kRounds, .followers = kRounds, .left = cancellations});
}

TEST_CASE("Promise 10: a coroutine leaves even if the stop races with its own suspension") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  std::uint64_t canceled = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> outcome;
    StopSource stop;
    std::latch together(2);
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    const auto fn = AfterSignal(signal);
    together.arrive_and_wait();
    const Routine routine = Ask(group, outcome, fn, stop.get_token());
    stopping.join();
    if (outcome.error == std::errc::operation_canceled) ++canceled;
    if (signal.Awaited()) signal.Fire();
  }
  CHECK(canceled == kRounds);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 10: a coroutine gets its result even if the call lands while it is suspending") {
  constexpr std::uint64_t kRounds = 2000;
  Group<int, int> group;
  std::uint64_t got = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    // The task is resumed, and lands the call, on another thread.
    struct Elsewhere : std::suspend_always {
      explicit Elsewhere(JoiningThread& its_thread) : thread(its_thread) {}
      // This is not inlined, because Clang 14 would then keep the locals in the frame. The frame
      // may be destroyed as soon as it is resumed.
      [[gnu::noinline]] void await_suspend(std::coroutine_handle<> handle) const {
        JoiningThread& kept = thread;
        kept = JoiningThread(handle);
      }
      JoiningThread& thread;
    };
    JoiningThread thread;
    std::latch resumed(1);
    int value = 0;
    const auto fn = [&thread]() -> Task<int> {
      co_await Elsewhere(thread);
      co_return 7;
    };
    const auto ask = [](Group<int, int>& its_group, const auto& its_fn, int& its_value,
                        std::latch& its_resumed) -> FireAndForget {
      const auto result = co_await CoDo(its_group, 1, its_fn);
      its_value = *result;
      its_resumed.count_down();
    };
    ask(group, fn, value, resumed);
    resumed.wait();
    if (value == 7) ++got;
  }
  CHECK(got == kRounds);
}

TEST_CASE("Promise 10: a caller whose call lands before it has suspended does not suspend") {
  IntGroup group;
  Signal signal;
  Outcome<int> leader;
  const Routine leads = Ask(group, leader, AfterSignal(signal));
  const std::string key = "key";
  const StopToken stop;
  auto follower = CoDo(group, key, MustNotRun, stop);
  auto awaiter = std::move(follower).operator co_await();
  CHECK_FALSE(awaiter.await_ready());
  signal.Fire();
  CHECK_FALSE(awaiter.await_suspend(std::noop_coroutine()));
  CHECK(*awaiter.await_resume() == 7);
  CHECK(leader.value == 7);
}

TEST_CASE("CoDo: resume_on gets a suspended caller's handle, once, on the landing thread") {
  IntGroup group;
  Signal signal;
  std::vector<std::coroutine_handle<>> loop;
  std::thread::id resumed_by;
  int done = 0;
  const auto resume_on = [&](std::coroutine_handle<> handle) {
    resumed_by = std::this_thread::get_id();
    loop.push_back(handle);
  };
  const auto ask = [&](auto& fn) -> Routine {
    static_cast<void>(co_await CoDo(group, "key", fn, {}, resume_on));
    ++done;
  };
  const auto at_once = [] { return 7; };
  const Routine first = ask(at_once);
  CHECK(done == 1);
  CHECK(loop.empty());

  const auto fn = AfterSignal(signal);
  const Routine second = ask(fn);
  std::thread::id landing;
  JoiningThread([&] {
    landing = std::this_thread::get_id();
    signal.Fire();
  }).join();
  CHECK(done == 1);
  CHECK(resumed_by == landing);
  REQUIRE(loop.size() == 1);
  loop[0].resume();
  CHECK(done == 2);
}

TEST_CASE("Promise 10: a stop that comes between landing and resumption is too late") {
  IntGroup group;
  Signal signal;
  std::vector<std::coroutine_handle<>> loop;
  StopSource stop;
  int value = 0;
  const auto resume_on = [&](std::coroutine_handle<> handle) { loop.push_back(handle); };
  const auto ask = [&]() -> Routine {
    const auto fn = AfterSignal(signal);
    value = *co_await CoDo(group, "key", fn, stop.get_token(), resume_on);
  };
  const Routine routine = ask();
  signal.Fire();
  stop.request_stop();
  REQUIRE(loop.size() == 1);
  loop[0].resume();
  CHECK(value == 7);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("CoDo: resume_on is called for a stop as well, and what it captures is not leaked") {
  IntGroup group;
  Signal signal;
  const auto loop = std::make_shared<std::vector<std::coroutine_handle<>>>();
  bool canceled = false;
  StopSource stop;
  const auto ask = [&]() -> Routine {
    const auto fn = AfterSignal(signal);
    const auto resume_on = [loop](std::coroutine_handle<> handle) { loop->push_back(handle); };
    try {
      static_cast<void>(co_await CoDo(group, "key", fn, stop.get_token(), resume_on));
    } catch (const std::system_error& error) {
      canceled = error.code() == std::errc::operation_canceled;
    }
  };
  {
    const Routine routine = ask();
    stop.request_stop();
    REQUIRE(loop->size() == 1);
    CHECK_FALSE(canceled);
    loop->front().resume();
    CHECK(canceled);
    signal.Fire();
  }
  CHECK(loop.use_count() == 1);
}

TEST_CASE("CoDo: resume_on is called on the thread that requests the stop, with no lock held") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  StopSource stop;
  std::coroutine_handle<> given;
  std::thread::id given_on;
  bool in_catch_block = true;
  const auto resume_on = [&](std::coroutine_handle<> handle) {
    given = handle;
    given_on = std::this_thread::get_id();
    in_catch_block = std::current_exception() != nullptr;
    static_cast<void>(group.GetStats());  // waits for ever if a lock is held
  };
  const auto ask = [&]() -> Routine {
    try {
      static_cast<void>(co_await CoDo(group, "key", MustNotRun, stop.get_token(), resume_on));
    } catch (const std::system_error&) {
    }
  };
  const Routine leader = Ask(group, leading, AfterSignal(signal));
  const Routine follower = ask();
  std::thread::id stopping;
  JoiningThread([&] {
    stopping = std::this_thread::get_id();
    stop.request_stop();
  }).join();
  CHECK(given_on == stopping);
  CHECK_FALSE(in_catch_block);
  REQUIRE(given);
  given.resume();
  CHECK(follower.Done());
  signal.Fire();
}

TEST_CASE("CoDo: the next waiter is notified when resume_on has returned") {
  IntGroup group;
  Signal signal;
  Signal next_step;
  std::vector<std::string> events;
  std::coroutine_handle<> posted;
  const auto post = [&](std::coroutine_handle<> handle) {
    events.emplace_back("posts");
    posted = handle;
    events.emplace_back("has posted");
  };
  const auto ask = [&](const auto& fn, auto resume_on, const char* name) -> Routine {
    static_cast<void>(co_await CoDo(group, "key", fn, {}, resume_on));
    events.push_back(std::string(name) + " resumes");
    if (!next_step.Awaited()) co_await next_step;
    events.push_back(std::string(name) + " ends");
  };
  const auto fn = AfterSignal(signal);
  const Routine first = ask(fn, post, "the first");
  const Routine second = ask(MustNotRun, singleflight::ResumeInline(), "the second");
  const Routine third = ask(MustNotRun, singleflight::ResumeInline(), "the third");
  signal.Fire();
  posted.resume();
  next_step.Fire();
  CHECK(events == std::vector<std::string>{
                      "posts", "has posted", "the second resumes", "the third resumes",
                      "the third ends", "the first resumes", "the first ends", "the second ends"});
}

// coro.hpp lets a frame be destroyed while its call lands on another thread. Until resume_on has
// been given the handle, that is leaving. Afterwards the holder of the handle must not use it.
TEST_CASE(
    "Promise 10: when a frame's destruction races with landing, it leaves or resume_on is called") {
  constexpr std::uint64_t kRounds = 3000;
  IntGroup group;
  std::uint64_t given = 0;
  std::uint64_t shared = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> leading;
    std::atomic<int> handles = 0;
    const auto fn = AfterSignal(signal);
    const Routine leader = Ask(group, leading, fn);
    const auto ask = [](IntGroup& its_group, std::atomic<int>& its_handles) -> Routine {
      const auto resume_on = [&its_handles](std::coroutine_handle<>) { ++its_handles; };
      static_cast<void>(co_await CoDo(its_group, "key", MustNotRun, {}, resume_on));
    };
    Routine follower = ask(group, handles);
    std::latch together(2);
    JoiningThread landing([&] {
      together.arrive_and_wait();
      signal.Fire();
    });
    together.arrive_and_wait();
    follower.Destroy();
    landing.join();
    given += static_cast<std::uint64_t>(handles.load());
    shared += leading.shared ? 1 : 0;
  }
  // A frame was shared but not given if it was destroyed after landing but before its turn came.
  CHECK(given <= shared);
  CHECK(group.GetStats() ==
        Stats{.executions = kRounds, .followers = kRounds, .left = kRounds - shared});
}

TEST_CASE("Promise 13: what the work did happens before a coroutine is resumed") {
  IntGroup group;
  for (int round = 0; round < 200; ++round) {
    int written = 0;
    int read = -1;
    std::latch done(1);
    const auto ask = [&]() -> FireAndForget {
      static_cast<void>(co_await CoDo(group, "key", MustNotRun));
      read = written;
      done.count_down();
    };
    Caller leader([&] {
      return group.Do("key", [&] {
        Await([&] { return group.Callers("key") == 2; });
        return written = round;
      });
    });
    AwaitCallers(group, "key", 1);
    ask();
    done.wait();
    leader.Join();
    CHECK(read == round);
  }
}

TEST_CASE("Promise 14: the destructor asks the work of coroutines to stop and waits for it") {
  Outcome<int> outcome;
  Routine routine;
  Signal signal;
  JoiningThread upstream;
  {
    IntGroup group;
    const auto fn = [&](StopToken asked) -> Task<int> {
      upstream = JoiningThread([&signal, asked] {
        Await([&] { return asked.stop_requested() && signal.Awaited(); });
        signal.Fire();
      });
      co_await signal;
      co_return 7;
    };
    routine = Ask(group, outcome, fn);
  }
  upstream.join();
  CHECK(outcome.value == 7);
}

TEST_CASE("CoDo: work whose coroutine is destroyed lands the call with owner_dead") {
  // Destroys the coroutine that awaits it, as an event loop does when it shuts down.
  struct Shutdown {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) const { handle.destroy(); }
    int await_resume() const noexcept { return 0; }
  };
  IntGroup group;
  Outcome<int> outcome;
  const auto fn = [] { return Shutdown(); };
  const Routine routine = Ask(group, outcome, fn);
  CHECK(outcome.error == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}
