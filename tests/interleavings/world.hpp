// SPDX-License-Identifier: MIT
#pragma once

// A group, callers and executions under the scheduler, with a history of what they saw.
// World::Check tests what must be true of every history.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <singleflight/singleflight.hpp>
#include <sstream>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "scheduler.hpp"
#include "search.hpp"
#include "support/evidence.hpp"

namespace interleave {

// The shards' mutex in all scenarios but those about AdaptiveMutex. It has fewer steps, since
// unlocking it is none.
using FewSteps = std::mutex;

// All keys meet in one shard. Everything else is as users have it, except the mutex.
struct OneShard : singleflight::GroupTraits {
  using Mutex = FewSteps;
  static constexpr std::size_t kShards = 1;
};

// A group of two shards, in which PlaceKeys chooses where the keys are. Everything else is as users
// have it, except the mutex.
struct TwoShards : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 2;
  static constexpr std::size_t kKeys = 4;  // the keys are 0 to 3

  class Mutex : public FewSteps {
   public:
    void lock() {
      if (places_keys) last_locked = this;
      FewSteps::lock();
    }
  };
  struct Hash {
    std::size_t operator()(int key) const { return hashes.at(static_cast<std::size_t>(key)); }
  };

  // Gives each key a hash by which it is in the shard number `key % shards` of the group. The group
  // mixes hashes with a salt, so this tries which shard a hash leads to.
  template <class Group>
  static void PlaceKeys(const Group& group, std::size_t shards) {
    std::map<const Mutex*, std::vector<std::size_t>> found;  // in the order of the shards
    places_keys = true;
    for (std::size_t hash = 0; found.size() < kShards || found.begin()->second.size() < kKeys ||
                               found.rbegin()->second.size() < kKeys;
         ++hash) {
      if (hash == 1000) std::abort();
      hashes[0] = hash;
      static_cast<void>(group.Callers(0));
      found[last_locked].push_back(hash);
    }
    places_keys = false;
    for (std::size_t key = 0; key < kKeys; ++key) {
      hashes[key] = (key % shards == 0 ? *found.begin() : *found.rbegin()).second[key];
    }
  }

  // Only the main thread changes these, in PlaceKeys.
  static inline std::array<std::size_t, kKeys> hashes = {};
  static inline bool places_keys = false;
  static inline const Mutex* last_locked = nullptr;
};

struct Value {
  std::size_t execution;
};
// The exception that a failing execution throws.
struct Failure {
  std::size_t execution;
};

// Totals over the callers in all schedules of an exploration. They show whether a scenario reached
// the situation that it tests.
struct Tally {
  std::size_t shared = 0;  // callers whose result others got as well
  std::size_t timed_out = 0;
  std::size_t canceled = 0;
  std::size_t refused = 0;
  std::size_t deadlocks = 0;
  std::size_t owner_dead = 0;
  std::size_t stopped = 0;      // executions that were asked to stop
  std::size_t overlapping = 0;  // pairs of executions of one key that overlap for a reason
};
inline Tally tally;

class World {
 public:
  using Group =
      singleflight::Group<int, Value, TwoShards::Hash, singleflight::DefaultEqual<int>, TwoShards>;
  static constexpr std::size_t kNone = ~std::size_t{0};

  // If `shards` is 1, all keys are in one shard. If it is 2, odd keys are in another than even
  // ones.
  explicit World(singleflight::GroupOptions options = {}, std::size_t shards = 1)
      : group(std::make_unique<Group>(options)) {
    TwoShards::PlaceKeys(*group, shards);
  }

  std::unique_ptr<Group> group;
  // Executions of one key may overlap: calls are forgotten, grow too old, or lose their callers.
  bool overlaps = false;
  // Callers may give up after their call has landed. Then `shared` may be true for a single caller.
  bool drops = false;
  // The number of calls whose leader vanishes. They are counted, but nothing is executed for them.
  std::size_t vanish = 0;
  // Perhaps no caller asks.
  bool idle = false;
  // Calls that were cancelled, and those whose work had not begun by then: nothing is executed.
  std::size_t cancelled = 0;
  std::size_t not_begun = 0;
  // These are the limits in the group's options.
  std::size_t max_callers = singleflight::GroupOptions::kNoLimit;
  std::size_t max_calls = singleflight::GroupOptions::kNoLimit;

  // ---- For the scenario's threads

