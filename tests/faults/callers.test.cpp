// SPDX-License-Identifier: MIT

// Promises 5 and 7: whichever way a caller asks, it leads alone, leads with followers of every
// kind, and follows. faults.test.cpp makes every operation of the caller fail in turn.

#include <atomic>
#include <exception>
#include <iterator>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "scenarios.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::Role;
using singleflight::Stats;

namespace {

// ---- Well-behaved callers

// A follower of each kind.
class Followers {
 public:
  Followers(FaultyGroup& group, const FaultyKey& key, Plan& plan) : waiter_(plan) {
    fn_.released = true;
    std::size_t callers = group.Callers(key);
    const auto await_next = [&] { AwaitCallers(group, key, ++callers); };
    const auto ask_on_thread = [&](std::size_t which, auto ask) {
      threads_.emplace_back([this, which, ask] { heard_[which] = Hear(nullptr, ask); });
      await_next();
    };
    group.Join(key, waiter_, [](FaultyGroup::Lead) {});  // is notified first
    await_next();
    ask_on_thread(0, [&group, &key, this] { return HeardOf(group.Do(key, FaultyFn(fn_))); });
    ask_on_thread(
        1, [&group, &key, this] { return HeardOf(group.Do(key, FaultyFn(fn_), {.timeout = 1h})); });
    ask_on_thread(2, [&group, &key] {
      const auto fn = [](std::span<const FaultyKey>) { return std::vector{FaultyValue(kNever)}; };
      return HeardOf(singleflight::DoMany(group, std::span(&key, 1), fn).front().result());
    });
    future_ = DoAsync(group, key, FaultyFn(fn_));
    await_next();
    routine_ = AskInCoroutine(
        group, key, FaultyFn(fn_), StopToken(),
        [this](std::coroutine_handle<> handle) {
          const ScopedPlan none(nullptr);
          handle.resume();
          resumed_ = true;
        },
        heard_[3], error_);
    await_next();
  }

  std::vector<Heard> Heards() {
    threads_.clear();
    Await([this] { return waiter_.plan.landed && resumed_; });
    if (error_ != nullptr) heard_[3] = HeardOf(error_);
    heard_[4] = Hear(nullptr, [&] { return HeardOf(future_.Get()); });
    heard_[5] = Hear(nullptr, [&] { return HeardOf(waiter_.TakeResult()); });
    return {std::begin(heard_), std::end(heard_)};
  }
  static constexpr std::size_t kCount = 6;

 private:
  struct FirstWaiter final : FaultyGroup::Waiter {
    explicit FirstWaiter(Plan& its_plan) : plan(its_plan) {}
    void OnLanded() noexcept override { plan.landed = true; }
    Plan& plan;
  };

  FnControl fn_{kNever};
  Heard heard_[kCount];
  FirstWaiter waiter_;
  singleflight::Future<FaultyValue> future_;
  std::exception_ptr error_;
  Routine routine_;
  std::atomic<bool> resumed_ = false;
  std::vector<JoiningThread> threads_;
};

// ---- Scenarios

std::string LeadAlone(const Way& way, Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kOwn);
  control.released = true;
  Failures problems;
  {
    LedCall other(group, FaultyKey(2));  // shares the key's bucket
    const Heard heard = Hear(&plan, [&] { return way.ask(group, key, control); });
    CheckFaulty(problems, plan, heard, Heard::Value(kOwn));
    const Stats stats = group.GetStats();
    problems.Equal(stats.in_flight, 1u, "calls in flight");
    problems.Equal(stats.followers + stats.refused + stats.left, 0u, "callers that did not lead");
    problems.True(stats.failures <= 1 && stats.executions - stats.failures <= 2,
                  "its call is counted at most once");
    problems.True(heard.Failed() || (stats.executions == 2 && stats.failures == 0),
                  "a call that succeeded is counted once");
    problems.True(control.runs == 1 || (heard.Failed() && control.runs == 0),
                  "fn ran at most once");
    other.Land();
  }
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

std::string Lead(const Way& way, Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kOwn);
  Failures problems;
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    heard = Hear(&plan, [&] { return way.ask(group, key, control); });
    ended = true;
  });
  Await([&] { return control.runs == 1 || ended; });
  if (control.runs == 1) {
    Followers followers(group, key, plan);
    control.released = true;
    caller.join();
    const bool call_fails = plan.first != Fault::kNone && !plan.first_came_late;
    for (const Heard& follower : followers.Heards()) {
      problems.Equal(follower, call_fails ? Heard::Of(plan.first) : Heard::Value(kOwn),
                     "a follower got");
      problems.True(follower.Failed() || (follower.role == Role::kFollower && follower.shared),
                    "a follower's result says kFollower and is shared");
    }
    problems.True(heard.Failed() || (heard.role == Role::kLeader && heard.shared),
                  "the leader's result says kLeader and is shared");
    problems.Equal(
        group.GetStats(),
        Stats{.executions = 1, .followers = Followers::kCount, .failures = call_fails ? 1u : 0u},
        "statistics");
  } else {
    caller.join();
    problems.True(heard.Failed(), "the caller failed before its fn ran");
    const Stats stats = group.GetStats();
    problems.True(stats == Stats{} || stats == Stats{.executions = 1, .failures = 1} ||
                      stats == Stats{.executions = 1, .failures = 1, .left = 1},
                  "the call that failed is counted at most once");
  }
  CheckFaulty(problems, plan, heard, Heard::Value(kOwn));
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

