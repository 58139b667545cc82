// SPDX-License-Identifier: MIT

// Tests of AsyncDo: callers that are Asio operations. This file is built with the standalone Asio
// and with Boost's, into one program, since the two must not disturb each other.

#include <atomic>
#include <latch>
#include <memory>
#include <mutex>
#include <thread>

#include "asio_support.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/watched_mutex.hpp"

namespace {

struct PairHash {
  std::size_t operator()(const std::pair<int, int>& key) const {
    return static_cast<std::size_t>(key.first) * 31 + static_cast<std::size_t>(key.second);
  }
};

}  // namespace

// ---- Tokens

ASIO_TEST_CASE("Promise 1: callers with any completion token are callers of one call") {
  IntGroup group;
  asio::io_context io;
  HeldCall leader(group, "key");
  Answer callback;
  Answer lazy;
  std::optional<int> awaited;
  AsyncDo(group, "key", MustNotRun, Into(callback, io));
  auto future = AsyncDo(group, "key", MustNotRun, asio::use_future);
  auto operation = AsyncDo(group, "key", MustNotRun, deferred);
  CHECK(group.Callers("key") == 3);  // the deferred operation has not begun
  std::move(operation)(Into(lazy, io));
  const auto caller = [&]() -> asio::awaitable<void> {
    awaited = *co_await AsyncDo(group, "key", MustNotRun, use_awaitable);
  };
  Spawn(io, caller());
  Caller blocked([&] { return group.Do("key", MustNotRun); });
  while (group.Callers("key") < 6) io.poll();
  CHECK(leader.Finish().value == 1);
  io.run();
  CHECK(callback.outcome.value == 1);
  CHECK(callback.outcome.role == Role::kFollower);
  CHECK(lazy.outcome.value == 1);
  CHECK(awaited == 1);
  CHECK(*future.get() == 1);
  CHECK(blocked.Join().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 5});
}

ASIO_TEST_CASE("Promise 1: ten thousand coroutines on one key run an awaitable fn once") {
  constexpr int kCallers = 10'000;
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  int runs = 0;
  int sum = 0;
  int shared = 0;
  const auto load = [&]() -> asio::awaitable<int> {
    ++runs;
    co_await gate.Wait();
    co_return 7;
  };
  const auto caller = [&]() -> asio::awaitable<void> {
    const auto result = co_await AsyncDo(group, "key", load, use_awaitable);
    sum += *result;
    shared += result.shared();
  };
  for (int i = 0; i < kCallers; ++i) Spawn(io, caller());
  io.poll();
  CHECK(group.Callers("key") == kCallers);
  gate.Open();
  io.run();
  CHECK(runs == 1);
  CHECK(sum == 7 * kCallers);
  CHECK(shared == kCallers);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = kCallers - 1});
}

ASIO_TEST_CASE("Promise 2: a caller that asks after a call has landed starts a new call") {
  IntGroup group;
  asio::io_context io;
  int runs = 0;
  const auto load = [&] { return ++runs; };
  const auto caller = [&]() -> asio::awaitable<void> {
    for (int i = 1; i <= 3; ++i) {
      const auto result = co_await AsyncDo(group, "key", load, use_awaitable);
      CHECK(*result == i);
    }
  };
  Spawn(io, caller());
  io.run();
  CHECK(group.GetStats() == Stats{.executions = 3});
}

// ---- What fn may be

ASIO_TEST_CASE("fn is plain or returns an awaitable, and takes the call's stop token or does not") {
  IntGroup group;
  asio::io_context io;
  Answer answers[5];
  const auto awaitable = []() -> asio::awaitable<int> { co_return 3; };
  const auto awaitable_with_token = [](test::StopToken stop) -> asio::awaitable<int> {
    co_return stop.stop_possible() ? 4 : -1;
  };
  const auto convertible_to_int = []() -> asio::awaitable<short> { co_return short{5}; };
  AsyncDo(
      group, "1", [] { return 1; }, Into(answers[0], io));
  AsyncDo(
      group, "2", [](const test::StopToken& stop) { return stop.stop_possible() ? 2 : -1; },
      Into(answers[1], io));
  AsyncDo(group, "3", awaitable, Into(answers[2], io));
  AsyncDo(group, "4", awaitable_with_token, Into(answers[3], io));
  AsyncDo(group, "5", convertible_to_int, Into(answers[4], io));
  io.run();
  for (int i = 0; i < 5; ++i) {
    CHECK(answers[i].outcome.value == i + 1);
    CHECK(answers[i].outcome.role == Role::kLeader);
    CHECK_FALSE(answers[i].outcome.shared);
  }
}