  // Returns an fn for `key`. It runs `inside`, and then fails or returns a value.
  template <class Inside>
  auto Fn(int key, Inside inside, bool fails = false) {
    return [this, key, inside, fails] {
      const std::size_t id = BeginExecution(key);
      inside();
      EndExecution(id, fails);
      if (fails) throw Failure{id};
      return Value{id};
    };
  }
  auto Fn(int key) {
    return Fn(key, [] {});
  }
  auto FailingFn(int key) {
    return Fn(
        key, [] {}, true);
  }

  // Like Fn, for a call that may be asked to stop.
  auto StoppableFn(int key) {
    return [this, key](std::stop_token stop) {
      const Value value = Fn(key)();
      const bool asked = stop.stop_requested();
      const Untracked unseen;
      tally.stopped += asked;
      return value;
    };
  }

  // A caller gets the value or the failure of an execution, or an error.
  struct Outcome {
    std::size_t execution = kNone;  // the execution whose value or failure it got
    bool failed = false;
    bool shared = false;
    bool led = false;
    std::optional<std::errc> error;
  };

  // Runs a caller that asks for `key` by `ask`, which returns a result. Records its outcome.
  template <class Ask>
  Outcome Call(int key, Ask&& ask) {
    const std::size_t id = StartCaller(key);
    const Outcome outcome = OutcomeOf(ask);
    Finish(id, outcome);
    return outcome;
  }
  Outcome Do(int key, singleflight::CallOptions options = {}) {
    return Call(key, [&] { return group->Do(key, Fn(key), options); });
  }
  Outcome DoFailing(int key, singleflight::CallOptions options = {}) {
    return Call(key, [&] { return group->Do(key, FailingFn(key), options); });
  }

  template <class Ask>
  static Outcome OutcomeOf(Ask&& ask) {
    Outcome outcome;
    try {
      const auto result = ask();
      outcome.execution = result->execution;
      outcome.shared = result.shared();
      outcome.led = result.role() == singleflight::Role::kLeader;
    } catch (const Failure& failure) {
      outcome.execution = failure.execution;
      outcome.failed = true;
    } catch (const std::system_error& error) {
      outcome.error = static_cast<std::errc>(error.code().value());
    }
    return outcome;
  }

  // Forgets the call for `key` and then asks. It must not get a result that had begun before.
  void ForgetThenDo(int key) {
    const std::size_t begun = BegunSoFar(key);
    group->Forget(key);
    Expect(Do(key).execution >= begun, "a caller joined a call that was forgotten");
  }
  // Cancels the call for `key`, if there is one.
  void Cancel(int key) {
    const bool was_in_flight = group->Cancel(key);
    const Untracked unseen;
    overlaps = true;
    cancelled += was_in_flight;
  }
  // Lands a call by running a function, which does not run if the call was cancelled before.
  template <class Lead>
  void Run(Lead& lead, int key) {
    bool ran = false;
    lead.Run(Fn(key, [&ran] { ran = true; }));
    const Untracked unseen;
    not_begun += !ran;
  }
  // Lets `time` pass and then asks. Every earlier call is then too old to be joined.
  void PassTimeThenDo(int key, std::chrono::nanoseconds time) {
    const std::size_t begun = BegunSoFar(key);
    PassTime(time);
    Expect(Do(key).execution >= begun, "a caller joined a call that was too old");
  }

  std::size_t StartCaller(int key) {
    Point(&callers_, Mode::kRead);
    const Untracked unseen;
    callers_.push_back({key, ThisThread(), ++time_, 0, {}});
    return callers_.size() - 1;
  }
  void Finish(std::size_t id, const Outcome& outcome) {
    Point(&callers_, Mode::kMark);
    const Untracked unseen;
    if (callers_[id].end != 0) Fail("a caller has two outcomes");
    callers_[id].end = ++time_;
    callers_[id].outcome = outcome;
  }

  // ---- After the run

  std::size_t Count(std::errc error) const {
    std::size_t count = 0;
    for (const Caller& caller : callers_) count += caller.outcome.error == error;
    return count;
  }
  const Outcome& OutcomeOfCaller(std::size_t id) const { return callers_[id].outcome; }

