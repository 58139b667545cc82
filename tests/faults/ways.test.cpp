// SPDX-License-Identifier: MIT

// Promises 5 and 7: these are the ways to ask. callers.test.cpp makes scenarios of them, and
// faults.test.cpp makes every operation of the caller fail in turn.

#include <pthread.h>

#include <concepts>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scenarios.hpp"

using namespace test;
using singleflight::CallOptions;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::OnFailure;

namespace {

// While it lives, no thread can be started, because the default stack is too large.
struct ThreadStartFails {
  ThreadStartFails() {
    pthread_getattr_default_np(&usual);
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, std::size_t{1} << 46);  // more address space than is left
    pthread_setattr_default_np(&huge);
    pthread_attr_destroy(&huge);
  }
  ~ThreadStartFails() {
    pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&usual);
  }
  pthread_attr_t usual;
};

Heard AskByDo(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  return HeardOf(group.Do(key, FaultyFn(control)));
}

Heard AskWithTimeout(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  return HeardOf(group.Do(key, FaultyFn(control), {.timeout = 1h}));
}

Heard AskWithStop(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  StopSource stop(kNoStopState);
  {
    const ScopedPlan none(nullptr);
    stop = StopSource();
  }
  return HeardOf(group.Do(key, FaultyStoppableFn(control), {.stop = stop.get_token()}));
}

// Asks through an executor that runs its task at once.
Heard AskInline(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto executor = [](const auto& task) {
    Pass(Fault::kExecutor);
    task();
    Pass(Fault::kExecutorAfterwards);
  };
  return HeardOf(DoAsync(group, key, FaultyFn(control), executor).Get());
}

// Asks through an executor that queues its task.
Heard AskQueued(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  std::function<void()> queued;
  const auto executor = [&](auto task) {
    Pass(Fault::kExecutor);
    queued = std::move(task);
    Pass(Fault::kExecutor);
  };
  auto future = DoAsync(group, key, FaultyStoppableFn(control), executor);
  if (queued) queued();
  return HeardOf(future.Get());
}

Heard AskOnNewThread(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto executor = [](auto task) {
    std::optional<ThreadStartFails> no_threads;
    if (Fails(Fault::kThread)) no_threads.emplace();
    singleflight::NewThread()(std::move(task));
  };
  return HeardOf(DoAsync(group, key, FaultyFn(control), executor).Get());
}

Heard AskToShare(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto executor = [](const auto& task) { task(); };
  return HeardOf(DoAsync(group, key, FaultyFn(control), executor).Share().Get());
}

template <class Fn>
Heard AskByCoDo(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  Heard heard;
  std::exception_ptr error;
  StopSource stop(kNoStopState);
  if constexpr (std::invocable<Fn, StopToken>) {
    const ScopedPlan none(nullptr);
    stop = StopSource();
  }
  const StopToken token = stop.get_token();
  ManualResumer own_thread;
  const Fn fn(control);
  const Routine routine =
      AskInCoroutine(group, key, fn, token, own_thread.ResumeOn(), heard, error);
  own_thread.RunUntilDone(routine);
  if (error != nullptr) std::rethrow_exception(error);
  return heard;
}

struct LazyFn : FaultyFn {
  using FaultyFn::FaultyFn;
  Task<FaultyValue> operator()() const { return Work(control()); }
  static Task<FaultyValue> Work(FnControl& control) {
    control.Run();
    co_return FaultyValue(control.number);
  }
};

std::vector<FaultyValue> WorkOfBatch(FnControl& control, std::span<const FaultyKey> keys) {
  control.Run();
  std::vector<FaultyValue> values;
  values.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) values.emplace_back(control.number);
  return values;
}

Heard AskInBatch(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto fn = [&](std::span<const FaultyKey> keys) { return WorkOfBatch(control, keys); };
  return HeardOf(DoMany(group, std::span(&key, 1), fn).front().result());
}

Heard AskInBatchWithOptions(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  StopSource stop(kNoStopState);
  {
    const ScopedPlan none(nullptr);
    stop = StopSource();
  }
  const auto fn = [&](std::span<const FaultyKey> keys, StopToken) {
    return WorkOfBatch(control, keys);
  };
  const CallOptions options{.timeout = 1h, .stop = stop.get_token()};
  return HeardOf(DoMany(group, std::span(&key, 1), fn, options).front().result());
}

// Takes the value out of the result. It is moved if this caller is alone, else copied.
Heard AskForValue(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  auto result = group.Do(key, FaultyFn(control));
  Heard heard = HeardOf(result);
  heard.number = std::move(result).value().number;
  return heard;
}

Heard AskWithRetry(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  return HeardOf(group.Do(key, FaultyFn(control), {.on_failure = OnFailure::kRetry}));
}

// Asks through Join, the extension point.
Heard AskByJoin(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  struct FlagWaiter final : FaultyGroup::Waiter {
    ~FlagWaiter() { this->Detach(); }
    void OnLanded() noexcept override { landed = true; }
    std::atomic<bool> landed = false;
  } waiter;
  group.Join(key, waiter, [&](FaultyGroup::Lead lead) { lead.Run(FaultyFn(control)); });
  {
    const ScopedPlan none(nullptr);
    Await([&] { return waiter.landed.load(); });
  }
  return HeardOf(waiter.TakeResult());
}

Heard AskInBatchWithMap(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  using Map = std::unordered_map<FaultyKey, FaultyValue, FaultyHash, FaultyEqual>;
  const auto fn = [&](std::span<const FaultyKey> keys) {
    control.Run();
    Map map;
    for (const FaultyKey& asked : keys) map.try_emplace(asked, control.number);
    return map;
  };
  return HeardOf(DoMany(group, std::span(&key, 1), fn).front().result());
}

constexpr Way kWays[] = {
    {"Do", AskByDo},
    {"Do and value", AskForValue},
    {"Do with retry", AskWithRetry},
    {"Join", AskByJoin},
    {"DoMany with map", AskInBatchWithMap},
    {"Do with timeout", AskWithTimeout},
    {"Do with stop", AskWithStop},
    {"DoAsync", AskInline},
    {"DoAsync queued", AskQueued},
    {"DoAsync on a new thread", AskOnNewThread},
    {"DoAsync Share", AskToShare},
    {"CoDo", AskByCoDo<FaultyFn>},
    {"CoDo with stop", AskByCoDo<FaultyStoppableFn>},
    {"CoDo awaitable", AskByCoDo<LazyFn>},
    {"DoMany", AskInBatch},
    {"DoMany with options", AskInBatchWithOptions},
};

const AddScenarios std_ways([] { AddWays(kWays); });

}  // namespace
