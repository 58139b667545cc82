// SPDX-License-Identifier: MIT

// Promises 5 and 7 for Batcher: the ways to ask one. See ways.test.cpp.

#include <functional>
#include <map>
#include <singleflight/batcher.hpp>
#include <singleflight/many.hpp>
#include <span>
#include <vector>

#include "scenarios.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::OnFailure;

namespace {

std::vector<FaultyValue> Load(const FaultyFn& fn, std::span<const FaultyKey> keys) {
  fn.control().Run();
  std::vector<FaultyValue> values;
  values.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) values.emplace_back(fn.control().number);
  return values;
}

Heard AskByDo(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [fn = FaultyFn(control)](std::span<const FaultyKey> keys) {
    return Load(fn, keys);
  };
  Batcher batcher(group, load);
  return HeardOf(batcher.Do(key));
}

Heard AskByDoWithRetry(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [&control](std::span<const FaultyKey> keys) {
    return Load(FaultyFn(control), keys);
  };
  Batcher batcher(group, load);
  return HeardOf(batcher.Do(key, {.timeout = 1h, .on_failure = OnFailure::kRetry}));
}

// The executor runs the task at once, because the batch is full.
Heard AskInline(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [&control](std::span<const FaultyKey> keys, const StopToken&) {
    return Load(FaultyFn(control), keys);
  };
  Batcher batcher(group, load, {.max_keys = 1}, [](const auto& task) {
    Pass(Fault::kExecutor);
    task();
    Pass(Fault::kExecutorAfterwards);
  });
  return HeardOf(DoAsync(batcher, key).Get());
}

// The executor queues the task when the first key comes.
Heard AskQueued(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [&control](std::span<const FaultyKey> keys) {
    control.Run();
    std::map<int, FaultyValue> by_id;
    for (const FaultyKey& asked : keys) by_id.try_emplace(asked.id, control.number);
    std::vector<FaultyValue> values;
    values.reserve(keys.size());
    for (const FaultyKey& asked : keys) values.push_back(std::move(by_id.at(asked.id)));
    return values;
  };
  std::function<void()> queued;
  Batcher batcher(group, load, {.max_delay = 0ms}, [&](auto task) {
    Pass(Fault::kExecutor);
    queued = std::move(task);
    Pass(Fault::kExecutor);
  });
  auto future = DoAsync(batcher, key);
  if (queued) queued();
  return HeardOf(future.Get());
}

Heard AskForMany(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [&control](std::span<const FaultyKey> keys) {
    return Load(FaultyFn(control), keys);
  };
  Batcher batcher(group, load, {.max_keys = 1});
  return HeardOf(DoMany(batcher, std::span(&key, 1)).front().result());
}

Heard AskForManyLater(FaultyGroup& group, const FaultyKey& key, FnControl& control) {
  const auto load = [&control](std::span<const FaultyKey> keys, const StopToken&) {
    return Load(FaultyFn(control), keys);
  };
  Batcher batcher(group, load);
  auto futures = DoManyAsync(batcher, std::span(&key, 1));
  batcher.Flush();
  return HeardOf(futures.front().Get());
}

constexpr Way kWays[] = {
    {"Batcher Do", AskByDo},        {"Batcher Do with retry", AskByDoWithRetry},
    {"Batcher DoAsync", AskInline}, {"Batcher DoAsync queued", AskQueued},
    {"Batcher DoMany", AskForMany}, {"Batcher DoManyAsync", AskForManyLater},
};

const AddScenarios batcher_ways([] { AddWays(kWays); });

}  // namespace
