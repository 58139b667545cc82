// SPDX-License-Identifier: MIT

// Tests of coroutines that leave a CoDoMany, and of what may happen at the same moment.

#include <atomic>
#include <latch>
#include <memory>
#include <span>

#include "support/allocations.hpp"
#include "support/batches.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDoMany;
using singleflight::Stats;

namespace {

// Holds the call for `key` until Land.
class Held {
 public:
  Held(IntGroup& group, int key) {
    group.Join(key, waiter_, [this](IntGroup::Lead lead) { lead_ = std::move(lead); });
  }
  void Land() { lead_->Succeed(7); }
  void Leave() { waiter_.Leave(); }
  StopToken GetStopToken() const { return lead_->GetStopToken(); }

 private:
  Silent waiter_;
  std::optional<IntGroup::Lead> lead_;
};

// Makes an `fn` that takes a stop token, stores it, and returns ten times each key once `signal`
// fires.
auto AwaitSignal(Signal& signal, StopToken& stop) {
  return [&](std::span<const int> keys, StopToken its_stop) -> Task<Keys> {
    stop = std::move(its_stop);
    co_await signal;
    co_return TenTimes(keys);
  };
}

}  // namespace

TEST_CASE("Promise 10: a coroutine that is stopped leaves all of its calls, and they continue") {
  IntGroup group;
  Held in_flight(group, 2);
  Signal signal;
  StopSource stop;
  Results stopped, others;
  const Routine leader = Ask(group, {1, 2, 3, 3}, AwaitSignal(signal), stopped, stop.get_token());
  const Routine follower = Ask(group, {3}, MustNotRun, others);
  CHECK(group.Callers(2) == 2);
  stop.request_stop();
  REQUIRE(leader.Done());
  for (const auto& result : stopped) CHECK(ErrorOfKey(result) == kCanceled);
  CHECK(group.Callers(2) == 1);
  CHECK(group.Callers(3) == 1);
  signal.Fire();
  CHECK(*others[0] == 30);
  CHECK_FALSE(others[0].shared());
  in_flight.Land();
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 2, .left = 3});
}

TEST_CASE("Promise 10: a coroutine that is stopped keeps the results that it has") {
  IntGroup group;
  Held in_flight(group, 2);
  StopSource stop;
  Results results;
  const Routine routine = Ask(group, {1, 2}, TenTimes, results, stop.get_token());
  CHECK_FALSE(routine.Done());
  stop.request_stop();
  REQUIRE(routine.Done());
  CHECK(*results[0] == 10);
  CHECK(ErrorOfKey(results[1]) == kCanceled);
  in_flight.Land();
}

TEST_CASE("Promise 10: a batch that was stopped before it asks runs nothing and joins nothing") {
  IntGroup group;
  StopSource stop;
  stop.request_stop();
  Results results;
  const Routine routine = Ask(group, {1, 2}, MustNotRun, results, stop.get_token());
  REQUIRE(routine.Done());
  CHECK(ErrorOfKey(results[1]) == kCanceled);
  CHECK(group.GetStats() == Stats());
}

TEST_CASE(
    "Promise 10: a coroutine can be stopped by the function that it runs, or whose task it "
    "starts") {
  IntGroup group;
  Held in_flight(group, 2);
  StopSource stop;
  Results results;
  std::size_t followed = 9;
  bool asked = false;
  const auto plain = [&](std::span<const int> keys, StopToken unwanted) {
    stop.request_stop();
    followed = group.Callers(2);
    asked = unwanted.stop_requested();
    return TenTimes(keys);
  };
  const Routine first = Ask(group, {1, 2}, plain, results, stop.get_token());
  CHECK(followed == 1);
  CHECK(asked);
  for (const auto& result : results) CHECK(ErrorOfKey(result) == kCanceled);

  stop = StopSource();
  asked = false;
  Signal signal;
  const auto task = [&](std::span<const int> keys, StopToken unwanted) -> Task<Keys> {
    stop.request_stop();
    asked = unwanted.stop_requested();
    co_await signal;
    co_return TenTimes(keys);
  };
  const Routine second = Ask(group, {1, 2}, task, results, stop.get_token());
  CHECK(second.Done());
  CHECK(asked);
  CHECK(ErrorOfKey(results[0]) == kCanceled);
  signal.Fire();
  in_flight.Land();
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 2, .left = 4});
}