ASIO_TEST_CASE("fn may be move-only, and is destroyed before the handler is called") {
  IntGroup group;
  asio::io_context io;
  for (const bool leads : {true, false}) {
    std::optional<OpenCall> other;
    if (!leads) other.emplace(group);
    auto captured = std::make_shared<int>(7);
    const std::weak_ptr<int> watch = captured;
    bool gone = false;
    auto load = [captured = std::move(captured), only = std::make_unique<int>(1)] {
      return *captured + *only;
    };
    AsyncDo(group, "key", std::move(load),
            asio::bind_executor(io, [&](const std::exception_ptr&, const Result<int>& result) {
              CHECK(*result == (leads ? 8 : 1));
              gone = watch.expired();
            }));
    if (other) other->Land(1);
    io.run();
    io.restart();
    CHECK(gone);
  }
}

ASIO_TEST_CASE("fn runs on the executor bound to it, and the handler runs on its own executor") {
  IntGroup group;
  asio::io_context io;
  asio::thread_pool pool(1);
  std::thread::id fn_on;
  const auto load = [&] {
    fn_on = std::this_thread::get_id();
    return 1;
  };
  const auto awaitable = [&]() -> asio::awaitable<int> { co_return load(); };
  Answer plain;
  Answer coroutine;
  AsyncDo(group, "plain", asio::bind_executor(pool, load), Into(plain, io));
  io.run();
  CHECK(plain.outcome.value == 1);
  CHECK(plain.on == std::this_thread::get_id());
  CHECK(std::exchange(fn_on, {}) != plain.on);
  io.restart();
  AsyncDo(group, "coroutine", asio::bind_executor(pool, awaitable), Into(coroutine, io));
  io.run();
  CHECK(coroutine.outcome.value == 1);
  CHECK(coroutine.on == std::this_thread::get_id());
  CHECK(fn_on != std::thread::id());
  CHECK(fn_on != coroutine.on);
}

ASIO_TEST_CASE("a handler without an executor runs on the executor of fn") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  AsyncDo(group, "key", asio::bind_executor(io, [] { return 1; }), Into(answer));
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(answer.on == std::this_thread::get_id());
}

ASIO_TEST_CASE("if neither fn nor the handler has an executor, Asio's own threads run both") {
  IntGroup group;
  std::latch told(1);
  Answer answer;
  AsyncDo(
      group, "key", [] { return 1; },
      [&](const std::exception_ptr& error, const Result<int>& result) {
        answer.Tell(error, result);
        told.count_down();
      });
  told.wait();
  CHECK(answer.outcome.value == 1);
  CHECK(answer.on != std::this_thread::get_id());
  CHECK(*AsyncDo(
             group, "key", [] { return 2; }, asio::use_future)
             .get() == 2);
}

ASIO_TEST_CASE("neither fn nor the handler runs inside AsyncDo") {
  IntGroup group;
  asio::io_context io;
  int runs_inside = 0;
  int runs = 0;
  bool inside = false;
  const auto run = [&] {
    ++runs;
    runs_inside += inside;
  };
  const auto plain = [&] {
    run();
    return 1;
  };
  const auto awaitable = [&]() -> asio::awaitable<int> {
    run();
    co_return 1;
  };
  auto handler =
      asio::bind_executor(io, [&](const std::exception_ptr&, const Result<int>&) { run(); });
  asio::post(io, [&] {  // here Asio could run them at once
    inside = true;
    AsyncDo(group, "plain", plain, handler);
    AsyncDo(group, "awaitable", awaitable, handler);
    inside = false;
  });
  io.run();
  CHECK(runs == 4);
  CHECK(runs_inside == 0);
}

ASIO_TEST_CASE("the key may be anything that converts to one, and AsyncDo keeps its own copy") {
  IntGroup strings;
  Group<std::pair<int, int>, int, PairHash> pairs;
  Group<std::uint8_t, int> bytes;
  asio::io_context io;
  Answer answers[4];
  const auto one = [] { return 1; };
  {
    std::string text = "a key that is too long to be kept inside of a std::string";
    AsyncDo(strings, std::string_view(text), one, Into(answers[0], io));
    auto later = AsyncDo(strings, text.c_str(), MustNotRun, deferred);
    text.assign(text.size(), '?');
    std::move(later)(Into(answers[1], io));
  }
  AsyncDo(pairs, {1, 2}, one, Into(answers[2], io));
  AsyncDo(bytes, 200, one, Into(answers[3], io));
  CHECK(pairs.Callers({1, 2}) == 1);
  CHECK_THROWS_AS(AsyncDo(bytes, 256, one, Into(answers[3], io)), std::out_of_range);
  io.run();
  for (const Answer& answer : answers) {
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.value == 1);
  }
  CHECK(answers[1].outcome.role == Role::kFollower);
}

