// SPDX-License-Identifier: MIT

// Tests CoDo on a redis::Group.

#include <atomic>
#include <coroutine>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/coro.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "server.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// A coroutine that asks. Its outcome is for the test's thread.
template <class Value>
class Asker {
 public:
  template <class Make>
  explicit Asker(Make make) : routine_(Ask(*this, std::move(make))) {}

  const Outcome<Value>& Get() {
    if (!got_) got_ = future_.get();
    return *got_;
  }
  bool IsReady() const { return future_.wait_for(0s) == std::future_status::ready; }
  void DestroyFrame() { routine_.Destroy(); }

 private:
  // Suspends for good, and only then lets the test destroy the frame.
  struct Finish : std::suspend_always {
    Finish(Asker& its_asker, Outcome<Value>& its_outcome)
        : asker(its_asker), outcome(its_outcome) {}
    void await_suspend(std::coroutine_handle<>) {
      std::promise<Outcome<Value>> promise = std::move(asker.promise_);
      promise.set_value(std::move(outcome));
    }
    Asker& asker;
    Outcome<Value>& outcome;
  };

  template <class Make>
  static Routine Ask(Asker& self, Make make) {
    Outcome<Value> outcome;
    try {
      const auto result = co_await make();
      if constexpr (std::is_same_v<Value, int>) {
        outcome.value = 1;  // it stands for a value of the test's own
        static_cast<void>(*result);
      } else {
        outcome.value = *result;
      }
      outcome.shared = result.shared();
      outcome.role = result.role();
    } catch (const std::system_error& error) {
      outcome.error = static_cast<std::errc>(error.code().value());
    } catch (const std::exception& error) {
      outcome.message = error.what();
    }
    co_await Finish(self, outcome);
  }

  std::promise<Outcome<Value>> promise_;
  std::future<Outcome<Value>> future_ = promise_.get_future();
  std::optional<Outcome<Value>> got_;
  Routine routine_;  // declared last: it uses the others
};

using Page = Asker<std::string>;

// As a Signal, but the test's thread may look at it while another one is about to await it.
class SharedSignal {
 public:
  void Fire() { std::coroutine_handle<>::from_address(handle_.exchange(nullptr)).resume(); }
  bool Awaited() const { return handle_ != nullptr; }

  auto operator co_await() noexcept {
    struct Awaiter : std::suspend_always {
      explicit Awaiter(SharedSignal& its_signal) : signal(its_signal) {}
      void await_suspend(std::coroutine_handle<> handle) const noexcept {
        signal.handle_ = handle.address();
      }
      SharedSignal& signal;
    };
    return Awaiter(*this);
  }

 private:
  std::atomic<void*> handle_ = nullptr;
};

}  // namespace

TEST_CASE(
    "fleet CoDo: a coroutine that is alone leads, and a plain fn runs on a thread of the group") {
  const RedisServer server;
  RedisPages pages(server);
  std::atomic<bool> elsewhere = false;
  const auto here = std::this_thread::get_id();
  const auto fn = [&] {
    elsewhere = !IsOnLoop(pages) && std::this_thread::get_id() != here;
    return "v"s;
  };
  Page page([&] { return CoDo(pages, "k", fn); });
  CHECK(page.Get().value == "v");
  CHECK_FALSE(page.Get().shared);
  CHECK(page.Get().role == Role::kLeader);
  CHECK(elsewhere);
  AwaitNothingOn(server);
}

TEST_CASE(
    "fleet CoDo: a plain fn runs on the executor of the options, and on its own if it has one") {
  const RedisServer server;
  TaskThread of_group, of_caller;
  RedisPages pages(server, {.executor = of_group.Executor()});
  std::thread::id ran_on;
  const auto fn = [&] {
    ran_on = std::this_thread::get_id();
    return "v"s;
  };
  Page plain([&] { return CoDo(pages, "k", fn); });
  CHECK(plain.Get().value == "v");
  CHECK(ran_on == of_group.Id());
  const auto executor = of_caller.Executor();
  Page with_executor([&] { return CoDo(pages, "k", fn, executor); });
  CHECK(with_executor.Get().value == "v");
  CHECK(ran_on == of_caller.Id());
}