  // Checks what must be true of every history.
  void Check() const {
    for (const Caller& caller : callers_) {
      CheckCaller(caller);
      const Outcome& outcome = caller.outcome;
      tally.shared += outcome.shared;
      tally.timed_out += outcome.error == std::errc::timed_out;
      tally.canceled += outcome.error == std::errc::operation_canceled;
      tally.refused += outcome.error == std::errc::resource_unavailable_try_again;
      tally.deadlocks += outcome.error == std::errc::resource_deadlock_would_occur;
      tally.owner_dead += outcome.error == std::errc::owner_dead;
    }
    if (executions_.empty() && vanish + not_begun == 0 && !idle) Fail("nothing was executed");
    Expect(cancelled == 0 || drops || Count(std::errc::operation_canceled) > 0,
           "a call was cancelled, but none of its callers");
    for (std::size_t id = 0; id < executions_.size(); ++id) CheckExecution(id);
    if (group == nullptr) return;
    const singleflight::Stats stats = group->GetStats();
    Expect(stats.in_flight == 0, "a call is still in flight");
    Expect(stats.executions == executions_.size() + vanish + not_begun,
           "the group's count of executions is wrong");
    std::size_t failures = vanish;
    for (const Execution& execution : executions_) failures += execution.failed;
    // A cancelled call is a failure, whatever its work does.
    Expect(stats.failures >= cancelled && stats.failures <= failures + cancelled &&
               (cancelled > 0 || stats.failures == failures),
           "the group's count of failures is wrong");
    Expect(group->Inspect().empty(), "Inspect lists a call that has landed");
    for (int key = 0; key < static_cast<int>(TwoShards::kKeys); ++key) {
      Expect(group->Callers(key) == 0, "the table is not empty");
      Expect(group->ForgetUnshared(key) && !group->Forget(key), "the table is not empty");
    }
  }

  // Describes each thread's callers, and which thread's execution each of them got. The order of
  // the steps does not matter otherwise.
  std::string History() const {
    std::ostringstream text;
    for (std::size_t thread = 0; thread <= kMaxThreads; ++thread) {
      for (const Caller& caller : callers_) {
        if (caller.thread != thread) continue;
        const Outcome& outcome = caller.outcome;
        text << thread << ':' << outcome.led << outcome.shared << outcome.failed;
        if (outcome.error) text << static_cast<int>(*outcome.error);
        if (outcome.execution != kNone) text << '<' << executions_[outcome.execution].thread;
        text << ' ';
      }
    }
    return text.str();
  }

  static void Expect(bool holds, const char* what) {
    if (!holds) Fail(what);
  }

 private:
  // Returns how many executions, of any key, have begun.
  std::size_t BegunSoFar(int key) {
    Point(Running(key), Mode::kRead);
    const Untracked unseen;
    return executions_.size();
  }

  struct Caller {
    int key;
    std::size_t thread;
    std::size_t start;
    std::size_t end;  // 0: it has not finished
    Outcome outcome;
  };
  struct Execution {
    int key;
    std::size_t thread;
    std::size_t begin;
    std::size_t end;
    bool failed;
  };

  // Returns what stands for the executions of a key in the search. If calls are limited, it matters
  // in which order those of different keys run.
  const void* Running(int key) const {
    const bool one = max_calls != singleflight::GroupOptions::kNoLimit;
    return &running_.at(one ? 0 : static_cast<std::size_t>(key));
  }
  std::size_t BeginExecution(int key) {
    Point(Running(key), Mode::kWrite);
    const Untracked unseen;
    executions_.push_back({key, ThisThread(), ++time_, 0, false});
    return executions_.size() - 1;
  }
  void EndExecution(std::size_t id, bool fails) {
    Point(Running(executions_[id].key), Mode::kWrite);
    const Untracked unseen;
    executions_[id].end = ++time_;
    executions_[id].failed = fails;
  }

  void CheckCaller(const Caller& caller) const {
    Expect(caller.end != 0, "a caller has no outcome");
    const Outcome& outcome = caller.outcome;
    if (outcome.execution == kNone) {
      return Expect(outcome.error.has_value(), "a caller has neither a result nor an error");
    }
    const Execution& execution = executions_[outcome.execution];
    Expect(execution.key == caller.key, "a caller got another key's result");
    Expect(execution.end != 0 && execution.end < caller.end,
           "a caller got a result before its execution had finished");
    Expect(execution.failed == outcome.failed,
           "a caller got a failure where fn returned a value, or the reverse");
    for (const Caller& other : callers_) {
      Expect(other.outcome.execution != outcome.execution || other.end > caller.start,
             "a caller got the result of a call that had landed before it asked");
    }
  }