TEST_CASE(
    "Promise 11: a stop is requested of the work once no caller is left on any of its calls") {
  IntGroup group;
  Held in_flight(group, 4);
  Signal signal;
  StopSource stop;
  StopToken unwanted;
  Results results;
  const Routine batch =
      Ask(group, {1, 2, 4}, AwaitSignal(signal, unwanted), results, stop.get_token());
  auto follower = singleflight::DoAsync(group, 2, [] { return -1; });
  stop.request_stop();
  CHECK(batch.Done());
  CHECK_FALSE(unwanted.stop_requested());  // key 2 still has a caller
  follower = {};
  CHECK(unwanted.stop_requested());
  signal.Fire();
  CHECK_FALSE(in_flight.GetStopToken().stop_requested());
  in_flight.Land();
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 2, .left = 4});
}

TEST_CASE(
    "Promise 11: a stopped coroutine also asks the calls of others to stop, if it was the last") {
  IntGroup group;
  Held in_flight(group, 2);
  StopSource stop;
  Results results;
  const StopToken unwanted = in_flight.GetStopToken();
  const Routine routine = Ask(group, {1, 2}, TenTimes, results, stop.get_token());
  in_flight.Leave();
  CHECK_FALSE(unwanted.stop_requested());
  stop.request_stop();
  CHECK(unwanted.stop_requested());
  in_flight.Land();
}

TEST_CASE(
    "Promise 11: work of a batch that is asked to stop may own the coroutine that was its last "
    "caller") {
  IntGroup group;
  auto session = std::make_shared<Routine>();
  const std::weak_ptr<Routine> ended = session;
  StopSource stop;
  int handles = 0;
  const auto ask = [](IntGroup& its_group, std::shared_ptr<Routine> its_session, StopToken its_stop,
                      int& its_handles) -> Routine {
    auto fn = [kept = std::move(its_session)](std::span<const int> keys,
                                              StopToken token) -> Task<Keys> {
      const Keys values = TenTimes(keys);
      co_await UntilStopped(std::move(token));
      co_return values;
    };
    const auto resume_on = [&its_handles](std::coroutine_handle<>) { ++its_handles; };
    const Keys keys{1, 2};
    static_cast<void>(co_await CoDoMany(its_group, keys, std::move(fn), its_stop, resume_on));
  };
  *session = ask(group, session, stop.get_token(), handles);
  session.reset();
  CHECK_FALSE(ended.expired());
  stop.request_stop();  // the work finishes, and destroys the frame that was to be resumed
  CHECK(ended.expired());
  CHECK(handles == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .left = 2});
}

TEST_CASE("Promise 10: a coroutine leaves all of its calls if its frame is destroyed") {
  IntGroup group;
  Held in_flight(group, 2);
  Signal signal;
  StopToken unwanted;
  Results leading, following;
  Routine leader = Ask(group, {1, 2, 3}, AwaitSignal(signal, unwanted), leading);
  const Routine follower = Ask(group, {3}, MustNotRun, following);
  leader.Destroy();
  CHECK(group.Callers(1) == 0);
  CHECK(group.Callers(2) == 1);
  CHECK(group.Callers(3) == 1);
  CHECK_FALSE(unwanted.stop_requested());
  signal.Fire();
  CHECK(*following[0] == 30);
  in_flight.Land();
  CHECK(leading.empty());
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 2, .left = 3});
}

TEST_CASE("Promise 10: a coroutine that is resumed may destroy those that wait for the same keys") {
  IntGroup group;
  Signal signal;
  Results results, others;
  Routine second;
  const auto ask = [&]() -> Routine {
    const auto fn = AwaitSignal(signal);
    const Keys keys{1, 2};
    results = co_await CoDoMany(group, keys, fn);
    second.Destroy();
  };
  const Routine first = ask();
  second = Ask(group, {2, 1}, MustNotRun, others);
  signal.Fire();  // the first is resumed when key 2 has landed, before the second is notified
  CHECK(*results[1] == 20);
  CHECK(others.empty());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2});
}