TEST_CASE(
    "fleet CoDo: an executor that runs inline keeps neither the loop nor another key waiting") {
  const RedisServer server;
  RedisPages pages(server, {.executor = [](const auto& task) { task(); }});
  HeldFn work;
  std::atomic<bool> on_loop = true;
  const auto fn = [&] {
    on_loop = IsOnLoop(pages);
    work.Run();
    return "v"s;
  };
  Page slow([&] { return CoDo(pages, "slow", fn); });
  work.AwaitBegun();
  CHECK_FALSE(on_loop);
  CHECK(*pages.Do("k", [] { return "w"s; }) == "w");
  work.Finish();
  CHECK(slow.Get().value == "v");
}

TEST_CASE("fleet CoDo: an awaitable fn is awaited, on no event loop, in one process of all") {
  const RedisServer server;
  RedisPages here(server), there(server);
  SharedSignal answered;
  std::atomic<bool> on_loop = true;
  const auto load = [&]() -> Task<std::string> {
    on_loop = IsOnLoop(here);
    co_await answered;
    co_return "v"s;
  };
  Page leader([&] { return CoDo(here, "k", load); });
  Await([&] { return answered.Awaited(); });
  CHECK_FALSE(on_loop);
  Page follower([&] { return CoDo(there, "k", NeverRun); });
  AwaitFollower(server, "k");
  answered.Fire();
  CHECK(leader.Get().value == "v");
  CHECK(follower.Get().value == "v");
  CHECK(follower.Get().role == Role::kFollower);
  CHECK(follower.Get().shared);
}

TEST_CASE("fleet CoDo: void, a value that only moves and one of a megabyte reach other processes") {
  const RedisServer server;
  SECTION("only moves") {
    RedisProcess<MovableNumber> here(server), there(server);
    HeldFn work;
    const auto fn = [&] {
      work.Run();
      return MovableNumber(42);
    };
    Asker<int> leader([&] { return CoDo(here, "k", fn); });
    work.AwaitBegun();
    std::promise<int> number;
    const auto follow = [&]() -> FireAndForget {
      const auto never = [] { return MovableNumber(0); };
      const auto result = co_await CoDo(there, "k", never);
      number.set_value(*result->number);
    };
    follow();
    AwaitFollower(server, "k");
    work.Finish();
    CHECK(leader.Get().value == 1);
    CHECK(number.get_future().get() == 42);
  }
  SECTION("void") {
    RedisProcess<void> here(server), there(server);
    HeldFn work;
    const auto fn = [&] { work.Run(); };
    std::promise<Role> led, followed;
    const auto ask = [&](RedisProcess<void>& process, std::promise<Role>& role) -> FireAndForget {
      role.set_value((co_await CoDo(process, "k", fn)).role());
    };
    ask(here, led);
    work.AwaitBegun();
    ask(there, followed);
    AwaitFollower(server, "k");
    work.Finish();
    CHECK(led.get_future().get() == Role::kLeader);
    CHECK(followed.get_future().get() == Role::kFollower);
    CHECK(work.Runs() == 1);
  }
  SECTION("a megabyte") {
    RedisPages here(server), there(server);
    const std::string large(std::size_t{1} << 20, 'x');
    RedisLeader leader(here, "k", large);
    Page follower([&] { return CoDo(there, "k", NeverRun); });
    AwaitFollower(server, "k");
    leader.Finish();
    CHECK(follower.Get().value == large);
  }
}