// Follows a call that a thread leads, as its first follower.
std::string Follow(const Way& way, Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kNever);
  control.released = true;
  FnControl leads(kOthers);
  Heard led;
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread leader(
      [&] { led = Hear(nullptr, [&] { return HeardOf(group.Do(key, FaultyFn(leads))); }); });
  AwaitCallers(group, key, 1);
  std::thread caller([&] {
    heard = Hear(&plan, [&] { return way.ask(group, key, control); });
    ended = true;
  });
  Await([&] { return ended || group.Callers(key) == 2; });
  Failures problems;
  if (ended) problems.Equal(group.Callers(key), 1u, "callers besides the one that failed");
  leads.released = true;
  caller.join();
  leader.join();
  CheckFaulty(problems, plan, heard, Heard::Value(kOthers));
  problems.Equal(led, Heard::Value(kOthers), "the leader got");
  problems.True(heard.Failed() || (heard.role == Role::kFollower && heard.shared && led.shared),
                "the results are shared, and the follower's says kFollower");
  problems.Equal(control.runs, 0, "runs of the follower's fn");
  const Stats stats = group.GetStats();
  problems.True(stats.executions == 1 && stats.failures + stats.refused == 0, "one call succeeded");
  problems.True(stats.followers == 1 || (heard.Failed() && stats.followers == 0),
                "the follower is counted at most once");
  problems.True(stats.left <= (heard.Failed() ? stats.followers : 0),
                "only a caller that failed may have left");
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

// Follows a call that no thread leads and that has one other caller.
std::string FollowAsync(const Way& way, Plan& plan) {
  FaultyGroup group;
  const FaultyKey key(1);
  FnControl control(kNever);
  control.released = true;
  LedCall led(group, key);
  Heard heard;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    heard = Hear(&plan, [&] { return way.ask(group, key, control); });
    ended = true;
  });
  Await([&] { return ended || group.Callers(key) == 2; });
  Failures problems;
  if (ended) problems.Equal(group.Callers(key), 1u, "callers besides the one that failed");
  led.Land();
  caller.join();
  CheckFaulty(problems, plan, heard, Heard::Value(kOthers));
  problems.Equal(led.TakeResult(), Heard::Value(kOthers), "the first caller got");
  problems.Equal(control.runs, 0, "runs of the follower's fn");
  const Stats stats = group.GetStats();
  problems.True(stats.executions == 1 && stats.failures + stats.refused == 0, "one call succeeded");
  problems.True(stats.followers == 1 || (heard.Failed() && stats.followers == 0),
                "the follower is counted at most once");
  problems.True(stats.left <= (heard.Failed() ? stats.followers : 0),
                "only a caller that failed may have left");
  CheckKeyWorksAgain(problems, group, key);
  return problems.Text();
}

}  // namespace

void test::AddWays(std::span<const Way> ways) {
  for (const Way& way : ways) {
    const std::string name = way.name;
    const auto add = [&](const char* part, std::string (*scenario)(const Way&, Plan&)) {
      const auto run = [&way, scenario](Plan& plan) { return scenario(way, plan); };
      Scenarios().push_back({name + part, run, way.may_terminate});
    };
    add(", alone", LeadAlone);
    add(", leads", Lead);
    add(", follows a thread", Follow);
    add(", follows", FollowAsync);
  }
}