TEST_CASE("Promise 10: the stop of a batch whose coroutine has left and is gone changes nothing") {
  IntGroup group;
  Held in_flight(group, 1);
  StopSource stop;
  Results results;
  {
    Routine routine = Ask(group, {1}, MustNotRun, results, stop.get_token());
    CHECK(group.Callers(1) == 2);
  }
  CHECK(group.Callers(1) == 1);
  stop.request_stop();
  in_flight.Land();
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

TEST_CASE(
    "CoDoMany: resume_on gets a suspended caller's handle once, on the thread that lands last") {
  IntGroup group;
  Held one(group, 1);
  Held two(group, 2);
  std::vector<std::coroutine_handle<>> loop;
  std::thread::id resumed_by;
  Results results;
  const auto resume_on = [&](std::coroutine_handle<> handle) {
    resumed_by = std::this_thread::get_id();
    loop.push_back(handle);
  };
  StopSource stop;
  const auto ask = [&]() -> Routine {
    const Keys keys{1, 2};
    results = co_await CoDoMany(group, keys, MustNotRun, stop.get_token(), resume_on);
  };
  const Routine routine = ask();
  one.Land();
  CHECK(loop.empty());
  std::thread::id landing;
  JoiningThread([&] {
    landing = std::this_thread::get_id();
    two.Land();
  }).join();
  CHECK(resumed_by == landing);
  REQUIRE(loop.size() == 1);
  stop.request_stop();  // too late
  CHECK(loop.size() == 1);
  CHECK(results.empty());
  loop[0].resume();
  CHECK(*results[1] == 7);
}

TEST_CASE("CoDoMany: resume_on is called for a stop as well, and what it captures is not leaked") {
  IntGroup group;
  Held in_flight(group, 1);
  const auto loop = std::make_shared<std::vector<std::coroutine_handle<>>>();
  StopSource stop;
  Results results;
  const auto ask = [&]() -> Routine {
    const auto resume_on = [loop](std::coroutine_handle<> handle) { loop->push_back(handle); };
    const Keys keys{1, 2};
    results = co_await CoDoMany(group, keys, TenTimes, stop.get_token(), resume_on);
  };
  {
    const Routine routine = ask();
    stop.request_stop();
    REQUIRE(loop->size() == 1);
    CHECK(results.empty());
    loop->front().resume();
    CHECK(ErrorOfKey(results[0]) == kCanceled);
    CHECK(*results[1] == 20);
    in_flight.Land();
  }
  CHECK(loop.use_count() == 1);
}

TEST_CASE(
    "Promise 7: whichever allocation fails, a batch in a coroutine finishes, and its keys work "
    "again") {
  IntGroup group;
  int failures = 0;
  const Keys keys{1, 2};
  const auto complete = [](std::span<const int> asked, StopToken) -> Task<Keys> {
    co_return TenTimes(asked);
  };
  for (std::size_t allocation = 0;; ++allocation) {
    Results results;
    bool threw = false;
    const auto ask = [&]() -> Routine {
      try {
        results = co_await CoDoMany(group, keys, complete);
      } catch (const std::bad_alloc&) {
        threw = true;
      }
    };
    try {
      const FailAllocations fail(allocation);
      const Routine routine = ask();
    } catch (const std::bad_alloc&) {
      continue;  // the coroutine's own frame was not allocated
    }
    CHECK(group.GetStats().in_flight == 0);
    CHECK(threw == results.empty());
    if (!threw && results[0] && results[1]) break;
    for (const auto& result : results) {
      if (!result) CHECK_THROWS_AS(result.result(), std::bad_alloc);
    }
    ++failures;
  }
  CHECK(failures > 10);
}

TEST_CASE(
    "Promise 8: the function runs and the coroutine is resumed with no lock held, outside catch "
    "blocks") {
  IntGroup group;
  Signal signal;
  std::vector<bool> in_catch_block;
  const auto look = [&] {
    static_cast<void>(group.GetStats());  // waits for ever if a lock is held
    in_catch_block.push_back(std::current_exception() != nullptr);
  };
  const auto fn = [&](std::span<const int>) -> Task<Keys> {
    look();
    co_await signal;
    look();
    throw std::runtime_error("down");
    co_return Keys();
  };
  const auto ask = [&]() -> Routine {
    const Keys keys{1, 2};
    static_cast<void>(co_await CoDoMany(group, keys, fn));
    look();
  };
  const Routine first = ask();
  const Routine second = ask();
  signal.Fire();
  CHECK(in_catch_block == std::vector<bool>(4, false));
}

TEST_CASE(
    "Promise 9: a batch's function that blocks for one of its own keys is refused, wherever it "
    "runs") {
  IntGroup group;
  Later later;
  Results results;
  std::vector<std::optional<std::errc>> refused;
  const auto ask_again = [&] {
    refused.push_back(ErrorOf([&] { return group.Do(2, [] { return -1; }); }));
  };
  const auto plain = [&](std::span<const int> keys) {
    ask_again();
    return TenTimes(keys);
  };
  const Routine first = Ask(group, {1, 2}, plain, results);
  const Routine second = AskOn(later, group, {1, 2}, plain, results);
  later.RunAll();
  const auto starts = [&](std::span<const int> keys) {
    ask_again();
    return [](Keys values) -> Task<Keys> { co_return values; }(TenTimes(keys));
  };
  const Routine third = Ask(group, {1, 2}, starts, results);

  // An element that is computed when it is read.
  struct Lazy {
    operator int() const {
      (*ask)();
      return 7;
    }
    const decltype(ask_again)* ask;
  };
  const auto lazy = [&](std::span<const int>) -> Task<std::vector<Lazy>> {
    co_return std::vector<Lazy>(1, Lazy{&ask_again});
  };
  const Routine fourth = Ask(group, {2}, lazy, results);

  // A waiter that is notified of key 1, and then blocks for key 2.
  struct Blocking final : IntGroup::Waiter {
    void OnLanded() noexcept override { (*ask)(); }
    const decltype(ask_again)* ask = nullptr;
  } waiter;
  waiter.ask = &ask_again;
  const auto joined = [&](std::span<const int> keys) {
    group.Join(1, waiter, [](IntGroup::Lead) {});
    return TenTimes(keys);
  };
  const Routine fifth = Ask(group, {1, 2}, joined, results);
  CHECK(*results[1] == 20);

  REQUIRE(refused.size() == 5);
  for (const auto& error : refused) CHECK(error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("Promise 10: when landing and a stop race, a coroutine gets one outcome for each key") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  std::uint64_t canceled = 0;
  std::uint64_t values = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Held one(group, 1);
    Held two(group, 2);
    Results results;
    StopSource stop;
    std::atomic<int> resumed = 0;
    const auto ask = [&]() -> FireAndForget {
      const Keys keys{1, 2};
      results = co_await CoDoMany(group, keys, MustNotRun, stop.get_token());
      ++resumed;
    };
    ask();
    std::latch together(3);
    {
      JoiningThread stopping([&] {
        together.arrive_and_wait();
        stop.request_stop();
      });
      JoiningThread landing([&] {
        together.arrive_and_wait();
        one.Land();
      });
      together.arrive_and_wait();
      two.Land();
    }
    CHECK(resumed == 1);
    for (const auto& result : results) {
      canceled += ErrorOfKey(result) == kCanceled ? 1 : 0;
      values += result && *result == 7 ? 1 : 0;
    }
  }
  CHECK(values + canceled == 2 * kRounds);
  CHECK(group.GetStats() ==
        Stats{.executions = 2 * kRounds, .followers = 2 * kRounds, .left = canceled});
}

TEST_CASE("Promise 10: a coroutine is resumed once, also if all happens while it is suspending") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  std::uint64_t outcomes = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Held one(group, 1);
    Held two(group, 2);
    Results results;
    StopSource stop;
    std::latch resumed(1);
    std::latch together(4);
    const auto ask = [&]() -> FireAndForget {
      const Keys keys{1, 2};
      results = co_await CoDoMany(group, keys, MustNotRun, stop.get_token());
      resumed.count_down();
    };
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      if (round % 2 == 0) stop.request_stop();
    });
    JoiningThread first([&] {
      AwaitCallers(group, 1, 2);
      together.arrive_and_wait();
      one.Land();
    });
    JoiningThread second([&] {
      AwaitCallers(group, 2, 2);
      together.arrive_and_wait();
      two.Land();
    });
    JoiningThread asking([&] { ask(); });
    together.arrive_and_wait();
    resumed.wait();
    for (const auto& result : results) {
      outcomes += ErrorOfKey(result) == kCanceled || (result && *result == 7) ? 1 : 0;
    }
  }
  CHECK(outcomes == 2 * kRounds);
  CHECK(group.GetStats().in_flight == 0);
}

