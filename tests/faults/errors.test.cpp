// SPDX-License-Identifier: MIT

// Promise 7: most of these callers get no result, but one of the library's errors. Whatever fails
// on the way there fails only that caller. faults.test.cpp runs the scenarios.

#include <optional>
#include <span>
#include <vector>

#include "scenarios.hpp"

using namespace test;
using singleflight::CallOptions;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::GroupOptions;
using singleflight::OnFailure;
using singleflight::Stats;

namespace {

using Ask = Heard (*)(FaultyGroup&, const FaultyKey&, FnControl&, CallOptions);

Heard ByDo(FaultyGroup& group, const FaultyKey& key, FnControl& control, CallOptions options) {
  return HeardOf(group.Do(key, FaultyFn(control), options));
}

Heard InBatch(FaultyGroup& group, const FaultyKey& key, FnControl& control, CallOptions options) {
  const auto fn = [&](std::span<const FaultyKey> keys) {
    std::vector<FaultyValue> values;
    values.reserve(keys.size());
    control.Run();
    for (std::size_t i = 0; i < keys.size(); ++i) values.emplace_back(control.number);
    return values;
  };
  return HeardOf(DoMany(group, std::span(&key, 1), fn, options).front().result());
}

Heard InCoroutine(FaultyGroup& group, const FaultyKey& key, FnControl& control,
                  CallOptions options) {
  Heard heard;
  std::exception_ptr error;
  ManualResumer own_thread;
  const FaultyFn fn(control);
  const Routine routine =
      AskInCoroutine(group, key, fn, options.stop, own_thread.ResumeOn(), heard, error);
  own_thread.RunUntilDone(routine);
  if (error != nullptr) std::rethrow_exception(error);
  return heard;
}

Heard ByFuture(FaultyGroup& group, const FaultyKey& key, FnControl& control, CallOptions) {
  return HeardOf(DoAsync(group, key, FaultyFn(control), [](const auto& task) { task(); }).Get());
}

void Check(Failures& problems, FaultyGroup& group, const FaultyKey& key, const Plan& plan,
           const Heard& heard, const Heard& expected) {
  CheckFaulty(problems, plan, heard, expected);
  CheckKeyWorksAgain(problems, group, key);
}

// A follower whose leader failed asks once more, and leads.
template <Ask kAsk>
std::string Retry(Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  std::optional<FaultyGroup::Lead> lead;
  auto failing = group.Join(key, [&](FaultyGroup::Lead its_lead) { lead = std::move(its_lead); });
  FnControl control(kOwn);
  control.released = true;
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    const CallOptions options{.on_failure = OnFailure::kRetry};
    heard = Hear(&plan, [&] { return kAsk(group, key, control, options); });
    ended = true;
  });
  Await([&] { return ended || group.Callers(key) == 2; });
  lead->Fail(std::make_exception_ptr(Injected()));
  caller.join();
  Failures problems;
  problems.Equal(Hear(nullptr, [&] { return HeardOf(failing.Get()); }), Heard::Of(Fault::kFn),
                 "the first caller got");
  lead.reset();
  Check(problems, group, key, plan, heard, Heard::Value(kOwn));
  return problems.Text();
}

// A follower leaves its call, which lands only after the follower has got its error.
template <Ask kAsk>
std::string Leave(Plan& plan, const CallOptions& options, std::errc error,
                  StopSource stop = StopSource(kNoStopState)) {
  FaultyGroup group;
  const FaultyKey key(1);
  LedCall led(group, key);
  FnControl control(kNever);
  control.released = true;
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    heard = Hear(&plan, [&] { return kAsk(group, key, control, options); });
    ended = true;
  });
  Await([&] { return ended || group.Callers(key) == 2; });
  stop.request_stop();
  caller.join();
  Failures problems;
  problems.Equal(group.Callers(key), 1u, "callers that have stayed");
  led.Land();
  problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the first caller got");
  problems.Equal(control.runs, 0, "runs of the follower's fn");
  const Stats stats = group.GetStats();
  problems.Equal(stats.left, stats.followers, "callers that left");
  Check(problems, group, key, plan, heard, Heard::Error(error));
  return problems.Text();
}

