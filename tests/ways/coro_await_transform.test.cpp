// SPDX-License-Identifier: MIT

// Tests of CoDo in coroutine types whose await_transform does more than to pass an awaitable on.

#include <coroutine>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;
using singleflight::Result;
using singleflight::Role;
using singleflight::Stats;

namespace {

// A number that can be read only while the object lives, and only where it was moved to.
class Checked {
 public:
  explicit Checked(int number) : number_(number) {}
  Checked(const Checked& other) = default;
  Checked(Checked&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  ~Checked() { number_ = -2; }
  Checked& operator=(const Checked&) = delete;

  int Get() const { return number_ < 0 ? throw std::logic_error("it is gone") : number_; }
  bool operator==(const Checked& other) const { return Get() == other.Get(); }

 private:
  volatile int number_;  // so that the destructor's write is not left out
};

struct CheckedHash {
  std::size_t operator()(const Checked& key) const { return static_cast<std::size_t>(key.Get()); }
};

// What a test passes to CoDo as a temporary. Not lambdas, because of the bug of GCC 12 that
// coro.hpp describes.
class Answer {
 public:
  Answer(Signal& signal, int value) : signal_(signal), value_(value) {}
  Task<int> operator()() const {
    const int value = value_.Get();
    co_await signal_;
    co_return value;
  }

 private:
  Signal& signal_;
  Checked value_;
};
class Executor {
 public:
  explicit Executor(std::vector<std::function<void()>>& tasks) : tasks_(tasks) {}
  template <class ItsTask>
  void operator()(ItsTask task) const {
    tasks_.resize(static_cast<std::size_t>(one_.Get()), std::move(task));
  }

 private:
  std::vector<std::function<void()>>& tasks_;
  Checked one_{1};
};
class ResumeOn {
 public:
  explicit ResumeOn(int& resumed) : resumed_(resumed) {}
  void operator()(std::coroutine_handle<> handle) const {
    resumed_ += one_.Get();
    handle.resume();
  }

