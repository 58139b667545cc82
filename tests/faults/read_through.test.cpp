// SPDX-License-Identifier: MIT

// ReadThrough: every operation that can fail fails in turn, including the cache's. faults.test.cpp
// runs the scenarios.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "scenarios.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;

namespace {

constexpr int kCached = 5;

// A cache whose operations fail before they have done anything.
struct FaultyCache {
  std::optional<FaultyValue> Get(const FaultyKey& key) {
    Pass(Fault::kCache);
    const ScopedPlan none(nullptr);
    const auto found = entries.find(key.id);
    return found != entries.end() ? std::optional(FaultyValue(found->second)) : std::nullopt;
  }
  void Put(const FaultyKey& key, const FaultyValue& value) {
    Pass(Fault::kCache);
    const ScopedPlan none(nullptr);
    entries[key.id] = value.number;
  }
  void Erase(const FaultyKey& key) {
    Pass(Fault::kFn);  // not kCache: Invalidate cannot do without Erase
    const ScopedPlan none(nullptr);
    entries.erase(key.id);
  }
  std::map<int, int> entries;
};

using Values =
    singleflight::ReadThrough<FaultyKey, FaultyValue, FaultyCache&, FaultyHash, FaultyEqual>;

const auto run_inline = [](const auto& task) {
  Pass(Fault::kExecutor);
  task();
  Pass(Fault::kExecutorAfterwards);
};

struct Way {
  const char* name;
  Heard (*ask)(Values& values, const FaultyKey& key, FnControl& control);
};

template <class G>
Routine AskInCoroutine(G& values, const FaultyKey& key, const FaultyFn& fn, Heard& heard,
                       std::exception_ptr& error) {
  try {
    heard = HeardOf(co_await CoDo(values, key, fn));
  } catch (...) {
    error = std::current_exception();
  }
}

const Way kWays[] = {
    {"Get", [](Values& values, const FaultyKey& key,
               FnControl& control) { return HeardOf(values.Get(key, FaultyFn(control))); }},
    {"Get with a timeout",
     [](Values& values, const FaultyKey& key, FnControl& control) {
       return HeardOf(values.Get(key, FaultyStoppableFn(control), {.timeout = 1h}));
     }},
    {"Refresh", [](Values& values, const FaultyKey& key,
                   FnControl& control) { return HeardOf(values.Refresh(key, FaultyFn(control))); }},
    {"DoAsync",
     [](Values& values, const FaultyKey& key, FnControl& control) {
       return HeardOf(DoAsync(values, key, FaultyFn(control), run_inline).Get());
     }},
    {"CoDo",
     [](Values& values, const FaultyKey& key, FnControl& control) {
       Heard heard;
       std::exception_ptr error;
       const FaultyFn fn(control);
       const Routine routine = AskInCoroutine(values, key, fn, heard, error);
       if (error != nullptr) std::rethrow_exception(error);
       return heard;
     }},
    {"DoMany",
     [](Values& values, const FaultyKey& key, FnControl& control) {
       const auto fn = [&](std::span<const FaultyKey> keys) {
         control.Run();
         std::vector<FaultyValue> loaded;
         loaded.reserve(keys.size());
         for (std::size_t i = 0; i < keys.size(); ++i) loaded.emplace_back(control.number);
         return loaded;
       };
       return HeardOf(DoMany(values, std::span(&key, 1), fn).front().result());
     }},
};

// One caller asks alone, with or without a value in the cache. It gets the value or its own
// failure. The cache then has what it had or what was loaded, and the next caller gets that. What
// it had is erased if the cache fails to put what was loaded.
std::string Run(const Way& way, bool cached, Plan& plan) {
  Failures problems;
  FaultyCache cache;
  Values values(cache);
  const FaultyKey key(1);
  if (cached) cache.entries[key.id] = kCached;
  FnControl own(kOwn), again(kAgain);
  own.released = again.released = true;
  const Heard heard = Hear(&plan, [&] { return way.ask(values, key, own); });
  const bool loads = own.runs > 0;
  // A value that cannot be moved out of the cache is as good as none.
  const bool misses = cached && loads && plan.first == Fault::kValue;
  if (!misses || !(heard == Heard::Value(kOwn))) {
    CheckFaulty(problems, plan, heard, Heard::Value(loads ? kOwn : kCached));
  }
  problems.Equal(values.Callers(key), 0u, "callers still on the call");
  problems.Equal(values.GetStats().calls.in_flight, 0u, "calls in flight");
  const int in_cache = cache.entries.contains(key.id) ? cache.entries[key.id] : 0;
  const bool is_erased = loads && in_cache == 0 && values.GetStats().put_failures > 0;
  problems.True(in_cache == (cached ? kCached : 0) || (loads && in_cache == kOwn) || is_erased,
                "the cache has what it had, or what was loaded");
  const Heard next = Hear(nullptr, [&] { return HeardOf(values.Get(key, FaultyFn(again))); });
  problems.Equal(next, Heard::Value(in_cache != 0 ? in_cache : kAgain), "the next caller got");
  return problems.Text();
}

// Invalidates while a load is in flight. Whatever fails, nobody hangs. If nothing fails, or only
// Erase does, the load does not put its value.
std::string RunInvalidate(Plan& plan) {
  Failures problems;
  FaultyCache cache;
  Values values(cache);
  const FaultyKey key(1);
  std::optional<Values::Lead> lead;
  auto future = values.Join(key, [&](Values::Lead its_lead) { lead = its_lead; });
  cache.entries[key.id] = kCached;
  const Heard heard = Hear(&plan, [&] {
    values.Invalidate(key);
    return Heard::Value(0);
  });
  CheckFaulty(problems, plan, heard, Heard::Value(0));
  const bool forgotten = values.Callers(key) == 0;
  problems.True(forgotten || plan.first == Fault::kHash || plan.first == Fault::kEqual ||
                    plan.and_all_later,  // Erase fails first, and then the hash
                "the call is forgotten");
  lead->Succeed(FaultyValue(kOwn));
  problems.Equal(Hear(nullptr, [&] { return HeardOf(future.Get()); }), Heard::Value(kOwn),
                 "the caller on the call got");
  problems.Equal(cache.entries.contains(key.id) && cache.entries[key.id] == kOwn, !forgotten,
                 "the load's value was put");
  return problems.Text();
}

const AddScenarios read_through([] {
  for (const Way& way : kWays) {
    for (const bool cached : {false, true}) {
      Scenarios().push_back({std::string("ReadThrough, ") + way.name + (cached ? ", cached" : ""),
                             [&way, cached](Plan& plan) { return Run(way, cached, plan); }});
    }
  }
  Scenarios().push_back({"ReadThrough, Invalidate", RunInvalidate});
});

}  // namespace