template <Ask kAsk>
std::string TimeOut(Plan& plan) {
  return Leave<kAsk>(plan, {.timeout = 1ms}, std::errc::timed_out);
}
template <Ask kAsk>
std::string TimeOutAtOnce(Plan& plan) {
  return Leave<kAsk>(plan, {.timeout = 0s}, std::errc::timed_out);
}
template <Ask kAsk>
std::string Stop(Plan& plan) {
  const StopSource stop;
  return Leave<kAsk>(plan, {.stop = stop.get_token()}, std::errc::operation_canceled, stop);
}
template <Ask kAsk>
std::string StopBefore(Plan& plan) {
  StopSource stop;
  stop.request_stop();
  return Leave<kAsk>(plan, {.stop = stop.get_token()}, std::errc::operation_canceled);
}

// A leader asks for its own key.
template <Ask kAsk>
std::string DeadlockWith(Plan& plan, CallOptions options) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kNever);
  control.released = true;
  Heard heard;
  const Heard led = Hear(nullptr, [&] {
    return HeardOf(group.Do(key, [&] {
      heard = Hear(&plan, [&] { return kAsk(group, key, control, options); });
      return FaultyValue(kOthers);
    }));
  });
  Failures problems;
  problems.Equal(led, Heard::Value(kOthers), "the leader got");
  problems.Equal(control.runs, 0, "runs of the follower's fn");
  Check(problems, group, key, plan, heard, Heard::Error(std::errc::resource_deadlock_would_occur));
  return problems.Text();
}
template <Ask kAsk>
std::string Deadlock(Plan& plan) {
  return DeadlockWith<kAsk>(plan, {});
}
template <Ask kAsk>
std::string DeadlockWithTimeout(Plan& plan) {
  return DeadlockWith<kAsk>(plan, {.timeout = 1h});
}

// A caller exceeds one of the limits.
template <Ask kAsk>
std::string Refuse(Plan& plan, const GroupOptions& limits, int id) {
  FaultyGroup group(limits);
  const FaultyKey in_flight(1);
  const FaultyKey key(id);
  FnControl control(kNever);
  control.released = true;
  Failures problems;
  Heard heard;
  {
    LedCall led(group, in_flight);
    heard = Hear(&plan, [&] { return kAsk(group, key, control, {}); });
    problems.Equal(group.Callers(in_flight), 1u, "callers in flight");
    led.Land();
    problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the first caller got");
  }
  problems.Equal(control.runs, 0, "runs of the refused caller's fn");
  const Stats stats = group.GetStats();
  problems.True(stats.refused == 1 || (heard.Failed() && stats.refused == 0),
                "the caller was refused at most once");
  problems.Equal(stats.executions, 1u, "executions");
  Check(problems, group, key, plan, heard, Heard::Error(std::errc::resource_unavailable_try_again));
  return problems.Text();
}
template <Ask kAsk>
std::string RefuseCaller(Plan& plan) {
  return Refuse<kAsk>(plan, {.max_callers_per_call = 1}, 1);
}
template <Ask kAsk>
std::string RefuseCall(Plan& plan) {
  return Refuse<kAsk>(plan, {.max_calls_in_flight = 1}, 2);
}

// Leads a new call in place of one that is too old.
template <Ask kAsk>
std::string Overtake(Plan& plan) {
  FaultyGroup group({.max_age = 1ns});
  const FaultyKey key(1);
  FnControl control(kOwn);
  control.released = true;
  Failures problems;
  LedCall old(group, key);
  const auto landed = std::chrono::steady_clock::now();
  Await([&] { return std::chrono::steady_clock::now() > landed + 1ns; });
  const Heard heard = Hear(&plan, [&] { return kAsk(group, key, control, {}); });
  old.Land();
  problems.Equal(old.TakeResult(), Heard::Value(kOthers), "the old call's caller got");
  Check(problems, group, key, plan, heard, Heard::Value(kOwn));
  return problems.Text();
}