ASIO_TEST_CASE("a key in braces is the key that was meant, or is refused") {
  Group<std::pair<int, int>, int, PairHash> pairs;
  asio::io_context io;
  Answer answer;
  AsyncDo(
      pairs, {1LL, 2.0}, [&] { return static_cast<int>(pairs.Callers(std::pair(1, 2))); },
      Into(answer, io));
  CHECK_THROWS_AS(AsyncDo(pairs, {1, (1LL << 32) + 2}, MustNotRun, Into(answer, io)),
                  std::out_of_range);
  CHECK_THROWS_AS(AsyncDo(pairs, {1, 2.5}, MustNotRun, use_awaitable), std::out_of_range);
  io.run();
  CHECK(answer.calls == 1);
  CHECK(answer.outcome.value == 1);
}

// ---- Outcomes

ASIO_TEST_CASE("Promise 4: every caller gets the same answer from shared()") {
  IntGroup group;
  asio::io_context io;
  for (const std::size_t callers : {1U, 2U, 3U}) {
    std::vector<Answer> answers(callers);
    for (Answer& answer : answers) {
      AsyncDo(
          group, "key", [] { return 1; }, Into(answer, io));
    }
    io.run();
    io.restart();
    for (const Answer& answer : answers) CHECK(answer.outcome.shared == (callers > 1));
  }
}

ASIO_TEST_CASE("Promise 5: what fn throws reaches every caller unchanged, outside a catch block") {
  IntGroup group;
  asio::io_context io;
  const auto plain = []() -> int { throw std::runtime_error("down"); };
  const auto awaitable = []() -> asio::awaitable<int> {
    throw std::runtime_error("down");
    co_return 1;
  };
  const auto check = [&](const auto& fn) {
    Answer answers[3];
    for (Answer& answer : answers) AsyncDo(group, "key", fn, Into(answer, io));
    io.run();
    io.restart();
    for (const Answer& answer : answers) {
      CHECK(answer.calls == 1);
      CHECK(answer.outcome.message == "down");
      CHECK_FALSE(answer.in_catch_block);
    }
  };
  check(plain);
  check(awaitable);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 4, .failures = 2});
}

ASIO_TEST_CASE("Promise 5: fn may throw an exception that is not derived from std::exception") {
  IntGroup group;
  asio::io_context io;
  const auto load = []() -> asio::awaitable<int> {
    throw 42;
    co_return 1;
  };
  int caught = 0;
  const auto caller = [&]() -> asio::awaitable<void> {
    try {
      static_cast<void>(co_await AsyncDo(group, "key", load, use_awaitable));
    } catch (int thrown) {
      caught += thrown;
    }
  };
  Spawn(io, caller());
  Spawn(io, caller());
  io.run();
  CHECK(caught == 84);
}

ASIO_TEST_CASE("Promise 13: what fn wrote on a pool is seen by the handler") {
  IntGroup group;
  asio::io_context io;
  asio::thread_pool pool(2);
  for (int round = 0; round < 200; ++round) {
    int plain = 0;
    int seen[3] = {};
    const auto load = asio::bind_executor(pool, [&] {
      AwaitCallers(group, "key", 3);
      return plain = round + 1;
    });
    for (int& mine : seen) {
      AsyncDo(group, "key", load,
              asio::bind_executor(
                  io, [&](const std::exception_ptr&, const Result<int>&) { mine = plain; }));
    }
    io.run();
    io.restart();
    for (const int mine : seen) CHECK(mine == round + 1);
  }
}

ASIO_TEST_CASE("Promise 15: a value may be void") {
  Group<int, void> group;
  asio::io_context io;
  int runs = 0;
  int told = 0;
  const auto load = [&]() -> asio::awaitable<void> {
    ++runs;
    co_return;
  };
  const auto caller = [&]() -> asio::awaitable<void> {
    told += (co_await AsyncDo(group, 1, load, use_awaitable)).shared();
  };
  Spawn(io, caller());
  Spawn(io, caller());
  AsyncDo(
      group, 1, [] {}, asio::bind_executor(io, [&](const std::exception_ptr& error, Result<void>) {
        told += error == nullptr;
      }));
  io.run();
  CHECK(runs == 0);  // the plain fn came first
  CHECK(told == 3);
}