TEST_CASE("fleet CoDo: what fn throws reaches the coroutine, also from another process") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string {
    throw std::system_error(std::make_error_code(std::errc::io_error));
  });
  Page follower([&] { return CoDo(there, "k", NeverRun); });
  AwaitFollower(server, "k");
  CHECK(leader.Finish().error == std::errc::io_error);
  CHECK(follower.Get().error == std::errc::io_error);
  const auto fails = []() -> std::string { throw std::runtime_error("no"); };
  Page leads([&] { return CoDo(there, "k2", fails); });
  CHECK(leads.Get().message == "no");
}

TEST_CASE("fleet CoDo: a stop that came before means that nobody is asked") {
  const RedisServer server;
  RedisPages pages(server);
  StopSource stop;
  stop.request_stop();
  Page page([&] { return CoDo(pages, "k", NeverRun, stop.get_token()); });
  CHECK(page.Get().error == std::errc::operation_canceled);
  CHECK(pages.GetStats().calls.executions == 0);
}

TEST_CASE("fleet CoDo: a stop takes effect at once while the server is asked, and nobody leads") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  StopSource stop;
  Page page([&] { return CoDo(pages, "k", NeverRun, stop.get_token()); });
  CHECK(pages.Callers("k") == 1);
  stop.request_stop();
  CHECK(page.IsReady());
  CHECK(page.Get().error == std::errc::operation_canceled);
  server.Continue();
  AwaitNothingOn(server);
}

TEST_CASE("fleet CoDo: a stop, or a frame that is destroyed, leaves another process's call") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  StopSource stop;
  Page stopped([&] { return CoDo(there, "k", NeverRun, stop.get_token()); });
  Page destroyed([&] { return CoDo(there, "k", NeverRun); });
  Page stays([&] { return CoDo(there, "k", NeverRun); });
  AwaitFollower(server, "k");
  CHECK(there.Callers("k") == 3);
  stop.request_stop();
  CHECK(stopped.Get().error == std::errc::operation_canceled);
  destroyed.DestroyFrame();
  CHECK(there.Callers("k") == 1);
  leader.Finish();
  CHECK(stays.Get().value == "v");
  CHECK(there.GetStats().calls.left == 2);
}

TEST_CASE(
    "fleet CoDo: when the last coroutine leaves, fn is asked to stop and another process leads") {
  const RedisServer server;
  RedisPages here(server), there(server);
  HeldFn work;
  const auto fn = [&](const StopToken& token) {
    work.RunUntil(token);
    return "late"s;
  };
  StopSource stop;
  Page leader([&] { return CoDo(here, "k", fn, stop.get_token()); });
  work.AwaitBegun();
  const auto other_fn = [] { return "other"s; };
  Page other([&] { return CoDo(there, "k", other_fn); });
  AwaitFollower(server, "k");
  stop.request_stop();
  CHECK(leader.Get().error == std::errc::operation_canceled);
  CHECK(other.Get().value == "other");
  CHECK(there.GetStats().takeovers == 1);
}

TEST_CASE("fleet CoDo: if its frame is destroyed before it leads, another caller gets the work") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return "v"s;
  };
  Page first([&] { return CoDo(pages, "k", fn); });
  Page second([&] { return CoDo(pages, "k", fn); });
  first.DestroyFrame();
  CHECK(pages.Callers("k") == 1);
  server.Continue();
  CHECK(second.Get().value == "v");
  CHECK(runs == 1);
}

TEST_CASE("fleet CoDo: with kRetry coroutines ask again, once for all, if another process fails") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return "second"s;
  };
  const auto retry = [&] {
    return CoDo(there, "k", fn, StopToken(), ResumeInline(), OnFailure::kRetry);
  };
  Page first(retry), second(retry), gone(retry);
  Page shares([&] { return CoDo(there, "k", NeverRun); });
  AwaitFollower(server, "k");
  gone.DestroyFrame();
  leader.Finish();
  CHECK(first.Get().value == "second");
  CHECK(second.Get().value == "second");
  CHECK(shares.Get().message == "no");
  CHECK(runs == 1);
}