// The executor drops its task.
std::string Drop(Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kOwn);
  const Heard heard = Hear(&plan, [&] {
    return HeardOf(DoAsync(group, key, FaultyFn(control), [](const auto&) {}).Get());
  });
  Failures problems;
  problems.Equal(control.runs, 0, "runs of fn");
  Check(problems, group, key, plan, heard, Heard::Error(std::errc::owner_dead));
  return problems.Text();
}

// A batch asks for a key that it leads, a key that it follows, and the first key again.
std::string Mix(Plan& plan) {
  FaultyGroup group;
  const std::vector<FaultyKey> keys{FaultyKey(1), FaultyKey(2), FaultyKey(1)};
  LedCall led(group, keys[1]);
  singleflight::Future<FaultyValue> follower;
  FnControl control(kOwn);
  FnControl never(kNever);
  const auto fn = [&](std::span<const FaultyKey> missing) {
    std::vector<FaultyValue> values;
    values.reserve(missing.size());
    control.Run();
    for (std::size_t i = 0; i < missing.size(); ++i) values.emplace_back(control.number);
    return values;
  };
  Heard places[3];
  Heard all;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    all = Hear(&plan, [&] {
      const auto results = DoMany(group, keys, fn);
      for (std::size_t i = 0; i < 3; ++i) {
        places[i] = Hear(armed_plan, [&] { return HeardOf(results[i].result()); });
      }
      return Heard::Value(0);
    });
    ended = true;
  });
  Await([&] {  // the batch asks for both keys in turn and then runs fn
    const bool only_follows = group.Callers(keys[1]) == 2 && group.Callers(keys[0]) == 0;
    return ended || control.runs == 1 || only_follows;
  });
  if (control.runs == 1) follower = DoAsync(group, keys[0], FaultyFn(never));
  control.released = true;
  led.Land();
  caller.join();
  Failures problems;
  problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the leader of the other key got");
  problems.True(places[0] == places[2], "one key has one outcome");
  const bool own_is_well = plan.first == Fault::kNone || places[0] == Heard::Value(kOwn);
  if (all.Failed()) {  // the whole batch fails only before it has asked for any key
    CheckFaulty(problems, plan, all, Heard());
    problems.Equal(group.GetStats().executions, 1u, "executions");
  } else {
    const bool followed = places[1] == Heard::Value(kOthers);
    CheckFaulty(problems, plan, followed ? places[0] : places[1],
                followed ? Heard::Value(kOwn) : Heard::Value(kOthers));
    problems.True(followed || own_is_well || plan.and_all_later, "one fault fails one key");
  }
  if (follower.valid()) {
    const Heard heard = Hear(nullptr, [&] { return HeardOf(follower.Get()); });
    problems.True(all.Failed() ? heard == Heard::Value(kOwn) || heard == Heard::Of(plan.first)
                               : heard == places[0],
                  "the follower of the key that the batch led got the same outcome");
    problems.Equal(never.runs, 0, "runs of the follower's fn");
  }
  CheckKeyWorksAgain(problems, group, keys[0]);
  CheckKeyWorksAgain(problems, group, keys[1]);
  return problems.Text();
}

