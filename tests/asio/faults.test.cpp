// SPDX-License-Identifier: MIT

// Scenarios of promises 5 and 7 for AsyncDo, which faults/faults.test.cpp runs. Each caller runs an
// io_context of its own on its own thread, so that its work, its coroutines and its handler pass
// their fault points there.
//
// Two failures are left out. If there is no memory for the post that completes an operation,
// AsyncDo terminates, as its documentation says. If there is no memory to make a strand, Asio
// itself crashes. So the contexts have their strands beforehand, and awaitables name an executor
// that needs none. Memory that Asio takes from aligned_alloc instead of operator new does not fail.

#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <memory>
#include <optional>
#include <singleflight/asio.hpp>
#if __has_include(<asio/deferred.hpp>)
#include <asio/deferred.hpp>
#else
#include <asio/experimental/deferred.hpp>
#define ASIO_DEFERRED_IS_EXPERIMENTAL
#endif

#include "faults/scenarios.hpp"

using namespace test;
#if defined(ASIO_DEFERRED_IS_EXPERIMENTAL)
using asio::experimental::deferred;
#else
using asio::deferred;
#endif
using singleflight::AsyncDo;
using singleflight::Result;
using singleflight::Stats;

namespace {

// The allocator of a handler's operation. Once the caller has joined, the memory is for the
// completion, and its allocation never fails.
template <class T>
struct HandlerMemory {
  using value_type = T;

  explicit HandlerMemory(const FaultyGroup& its_group) noexcept
      : group(&its_group), joined_before(Joined()) {}
  template <class U>
  // NOLINTNEXTLINE(google-explicit-constructor): an allocator converts implicitly
  HandlerMemory(const HandlerMemory<U>& other) noexcept
      : group(other.group), joined_before(other.joined_before) {}
  bool operator==(const HandlerMemory&) const = default;

  T* allocate(std::size_t count) const {
    const ScopedPlan arm(Joined() == joined_before ? armed_plan : nullptr);
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, std::size_t count) const noexcept {
    std::allocator<T>().deallocate(memory, count);
  }
  std::uint64_t Joined() const {
    const Stats stats = group->GetStats();
    return stats.executions + stats.followers;
  }

  const FaultyGroup* group;
  std::uint64_t joined_before;
};

using IoExecutor = asio::io_context::executor_type;

// A caller's own context, and the outcome that the caller gets.
struct OwnContext {
  explicit OwnContext(const FaultyGroup& group) : memory(group) {
    const ScopedPlan none(nullptr);
    io.emplace();
    singleflight::detail::standalone_asio::ContextService::UsersOf(io->get_executor());
  }
  ~OwnContext() {
    const ScopedPlan none(nullptr);
    io.reset();
  }

  void Tell(std::exception_ptr its_error, const Result<FaultyValue>* result) {
    ++told;
    error = std::move(its_error);
    if (error == nullptr) heard = HeardOf(*result);
  }
  auto Handler() {
    return asio::bind_allocator(
        memory, asio::bind_executor(
                    *io, [this](std::exception_ptr its_error, const Result<FaultyValue>& result) {
                      Tell(std::move(its_error), &result);
                    }));
  }

  Heard Run() {
    io->run();
    if (error != nullptr) std::rethrow_exception(error);
    return heard;
  }