ASIO_TEST_CASE("Promise 15: a value may be move-only and not default-constructible") {
  struct Ticket {
    explicit Ticket(int its_number) : number(std::make_unique<int>(its_number)) {}
    std::unique_ptr<int> number;
  };
  Group<int, Ticket> group;
  asio::io_context io;
  const auto plain = [] { return Ticket(1); };
  const auto awaitable = []() -> asio::awaitable<Ticket> { co_return Ticket(2); };
  int mine = 0;
  const int* seen[2] = {};
  const auto alone = [&]() -> asio::awaitable<void> {
    const auto result = co_await AsyncDo(group, 1, plain, use_awaitable);
    mine = *result->number;
  };
  const auto together = [&](const int*& where) -> asio::awaitable<void> {
    where = (co_await AsyncDo(group, 2, awaitable, use_awaitable))->number.get();
  };
  Spawn(io, alone());
  Spawn(io, together(seen[0]));
  Spawn(io, together(seen[1]));
  io.run();
  CHECK(mine == 1);
  CHECK(seen[0] != nullptr);
  CHECK(seen[0] == seen[1]);
  auto future = AsyncDo(group, 3, plain, asio::use_future);
  CHECK(*future.get()->number == 1);
}

// ---- Nothing half-done, no lock

ASIO_TEST_CASE("Promise 7: the handler gets the exception that the hash throws") {
  struct ThrowingHash {
    std::size_t operator()(int) const { throw std::runtime_error("no hash"); }
  };
  Group<int, int, ThrowingHash> group;
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer answer;
  AsyncDo(group, 1, MustNotRun, Into(answer, io, signal));
  CHECK(answer.calls == 0);
  signal.emit(asio::cancellation_type::all);  // has no effect: the operation has failed
  io.run();
  CHECK(answer.calls == 1);
  CHECK(answer.outcome.message == "no hash");
  CHECK(group.GetStats() == Stats{});
}

ASIO_TEST_CASE(
    "Promise 7: a follower that runs out of memory fails alone, and frees all that it allocated") {
  const std::string key = "a key that is too long to be kept inside of a std::string";
  IntGroup group;
  asio::io_context io;
  HeldCall leader(group, key);
  Answer answer;
  Answer other;
  AsyncDo(group, key, MustNotRun, Into(other, io));
  const auto load = asio::bind_executor(io, MustNotRun);
  bool joined = false;
  std::size_t failures = 0;
  while (!joined) {
    try {
      const FailAllocations failing(failures);
      AsyncDo(group, key, load, Into(answer, io));
      joined = true;
    } catch (const std::bad_alloc&) {
      ++failures;
    }
    CHECK(group.Callers(key) == (joined ? 3 : 2));
  }
  CHECK(failures > 0);
  CHECK(leader.Finish().value == 1);
  io.run();
  CHECK(answer.calls == 1);
  CHECK(other.calls == 1);
}

namespace {

int runs = 0;
int runs_under_lock = 0;

struct Watched {
  Watched() { Run(); }
  Watched(const Watched&) { Run(); }
  Watched(Watched&&) noexcept { Run(); }
  ~Watched() { Run(); }
  static void Run() {
    ++runs;
    runs_under_lock += locks_held > 0;
  }
};

}  // namespace

ASIO_TEST_CASE(
    "Promise 8: no lock is held while fn, a handler or a value is run, copied or destroyed") {
  runs = runs_under_lock = 0;
  Group<int, Watched, std::hash<int>, std::equal_to<int>, OneWatchedShard> group;
  asio::io_context io;
  asio::cancellation_signal signal;
  const auto plain = [watched = Watched()] { return watched; };
  const auto awaitable = [watched = Watched()]() -> asio::awaitable<Watched> { co_return watched; };
  const auto stoppable = [watched = Watched()](test::StopToken) -> asio::awaitable<Watched> {
    co_return watched;
  };
  auto handler = asio::bind_executor(
      io,
      [watched = Watched()](const std::exception_ptr&, const Result<Watched>&) { Watched::Run(); });
  for (int i = 0; i < 2; ++i) {
    AsyncDo(group, 1, plain, handler);
    AsyncDo(group, 2, awaitable, handler);
    AsyncDo(group, 3, stoppable, asio::bind_cancellation_slot(signal.slot(), handler));
    signal.emit(asio::cancellation_type::all);
  }
  io.run();
  CHECK(group.GetStats() == Stats{.executions = 4, .followers = 2, .failures = 2, .left = 2});
  CHECK(runs > 0);
  CHECK(runs_under_lock == 0);
}