  void CheckExecution(std::size_t id) const {
    std::size_t got = 0;
    std::size_t led = 0;
    std::size_t shared = 0;
    for (const Caller& caller : callers_) {
      if (caller.outcome.execution != id || caller.outcome.failed) continue;
      ++got;
      led += caller.outcome.led;
      shared += caller.outcome.shared;
    }
    Expect(led <= 1, "an execution has two leaders");
    Expect(got <= max_callers, "a call has more callers than the limit");
    std::size_t at_once = 0;
    for (const Execution& other : executions_) {
      at_once += other.begin <= executions_[id].begin && executions_[id].begin <= other.end;
    }
    Expect(at_once <= max_calls, "more calls are in flight than the limit");
    Expect(shared == 0 || shared == got, "callers of one call disagree on `shared`");
    if (!drops)
      Expect((shared > 0) == (got > 1),
             "`shared` does not say whether several callers got the result");
    for (std::size_t other = 0; other < id; ++other) {
      const Execution& a = executions_[other];
      const Execution& b = executions_[id];
      if (a.key != b.key || a.end < b.begin || b.end < a.begin) continue;
      ++tally.overlapping;
      Expect(overlaps, "two executions of one key overlap");
    }
  }

  // These are used only under Untracked.
  std::size_t time_ = 0;
  std::vector<Caller> callers_;
  std::vector<Execution> executions_;
  std::array<char, TwoShards::kKeys> running_ = {};  // one for each key: see Running
};

// A scenario that has a world of its own in each run.
template <class World>
class ScenarioOf {
 public:
  ScenarioOf(Run& run, singleflight::GroupOptions options = {})
      : run_(run), world_(std::make_shared<World>(options)) {}
  ScenarioOf(Run& run, singleflight::GroupOptions options, std::size_t shards)
      : run_(run), world_(std::make_shared<World>(options, shards)) {}
  ~ScenarioOf() {
    run_.AtEnd([world = world_, finish = finish_, check = check_] {
      if (finish) finish();
      world->Check();
      if (check) check(*world);
    });
  }
  ScenarioOf(const ScenarioOf&) = delete;
  ScenarioOf& operator=(const ScenarioOf&) = delete;

  World* operator->() const { return world_.get(); }
  World& operator*() const { return *world_; }
  template <class Body>
  void Thread(Body body) {
    run_.Thread([world = world_, body]() mutable { body(*world); });
  }
  // Sets what is left to do when the threads have finished.
  void Finally(std::function<void()> finish) { finish_ = std::move(finish); }
  // Sets a further check, which runs last.
  void AtEnd(std::function<void(World&)> check) { check_ = std::move(check); }

 private:
  Run& run_;
  std::shared_ptr<World> world_;
  std::function<void()> finish_;
  std::function<void(World&)> check_;
};
using Scenario = ScenarioOf<World>;

// ---- The searches, and the figures that they report

inline void Report(const std::string& search, const std::string& name, std::size_t schedules) {
  test::Evidence("interleavings." + search + '.' + name, schedules);
}

// Names a scenario by the number of shards that its keys are in.
inline std::string InShards(const std::string& name, std::size_t shards) {
  return shards == 1 ? name : name + "_in_" + std::to_string(shards) + "_shards";
}

// Explores all schedules.
template <class Body>
void ExploreAll(const std::string& name, Body&& body) {
  tally = {};
  Exhaustive search;
  const Explored explored = Explore(name, search, body);
  Report("all", name, explored.schedules - search.repeated());
}

// Explores all schedules with at most `bound` preemptions.
template <class Body>
void ExplorePreemptions(const std::string& name, std::size_t bound, Body&& body) {
  tally = {};
  Preemptions search(bound);
  Report("preemptions_" + std::to_string(bound), name, Explore(name, search, body).schedules);
}

inline Pct RandomSearch(std::uint64_t seed, std::size_t runs, std::size_t steps) {
  const char* const wanted = std::getenv("INTERLEAVINGS_SEED");
  if (wanted != nullptr) return Pct(std::stoull(wanted), 1, /*changes=*/3, steps);
  return Pct(seed, runs, /*changes=*/3, steps);
}

// Explores random schedules.
template <class Body>
void ExploreRandom(const std::string& name, std::size_t runs, Body&& body) {
  tally = {};
  Pct search = RandomSearch(1, runs * (test::Long() ? 20 : 1), 100);
  Report("random", name, Explore(name, search, body).schedules);
}

}  // namespace interleave