  const HandlerMemory<char> memory;
  std::optional<asio::io_context> io;
  Heard heard;
  std::exception_ptr error;
  int told = 0;
};

template <class Fn>
Heard AskByHandler(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  OwnContext context(group);
  AsyncDo(group, key, asio::bind_executor(*context.io, Fn(control)), context.Handler());
  return context.Run();
}

Heard AskCancellably(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  asio::cancellation_signal cancel;
  OwnContext context(group);
  AsyncDo(group, key, FaultyStoppableFn(control),
          asio::bind_cancellation_slot(cancel.slot(), context.Handler()));
  return context.Run();
}

Heard AskDeferred(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  OwnContext context(group);
  auto later = AsyncDo(group, key, FaultyFn(control), deferred);
  std::move(later)(context.Handler());
  return context.Run();
}

struct AwaitableFn : FaultyFn {
  using FaultyFn::FaultyFn;
  using Awaitable = asio::awaitable<FaultyValue, IoExecutor>;
  Awaitable operator()() const { return Work(control()); }
  static Awaitable Work(FnControl& control) {
    control.Run();
    co_return FaultyValue(control.number);
  }
};

template <class Fn>
asio::awaitable<void, IoExecutor> Ask(FaultyGroup& group, const FaultyKey& key, const Fn& fn,
                                      OwnContext& context) {
  try {
    auto token = asio::bind_allocator(context.memory, asio::use_awaitable_t<IoExecutor>());
    const auto result = co_await AsyncDo(group, key, fn, token);
    context.Tell(nullptr, &result);
  } catch (...) {
    context.Tell(std::current_exception(), nullptr);
  }
}

template <class Fn>
Heard AskInCoroutine(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  OwnContext context(group);
  const auto fn = asio::bind_executor(*context.io, Fn(control));
  asio::co_spawn(*context.io, Ask(group, key, fn, context), [&context](std::exception_ptr error) {
    if (error != nullptr) context.Tell(std::move(error), nullptr);
  });
  return context.Run();
}

constexpr Way kWays[] = {
    {"AsyncDo", AskByHandler<FaultyFn>},
    {"AsyncDo awaitable", AskByHandler<AwaitableFn>, true},
    {"AsyncDo cancellable", AskCancellably},
    {"AsyncDo deferred", AskDeferred},
    {"AsyncDo use_awaitable", AskInCoroutine<FaultyFn>, true},
    {"AsyncDo use_awaitable awaitable", AskInCoroutine<AwaitableFn>, true},
};

// A thread leads a call and lands it while two Asio operations wait for it.
std::string Land(Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kOwn);
  FnControl never(kNever);
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread leader([&] {
    heard = Hear(&plan, [&] { return HeardOf(group.Do(key, FaultyFn(control))); });
    ended = true;
  });
  Await([&] { return control.runs == 1 || ended; });
  Failures problems;
  if (control.runs == 1) {
    OwnContext by_handler(group);
    OwnContext in_coroutine(group);
    const FaultyFn fn(never);
    AsyncDo(group, key, FaultyFn(never), by_handler.Handler());
    asio::co_spawn(*in_coroutine.io, Ask(group, key, fn, in_coroutine), asio::detached);
    in_coroutine.io->poll();
    AwaitCallers(group, key, 3);
    control.released = true;
    const Heard heards[] = {Hear(nullptr, [&] { return by_handler.Run(); }),
                            Hear(nullptr, [&] { return in_coroutine.Run(); })};
    leader.join();
    for (const Heard& told : heards) problems.Equal(told, heard, "an operation got");
    problems.Equal(by_handler.told + in_coroutine.told, 2, "completions of the two operations");
  }
  if (leader.joinable()) leader.join();
  CheckFaulty(problems, plan, heard, Heard::Value(kOwn));
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

// An operation is cancelled and leaves its call, which continues.
std::string Cancel(Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl never(kNever);
  Failures problems;
  {
    LedCall led(group, key);
    const Heard heard = Hear(&plan, [&] {
      asio::cancellation_signal cancel;
      OwnContext context(group);
      AsyncDo(group, key, FaultyFn(never),
              asio::bind_cancellation_slot(cancel.slot(), context.Handler()));
      cancel.emit(asio::cancellation_type::terminal);
      return context.Run();
    });
    CheckFaulty(problems, plan, heard, Heard::Error(std::errc::operation_canceled));
    problems.Equal(group.Callers(key), 1u, "callers still on the call");
    led.Land();
    problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the first caller got");
  }
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

const AddScenarios asio_ways([] {
  AddWays(kWays);
  Scenarios().push_back({"AsyncDo, cancelled", Cancel});
  Scenarios().push_back({"AsyncDo, two follow a thread", Land});
});

}  // namespace