TEST_CASE("fleet CoDo: with kRetry a coroutine whose own fn failed does not run it again") {
  const RedisServer server;
  RedisPages pages(server);
  std::atomic<int> runs = 0;
  const auto fn = [&]() -> std::string {
    ++runs;
    throw std::runtime_error("no");
  };
  Page page([&] { return CoDo(pages, "k", fn, StopToken(), ResumeInline(), OnFailure::kRetry); });
  CHECK(page.Get().message == "no");
  CHECK(runs == 1);
}

TEST_CASE("fleet CoDo: a coroutine resumes where resume_on says") {
  const RedisServer server;
  TaskThread worker;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  const auto run = worker.Executor();
  const auto resume_on = [run](std::coroutine_handle<> handle) {
    run([handle] { handle.resume(); });
  };
  std::promise<std::thread::id> resumed_on;
  const auto ask = [&]() -> FireAndForget {
    const auto page = co_await CoDo(there, "k", NeverRun, StopToken(), resume_on);
    resumed_on.set_value(std::this_thread::get_id());
  };
  ask();
  AwaitFollower(server, "k");
  leader.Finish();
  CHECK(resumed_on.get_future().get() == worker.Id());
}

TEST_CASE("fleet CoDo: a coroutine that resumes inline may wait in Do for another process") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader first(here, "first", "1"), second(here, "second", "2");
  std::promise<std::string> both;
  const auto ask = [&]() -> FireAndForget {
    const auto page = co_await CoDo(there, "first", NeverRun);
    both.set_value(*page + *there.Do("second", NeverRun));
  };
  ask();
  AwaitFollower(server, "first");
  first.Finish();
  AwaitFollower(server, "second");
  second.Finish();
  CHECK(both.get_future().get() == "12");
}

TEST_CASE(
    "fleet CoDo: a coroutine that resumes inline may destroy the group, or group and client") {
  const RedisServer server;
  RedisPages here(server);
  redis::Client client(ClientOptionsFor(server));
  auto there = std::make_unique<redis::Group<std::string>>(client, "t");
  auto with_client = std::make_unique<RedisPages>(server);
  RedisLeader leader(here, "k", "v"), other(here, "other", "w");
  Page asks([&] { return CoDo(*there, "other", NeverRun); });
  std::promise<void> group_gone, client_gone;
  const auto ask = [&](auto& group, std::promise<void>& gone) -> FireAndForget {
    static_cast<void>(co_await CoDo(*group, "k", NeverRun));
    group = nullptr;
    gone.set_value();
  };
  ask(there, group_gone);
  ask(with_client, client_gone);
  AwaitFollowers(server, "k", 2);
  AwaitFollower(server, "other");
  leader.Finish();
  group_gone.get_future().wait();
  client_gone.get_future().wait();
  CHECK(asks.Get().error == std::errc::operation_canceled);
}

TEST_CASE("fleet CoDo: an executor that throws or drops its task fails the call") {
  const RedisServer server;
  RedisPages pages(server);
  const auto throws = [](const auto&) { throw std::runtime_error("full"); };
  Page thrown([&] { return CoDo(pages, "k", NeverRun, throws); });
  CHECK(thrown.Get().message == "full");
  const auto drops = [](const auto&) {};
  Page dropped([&] { return CoDo(pages, "k", NeverRun, drops); });
  CHECK(dropped.Get().error == std::errc::owner_dead);
  const auto load = []() -> Task<std::string> { co_return "v"s; };
  Page never_started([&] { return CoDo(pages, "k", load, drops); });
  CHECK(never_started.Get().error == std::errc::owner_dead);
  AwaitNothingOn(server);
}