// coro.hpp lets a frame be destroyed while its call lands on another thread. Until resume_on has
// been given the handle, that is leaving. Afterwards the holder of the handle must not use it.
TEST_CASE(
    "Promise 10: when a frame's destruction races with landing, it leaves what has not landed") {
  constexpr std::uint64_t kRounds = 2000;
  IntGroup group;
  std::uint64_t given = 0;
  std::uint64_t complete = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    Held one(group, 1);
    Held two(group, 2);
    StopSource stop;
    std::atomic<std::uint64_t> handles = 0;
    const auto ask = [&]() -> Routine {
      const auto resume_on = [&handles](std::coroutine_handle<>) { ++handles; };
      const Keys keys{1, 2};
      static_cast<void>(co_await CoDoMany(group, keys, MustNotRun, stop.get_token(), resume_on));
    };
    const std::uint64_t left = group.GetStats().left;
    Routine routine = ask();
    std::latch together(round % 2 == 0 ? 4 : 3);
    {
      JoiningThread first([&] {
        together.arrive_and_wait();
        one.Land();
      });
      JoiningThread second([&] {
        together.arrive_and_wait();
        two.Land();
      });
      std::optional<JoiningThread> stopping;
      if (round % 2 == 0) {
        stopping.emplace([&] {
          together.arrive_and_wait();
          stop.request_stop();
        });
      }
      together.arrive_and_wait();
      routine.Destroy();
    }
    if (round % 2 == 1) {
      given += handles;
      complete += group.GetStats().left == left ? 1 : 0;
    }
    CHECK(handles <= 1);
  }
  // A frame got all but no handle if it was destroyed after landing, but before its turn came.
  CHECK(given <= complete);
  CHECK(group.GetStats().in_flight == 0);
  CHECK(group.GetStats().followers == 2 * kRounds);
}