// A batch leads two keys alone, and each place has its own error.
std::string Two(Plan& plan) {
  FaultyGroup group;
  const std::vector<FaultyKey> keys{FaultyKey(1), FaultyKey(2)};
  bool fn_has_ended = false;
  const auto fn = [&](std::span<const FaultyKey> missing) {
    std::vector<FaultyValue> values;
    values.reserve(missing.size());
    Pass(Fault::kFn);
    for (std::size_t i = 0; i < missing.size(); ++i) values.emplace_back(kOwn);
    fn_has_ended = true;
    return values;
  };
  Heard places[2];
  const Heard all = Hear(&plan, [&] {
    const auto results = DoMany(group, keys, fn);
    const ScopedPlan none(nullptr);
    for (std::size_t i = 0; i < 2; ++i) {
      places[i] = Hear(nullptr, [&] { return HeardOf(results[i].result()); });
    }
    return Heard::Value(0);
  });
  Failures problems;
  if (all.Failed()) {  // the whole batch fails only before it has asked for any key
    CheckFaulty(problems, plan, all, Heard());
    problems.Equal(group.GetStats().executions, 0u, "executions");
  } else if (!plan.and_all_later) {
    const int failed = places[0].Failed() + places[1].Failed();
    problems.Equal(failed,
                   plan.first == Fault::kNone ? 0
                   : fn_has_ended             ? 1
                                              : 2,
                   "keys that failed");
    for (const Heard& place : places) {
      problems.True(place == (place.Failed() ? Heard::Of(plan.first) : Heard::Value(kOwn)),
                    "a place got the value or the injected failure");
    }
  }
  CheckKeyWorksAgain(problems, group, keys[0]);
  CheckKeyWorksAgain(problems, group, keys[1]);
  return problems.Text();
}

// Calls the members that need no caller.
std::string Look(Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  Failures problems;
  {
    LedCall led(group, key);
    const Heard heard = Hear(&plan, [&] {
      return Heard::Value(group.Callers(key) == 1 && group.Forget(key) && group.Callers(key) == 0 &&
                          group.ForgetUnshared(key));
    });
    CheckFaulty(problems, plan, heard, Heard::Value(true));
    led.Land();
    problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the caller got");
  }
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

const AddScenarios errors([] {
  const Scenario scenarios[] = {
      {"Do, retries", Retry<ByDo>},
      {"DoMany, retries", Retry<InBatch>},
      {"Do, times out", TimeOut<ByDo>},
      {"Do, times out at once", TimeOutAtOnce<ByDo>},
      {"DoMany, times out", TimeOut<InBatch>},
      {"Do, stopped", Stop<ByDo>},
      {"DoMany, stopped", Stop<InBatch>},
      {"CoDo, stopped", Stop<InCoroutine>},
      {"Do, stopped before", StopBefore<ByDo>},
      {"DoMany, stopped before", StopBefore<InBatch>},
      {"CoDo, stopped before", StopBefore<InCoroutine>},
      {"Do, deadlock", Deadlock<ByDo>},
      {"Do with timeout, deadlock", DeadlockWithTimeout<ByDo>},
      {"DoMany, deadlock", Deadlock<InBatch>},
      {"Future, deadlock", Deadlock<ByFuture>},
      {"Do, one caller too many", RefuseCaller<ByDo>},
      {"DoMany, one caller too many", RefuseCaller<InBatch>},
      {"CoDo, one caller too many", RefuseCaller<InCoroutine>},
      {"DoAsync, one caller too many", RefuseCaller<ByFuture>},
      {"Do, one call too many", RefuseCall<ByDo>},
      {"DoMany, one call too many", RefuseCall<InBatch>},
      {"CoDo, one call too many", RefuseCall<InCoroutine>},
      {"DoAsync, one call too many", RefuseCall<ByFuture>},
      {"Do, the call is too old", Overtake<ByDo>},
      {"DoAsync, the call is too old", Overtake<ByFuture>},
      {"DoMany, the call is too old", Overtake<InBatch>},
      {"DoAsync, task dropped", Drop},
      {"DoMany, leads and follows", Mix},
      {"DoMany, two keys alone", Two},
      {"Callers and Forget", Look},
  };
  for (const Scenario& scenario : scenarios) Scenarios().push_back(scenario);
});

}  // namespace