// ---- Executors, memory, outstanding work

ASIO_TEST_CASE("a handler is called through its associated executor") {
  IntGroup group;
  asio::thread_pool pool(2);
  auto strand = asio::make_strand(pool);
  std::atomic<int> in_strand = 0;
  {
    HeldCall leader(group, "key");
    for (int i = 0; i < 100; ++i) {
      AsyncDo(group, "key", MustNotRun,
              asio::bind_executor(strand, [&](const std::exception_ptr&, const Result<int>&) {
                in_strand += strand.running_in_this_thread();
              }));
    }
  }
  pool.join();
  CHECK(in_strand == 100);
}

namespace {

// Counts the blocks that are in use, and all allocations.
struct Memory {
  int blocks = 0;
  int total = 0;
};
template <class T>
struct CountingAllocator {
  using value_type = T;
  explicit CountingAllocator(Memory& its_memory) : memory(&its_memory) {}
  template <class U>
  CountingAllocator(const CountingAllocator<U>& other) : memory(other.memory) {}
  T* allocate(std::size_t count) {
    ++memory->blocks;
    ++memory->total;
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* block, std::size_t count) {
    --memory->blocks;
    std::allocator<T>().deallocate(block, count);
  }
  template <class U>
  bool operator==(const CountingAllocator<U>& other) const {
    return memory == other.memory;
  }
  Memory* memory;
};

}  // namespace

ASIO_TEST_CASE(
    "memory comes from the handler's allocator, and is freed before the handler is called") {
  IntGroup group;
  asio::io_context io;
  HeldCall leader(group, "key");
  Memory memory;
  int blocks_in_handler = -1;
  AsyncDo(group, "key", MustNotRun,
          asio::bind_allocator(
              CountingAllocator<void>(memory),
              asio::bind_executor(io, [&](const std::exception_ptr&, const Result<int>&) {
                blocks_in_handler = memory.blocks;
              })));
  CHECK(memory.blocks == 1);
  leader.Finish();
  CHECK(memory.total == 2);  // the second block is the posted completion
  io.run();
  CHECK(blocks_in_handler == 0);
}

ASIO_TEST_CASE(
    "outstanding work keeps the context running until a call that is led elsewhere lands") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  HeldCall leader(group, "key");
  AsyncDo(group, "key", MustNotRun, Into(answer, io));
  test::JoiningThread finishes([&] {
    Await([&] { return !io.stopped(); });
    leader.Finish();
  });
  io.run();
  CHECK(answer.outcome.value == 1);
}

// ---- All at once

ASIO_TEST_CASE("the counts are exact when many coroutines on a pool join, leave, fail and land") {
  constexpr std::size_t kCoroutines = 64;
  constexpr std::size_t kRounds = 40;
  IntGroup group;
  std::atomic<std::size_t> answers = 0;
  std::atomic<int> wrong = 0;
  asio::thread_pool pool(4);
  const auto caller = [&](std::size_t number) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    for (std::size_t round = 0; round < kRounds; ++round) {
      const int which = static_cast<int>((number + round) % 3);
      const auto load = [which]() -> asio::awaitable<int> {
        co_await asio::post(use_awaitable);
        if (which == 2) throw std::runtime_error("down");
        co_return which;
      };
      try {
        if (round % 4 == 0) {
          const auto hurry = [executor]() -> asio::awaitable<void> {
            co_await asio::post(executor, use_awaitable);
          };
          auto first =
              co_await (AsyncDo(group, std::to_string(which), load, use_awaitable) || hurry());
          wrong += first.index() == 0 && **std::get_if<0>(&first) != which;
        } else {
          wrong += *co_await AsyncDo(group, std::to_string(which), load, use_awaitable) != which;
        }
      } catch (const std::runtime_error& error) {
        wrong += which != 2;
      }
      ++answers;
    }
  };
  for (std::size_t i = 0; i < kCoroutines; ++i) Spawn(asio::make_strand(pool), caller(i));
  pool.join();
  CHECK(answers == kCoroutines * kRounds);
  CHECK(wrong == 0);
  const Stats stats = group.GetStats();
  CHECK(stats.in_flight == 0);
  CHECK(stats.executions + stats.followers == kCoroutines * kRounds);
}