TEST_CASE("Promise 13: what the work did happens before the coroutine of a batch is resumed") {
  IntGroup group;
  for (int round = 0; round < 200; ++round) {
    int written[2] = {-1, -1};
    int read[2] = {-2, -2};
    Held one(group, 1);
    std::latch done(1);
    const auto ask = [&]() -> FireAndForget {
      const auto fn = [&](std::span<const int> keys) {
        written[1] = round;
        return TenTimes(keys);
      };
      const auto on_thread = [](auto task) { std::thread(std::move(task)).detach(); };
      const Keys keys{1, 2};
      static_cast<void>(co_await CoDoMany(group, keys, fn, on_thread));
      read[0] = written[0];
      read[1] = written[1];
      done.count_down();
    };
    ask();
    JoiningThread([&] {
      written[0] = round;
      one.Land();
    }).join();
    done.wait();
    CHECK(read[0] == round);
    CHECK(read[1] == round);
  }
}

TEST_CASE("Promise 14: the destructor asks the work of batches to stop and waits for it") {
  Results results;
  Routine routine;
  Signal signal;
  JoiningThread upstream;
  {
    IntGroup group;
    const auto fn = [&](std::span<const int> keys, StopToken asked) -> Task<Keys> {
      upstream = JoiningThread([&signal, asked] {
        Await([&] { return asked.stop_requested() && signal.Awaited(); });
        signal.Fire();
      });
      const Keys values = TenTimes(keys);
      co_await signal;
      co_return values;
    };
    routine = Ask(group, {1, 2}, fn, results);
  }
  upstream.join();
  CHECK(*results[1] == 20);
}

TEST_CASE("CoDoMany: work whose coroutine is destroyed lands its calls with owner_dead") {
  // Destroys the coroutine that awaits it, as an event loop does when it shuts down.
  struct Shutdown {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) const { handle.destroy(); }
    Keys await_resume() const noexcept { return {}; }
  };
  IntGroup group;
  Results results;
  const auto fn = [](std::span<const int>) { return Shutdown(); };
  const Routine routine = Ask(group, {1, 2}, fn, results);
  REQUIRE(routine.Done());
  CHECK(ErrorOfKey(results[0]) == std::errc::owner_dead);
  CHECK(ErrorOfKey(results[1]) == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}