 private:
  int& resumed_;
  Checked one_{1};
};

using CheckedGroup = Group<Checked, int, CheckedHash>;

// A coroutine like Routine, whose promise has the await_transform of `Transform`.
template <class Transform>
class CoroutineOf {
 public:
  struct promise_type : Transform {
    CoroutineOf get_return_object() noexcept {
      return CoroutineOf(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_always final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };

  explicit CoroutineOf(std::coroutine_handle<> handle) noexcept : handle_(handle) {}
  CoroutineOf(CoroutineOf&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~CoroutineOf() { Destroy(); }
  void Destroy() {
    if (handle_) std::exchange(handle_, nullptr).destroy();
  }
  bool Done() const { return handle_.done(); }

 private:
  std::coroutine_handle<> handle_;
};

template <class Awaitable>
using AwaiterOf = decltype(std::declval<Awaitable>().operator co_await());

// Passes it on.
struct Passes {
  template <class Awaitable>
  Awaitable&& await_transform(Awaitable&& awaitable) {
    return std::forward<Awaitable>(awaitable);
  }
};

// Moves it into a wrapper, from which the awaiter is made later: folly::coro::Task.
struct KeepsAwaitable {
  template <class Awaitable>
  struct Awaiter {
    explicit Awaiter(Awaitable&& awaitable) : inner(std::move(awaitable).operator co_await()) {}
    bool await_ready() { return inner.await_ready(); }
    bool await_suspend(std::coroutine_handle<> handle) { return inner.await_suspend(handle); }
    auto await_resume() { return inner.await_resume(); }
    AwaiterOf<Awaitable> inner;
  };
  template <class Awaitable>
  struct Wrapper {
    explicit Wrapper(Awaitable&& its_awaitable) : awaitable(std::move(its_awaitable)) {}
    auto operator co_await() && { return Awaiter<Awaitable>(std::move(awaitable)); }
    Awaitable awaitable;
  };
  template <class Awaitable>
  auto await_transform(Awaitable awaitable) {
    return Wrapper<Awaitable>(std::move(awaitable));
  }
};

// Makes the awaiter, by guaranteed elision, and does not keep what it was made from: stdexec.
struct KeepsAwaiter {
  template <class Awaitable>
  auto await_transform(Awaitable awaitable) {
    return KeepsAwaitable::Awaiter<Awaitable>(std::move(awaitable));
  }
};

// Makes an awaiter, and moves that before it is awaited: libunifex.
struct MovesAwaiter {
  template <class Awaiter>
  struct Wrapper {
    explicit Wrapper(Awaiter&& its_awaiter) : awaiter(std::move(its_awaiter)) {}
    bool await_ready() { return awaiter->await_ready(); }
    bool await_suspend(std::coroutine_handle<> handle) { return awaiter->await_suspend(handle); }
    auto await_resume() { return awaiter->await_resume(); }
    std::optional<Awaiter> awaiter;
  };
  template <class Awaitable>
  auto await_transform(Awaitable awaitable) {
    return Wrapper<AwaiterOf<Awaitable>>(std::move(awaitable).operator co_await());
  }
};

// Awaits it in another coroutine, which takes it by value: cppcoro::when_all and others.
using NestedTask = Task<std::optional<Result<int>>>;
struct Nested {
  explicit Nested(NestedTask its_task) : task(std::move(its_task)) {}
  bool await_ready() const noexcept { return task.await_ready(); }
  auto await_suspend(std::coroutine_handle<> handle) { return task.await_suspend(handle); }
  auto await_resume() { return *task.await_resume(); }
  NestedTask task;
};
struct NestsByValue {
  template <class Awaitable>
  static NestedTask Await(Awaitable awaitable) {
    co_return co_await std::move(awaitable);
  }
  template <class Awaitable>
  auto await_transform(Awaitable awaitable) {
    return Nested(Await(std::move(awaitable)));
  }
};

// Awaits it in another coroutine, which refers to it and does not move it.
struct NestsByReference {
  template <class Awaitable>
  static NestedTask Await(const Awaitable& awaitable) {
    co_return co_await awaitable;
  }
  template <class Awaitable>
  auto await_transform(const Awaitable& awaitable) {
    return Nested(Await(awaitable));
  }
};

struct Outcomes {
  std::optional<int> plain;
  std::optional<int> here;
  std::optional<int> queued;
  int resumed = 0;
};

}  // namespace

TEMPLATE_TEST_CASE("CoDo: it may be awaited whatever await_transform does with it", "", Passes,
                   KeepsAwaitable, KeepsAwaiter, MovesAwaiter, NestsByValue, NestsByReference) {
  CheckedGroup group;
  Signal signal;
  std::vector<std::function<void()>> tasks;
  Outcomes outcomes;
  const auto ask = [&]() -> CoroutineOf<TestType> {
    outcomes.plain = *co_await CoDo(group, Checked(1), [] { return 1; });
    outcomes.here =
        *co_await CoDo(group, Checked(1), Answer(signal, 2), {}, ResumeOn(outcomes.resumed));
    outcomes.queued = *co_await CoDo(group, Checked(1), Answer(signal, 3), Executor(tasks), {},
                                     ResumeOn(outcomes.resumed));
  };
  const auto coroutine = ask();
  CHECK(outcomes.plain == 1);
  CHECK(group.Callers(Checked(1)) == 1);
  signal.Fire();
  CHECK(outcomes.here == 2);
  CHECK(outcomes.resumed == 1);
  REQUIRE(tasks.size() == 1);
  tasks.front()();
  CHECK(outcomes.queued == std::nullopt);
  signal.Fire();
  CHECK(outcomes.queued == 3);
  CHECK(outcomes.resumed == 2);
  CHECK(coroutine.Done());
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEMPLATE_TEST_CASE("CoDo: a stop and a destroyed frame leave whatever await_transform did", "",
                   Passes, KeepsAwaitable, KeepsAwaiter, MovesAwaiter, NestsByValue,
                   NestsByReference) {
  CheckedGroup group;
  Signal signal;
  StopSource stop;
  std::optional<std::errc> error;
  const auto ask = [&](StopToken token) -> CoroutineOf<TestType> {
    try {
      static_cast<void>(co_await CoDo(group, Checked(1), Answer(signal, 7), std::move(token)));
    } catch (const std::system_error& caught) {
      error = static_cast<std::errc>(caught.code().value());
    }
  };
  const auto stays = ask({});
  const auto stopped = ask(stop.get_token());
  auto destroyed = ask({});
  CHECK(group.Callers(Checked(1)) == 3);
  stop.request_stop();
  CHECK(error == std::errc::operation_canceled);
  CHECK(stopped.Done());
  destroyed.Destroy();
  CHECK(group.Callers(Checked(1)) == 1);
  signal.Fire();
  CHECK(stays.Done());
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 2});
}

TEST_CASE("CoDo: what it returns may be kept and awaited later, and holds its temporaries") {
  CheckedGroup group;
  Signal signal;
  std::vector<std::function<void()>> tasks;
  int resumed = 0;
  std::optional<int> value;
  const auto make = [&] {
    return CoDo(group, Checked(1), Answer(signal, 7), Executor(tasks), StopSource().get_token(),
                ResumeOn(resumed));
  };
  auto call = make();
  CHECK(group.GetStats() == Stats());  // nothing happens before it is awaited
  std::vector<decltype(call)> kept;
  kept.push_back(std::move(call));
  const auto ask = [&]() -> Routine { value = *co_await std::move(kept.front()); };
  const Routine routine = ask();
  kept.clear();
  CHECK(group.Callers(Checked(1)) == 1);
  REQUIRE(tasks.size() == 1);
  tasks.front()();
  signal.Fire();
  CHECK(value == 7);
  CHECK(resumed == 1);
}

TEST_CASE("CoDo: what it returns can be awaited several times, and asks each time") {
  Group<int, int> group;
  int runs = 0;
  std::vector<int> values;
  const auto ask = [&]() -> Routine {
    auto call = CoDo(group, 1, [&runs] { return ++runs; });
    for (int i = 0; i < 3; ++i) values.push_back(*co_await call);
    values.push_back(*co_await std::move(call));
  };
  const Routine routine = ask();
  CHECK(values == std::vector<int>{1, 2, 3, 4});
  CHECK(group.GetStats() == Stats{.executions = 4});
}

TEST_CASE("CoDo: what it returns cannot be copied, and is awaited once, if its function is so") {
  Group<int, int> group;
  const auto call = [&] {
    return CoDo(group, 1, [number = std::make_unique<int>(7)] { return *number; });
  };
  using Call = decltype(call());
  STATIC_REQUIRE(std::is_move_constructible_v<Call>);
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Call>);
  STATIC_REQUIRE(singleflight::detail::Awaitable<Call>);
  STATIC_REQUIRE_FALSE(singleflight::detail::Awaitable<Call&>);
  int value = 0;
  const auto ask = [&]() -> Routine {
    auto kept = call();
    value = *co_await std::move(kept);
  };
  const Routine routine = ask();
  CHECK(value == 7);
}

TEST_CASE("CoDo: a named function and executor are used where they are, and not copied") {
  struct Fixed {
    Fixed() = default;
    Fixed(const Fixed&) = delete;
    int operator()() { return ++runs; }
    int runs = 0;
  };
  Group<int, int> group;
  Fixed fn;
  int value = 0;
  const auto ask = [&]() -> Routine {
    auto call = CoDo(group, 1, fn);
    value = *co_await std::move(call);
  };
  const Routine routine = ask();
  CHECK(value == 1);
  CHECK(fn.runs == 1);
}