TEST_CASE("fleet CoDo: an inline executor of the options may outlive its group by a moment") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  std::promise<void> gone;
  std::future<void> is_gone = gone.get_future();
  const auto ends = std::make_shared<std::promise<int>>();
  std::future<int> ended = ends->get_future();
  auto pages = std::make_unique<redis::Group<std::string>>(
      client, "t",
      redis::Options{.executor = [&is_gone, ends, own = std::string(100, 'x')](const auto& task) {
        task();
        is_gone.wait();
        ends->set_value(static_cast<int>(own.size()));
      }});
  const auto fn = [] { return "v"s; };
  Page page([&] { return CoDo(*pages, "k", fn); });
  CHECK(page.Get().value == "v");
  pages = nullptr;
  gone.set_value();
  CHECK(ended.get() == 100);
}

TEST_CASE("fleet CoDo: a group that is destroyed cancels the coroutines that ask and follow") {
  RedisServer server;
  RedisPages here(server);
  auto there = std::make_unique<RedisPages>(server);
  RedisLeader leader(here, "k", "v");
  Page follows([&] { return CoDo(*there, "k", NeverRun); });
  AwaitFollower(server, "k");
  there = nullptr;
  CHECK(follows.Get().error == std::errc::operation_canceled);
  there = std::make_unique<RedisPages>(server);
  CHECK(*there->Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  const auto asking = there.get();
  Page asks([&] { return CoDo(*asking, "k3", NeverRun); });
  JoiningThread continuing([&] {
    Await([&] { return asks.IsReady(); });
    server.Continue();
  });
  there = nullptr;
  continuing = {};
  CHECK(asks.Get().error == std::errc::operation_canceled);
}

TEST_CASE("fleet CoDo: limits refuse a coroutine, and Close does") {
  const RedisServer server;
  RedisPages pages(server, {.group = {.max_callers_per_call = 1}});
  HeldFn work;
  const auto fn = [&] {
    work.Run();
    return "v"s;
  };
  Page leader([&] { return CoDo(pages, "k", fn); });
  work.AwaitBegun();
  Page refused([&] { return CoDo(pages, "k", NeverRun); });
  CHECK(refused.Get().error == std::errc::resource_unavailable_try_again);
  work.Finish();
  CHECK(leader.Get().value == "v");
  pages.Close();
  Page closed([&] { return CoDo(pages, "k", NeverRun); });
  CHECK(closed.Get().error == std::errc::resource_unavailable_try_again);
}

TEST_CASE("fleet CoDo: a fn that asks for its own key in Do gets a deadlock, not a hang") {
  const RedisServer server;
  RedisPages pages(server);
  const auto fn = [&] { return *pages.Do("k", NeverRun); };
  Page page([&] { return CoDo(pages, "k", fn); });
  CHECK(page.Get().error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("fleet CoDo: fn and the executor may be of types that only move") {
  const RedisServer server;
  RedisPages pages(server);
  auto fn = [own = std::make_unique<std::string>("v")] { return *own; };
  auto executor = [own = std::make_unique<int>(0)](const auto& task) { task(); };
  Page page([&] { return CoDo(pages, "k", std::move(fn), std::move(executor)); });
  CHECK(page.Get().value == "v");
}

TEST_CASE("fleet CoDo: a thousand coroutines of two processes share one execution") {
  const RedisServer server;
  RedisPages here(server), there(server);
  HeldFn work;
  const auto fn = [&] {
    work.Run();
    return "v"s;
  };
  std::vector<std::unique_ptr<Page>> all;
  all.push_back(std::make_unique<Page>([&] { return CoDo(here, "k", fn); }));
  work.AwaitBegun();
  for (int i = 0; i < 500; ++i) {
    for (RedisPages* each : {&here, &there}) {
      all.push_back(std::make_unique<Page>([&fn, each] { return CoDo(*each, "k", fn); }));
    }
  }
  AwaitFollower(server, "k");
  work.Finish();
  std::size_t right = 0;
  for (const auto& each : all) right += each->Get().value == "v" ? 1 : 0;
  CHECK(right == all.size());
  CHECK(work.Runs() == 1);
}
