// SPDX-License-Identifier: MIT

// Runs all operations at once on 16 threads, and records what each caller got and when. Only a
// group that keeps its promises can pass the check of that history (history.hpp). STRESS_SECONDS
// sets how long it runs, and STRESS_SEED what is asked for. No seed can set how the threads
// interleave.
//
// The test runs in windows. Each has a new group and other settings, so that histories stay small.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <random>
#include <ratio>
#include <span>
#include <sstream>
#include <utility>
#include <vector>

#include "history.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/evidence.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::GroupOptions;
using singleflight::OnFailure;
using singleflight::Role;

namespace {

constexpr unsigned kThreads = 16;
constexpr int kOperations = 200;  // by each thread in a window
constexpr int kKeys = 6;
constexpr std::size_t kMaxBatch = 4;

using Random = std::mt19937;

// ---- What the group is made of

// A std::mutex at which threads often yield, as if they were preempted there.
struct JitteryMutex {
  void lock() {
    Jitter();
    mutex.lock();
  }
  void unlock() {
    mutex.unlock();
    Jitter();
  }
  static void Jitter() {
    const unsigned one_in = rate.load(std::memory_order_relaxed);
    if (one_in == 0 || random() % one_in != 0) return;
    for (auto times = random() % 4; times > 0; --times) std::this_thread::yield();
  }

  std::mutex mutex;
  static inline std::atomic<unsigned> rate = 0;  // 0: it behaves like a std::mutex
  static inline thread_local Random random;
};

struct Jittery : singleflight::GroupTraits {
  using Mutex = JitteryMutex;
};

// Says which execution a caller got. Its key is on the heap, so that sanitizers see who reads it.
struct Answer {
  std::uint32_t execution;
  std::vector<int> key;
};

// Says the same for executions that failed. Those of a batch fail together.
struct Failure {
  std::array<std::uint32_t, kKeys> executions;  // by key
};

using Group = singleflight::Group<int, Answer, std::hash<int>, std::equal_to<int>, Jittery>;

// ---- Threads that run the work of asynchronous calls

class Pool {
 public:
  using Job = std::function<void()>;

  Pool() {
    for (unsigned i = 0; i < 3; ++i) threads_.emplace_back([this] { Work(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
  }
  void Post(Job job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ended_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // guarded by mutex_
  bool ended_ = false;    // guarded by mutex_
  std::vector<JoiningThread> threads_;
};

// It is set once, usually by another thread.
class Event {
 public:
  void Set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  void Await() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_; });
  }
  bool IsSet() {
    const std::lock_guard lock(mutex_);
    return set_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

// ---- A window

// Says what may happen in a window. The less may happen, the more counters are known exactly.
struct Settings {
  std::uint64_t seed = 0;
  GroupOptions options;
  unsigned jitter = 0;
  bool stops = false;
  bool drops = false;
  bool retries = false;
  bool forgets = false;
  bool timeouts = false;
};

struct Window {
  explicit Window(const Settings& its_settings, Pool& its_pool)
      : settings(its_settings), pool(its_pool), group(its_settings.options) {
    history.executions.resize(std::size_t{kThreads} * kOperations * (kMaxBatch + 1));
  }

  // The thread that runs an execution writes only to that execution's place.
  std::uint32_t Begin(int key, std::uint64_t operation, Nanoseconds asked) {
    const std::uint32_t number = executions++;
    Execution& execution = history.executions.at(number);
    execution.key = key;
    execution.asked_by = operation;
    execution.asked = asked;
    execution.begin = Now();
    return number;
  }
  void End(std::uint32_t number, bool failed, bool stopped) {
    Execution& execution = history.executions[number];
    execution.failed = failed;
    execution.stopped = stopped;
    execution.end = Now();
  }

  const Settings settings;
  Pool& pool;
  History history;
  std::atomic<std::uint32_t> executions = 0;
  std::atomic<std::uint64_t> dropped_tasks = 0;
  std::atomic<std::uint64_t> progress = 0;
  // Each thread's caller may be stopped by these.
  std::array<std::mutex, kThreads> stop_mutexes;
  std::array<std::optional<StopSource>, kThreads> stops;
  Group group;  // declared last, so destroyed first: its calls use all of the above
};

// The function of one operation.
struct Work {
  Answer operator()() const { return Run(StopToken()); }
  Answer Run(const StopToken& stop) const {
    const std::uint32_t number = window->Begin(key, operation, asked);
    for (unsigned i = 0; i < spins && !stop.stop_requested(); ++i) std::this_thread::yield();
    if (inside != nullptr && *inside) (*inside)();
    window->End(number, fails, stop.stop_requested());
    if (fails) {
      Failure failure;
      failure.executions.fill(number);
      throw failure;
    }
    return {number, {key}};
  }

  Window* window;
  int key;
  std::uint64_t operation;
  Nanoseconds asked;
  unsigned spins;
  bool fails;
  const std::function<void()>* inside = nullptr;  // asks for more keys, on the leader's thread
};

struct StoppableWork : Work {
  Answer operator()(StopToken stop) const { return Run(stop); }
};

// Does the same as a task that continues in the pool.
Task<Answer> RunInPool(Work work, StopToken stop) {
  struct Resumed : std::suspend_always {
    explicit Resumed(Pool& its_pool) : pool(its_pool) {}
    void await_suspend(std::coroutine_handle<> handle) const {
      pool.Post([handle] { handle.resume(); });
    }
    Pool& pool;
  };
  co_await Resumed(work.window->pool);
  co_return work.Run(stop);
}

struct PooledWork {
  Task<Answer> operator()(StopToken stop) const { return RunInPool(work, std::move(stop)); }
  Work work;
};

// Calls `receive`, which returns a Result or throws, and writes the outcome down.
template <class Receive>
void Note(Ask& ask, Receive&& receive) {
  try {
    const auto result = receive();
    ask.got = Got::kValue;
    ask.execution = result->execution;
    ask.role = result.role();
    ask.shared = result.shared();
    if (result->key.front() != ask.key) ask.execution = kNoExecution;
  } catch (const Failure& failure) {
    ask.got = Got::kFailure;
    ask.execution = failure.executions.at(static_cast<std::size_t>(ask.key));
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::timed_out) {
      ask.got = Got::kTimedOut;
    } else if (error.code() == std::errc::operation_canceled) {
      ask.got = Got::kCanceled;
    } else if (error.code() == std::errc::resource_unavailable_try_again) {
      ask.got = Got::kRefused;
    } else if (error.code() == std::errc::owner_dead) {
      ask.got = Got::kOwnerDead;
    } else {
      ask.got = Got::kDeadlock;
    }
  }
  ask.end = Now();
}

// Keeps the handle of a coroutine that may continue. Its frame belongs to another thread, which
// either resumes or destroys it, so the two cannot meet.
class Resumption {
 public:
  void operator()(std::coroutine_handle<> handle) const {
    slot_->handle = handle;
    slot_->event.Set();
  }
  bool HasCome() const { return slot_->event.IsSet(); }
  void Go() const {
    slot_->event.Await();
    slot_->handle.resume();
  }

 private:
  struct Slot {
    Event event;
    std::coroutine_handle<> handle;  // written before the event is set
  };
  std::shared_ptr<Slot> slot_ = std::make_shared<Slot>();
};

// ---- What one thread does in a window

class Worker {
 public:
  Worker(Window& window, unsigned thread)
      : window_(window),
        group_(window.group),
        settings_(window.settings),
        thread_(thread),
        random_(static_cast<unsigned>(window.settings.seed * kThreads + thread + 1)) {}

  void Run() {
    JitteryMutex::random.seed(random_());
    for (int i = 0; i < kOperations; ++i) {
      Operate();
      ++window_.progress;
    }
  }

  std::vector<Ask> asks;
  std::vector<Forgetting> forgettings;
  std::uint64_t looks = 0;  // calls of Callers and GetStats, and callers that ask for their own key
  std::vector<std::string> violations;

  // Checks that no waiter was notified more than once, or after it had left.
  void CheckWaiters() {
    for (const RawWaiter& waiter : waiters_) {
      if (waiter.told != waiter.expected_notifications)
        Report("a waiter was notified too often or too rarely");
    }
  }

 private:
  struct RawWaiter final : Group::Waiter {
    void OnLanded() noexcept override {
      ++told;
      landed.Set();
    }
    std::atomic<int> told = 0;
    int expected_notifications = 1;
    Event landed;
  };

  unsigned Below(unsigned n) { return static_cast<unsigned>(random_()) % n; }
  bool OneIn(unsigned n) { return Below(n) == 0; }
  int StrictKey() { return static_cast<int>(Below(2)); }
  int LooseKey() { return 2 + static_cast<int>(Below(kKeys - 2)); }
  int AnyKey() { return static_cast<int>(Below(kKeys)); }
  void Report(const char* what) { violations.emplace_back(what); }

  Ask NewAsk(int key) {
    return {.key = key, .operation = std::uint64_t{thread_} << 32 | ++operations_, .start = Now()};
  }
  Work WorkFor(const Ask& ask) {
    const unsigned spins = OneIn(8) ? Below(200) : Below(20);
    return {&window_, ask.key, ask.operation, ask.start, spins, OneIn(8)};
  }

  void Operate() {
    switch (Below(20)) {
      case 0:
      case 1:
      case 2:
        return DoPlain(AnyKey(), 0);
      case 3:
      case 4:
        return DoTimed(LooseKey());
      case 5:
        return DoStopped(LooseKey());
      case 6:
        return DoRetrying(AnyKey());
      case 7:
        return Async(AnyKey());
      case 8:
      case 9:
        return AsyncDropped(LooseKey());
      case 10:
      case 11:
        return CoroutineInline(AnyKey());
      case 12:
        return CoroutineOfOurs(OneIn(2) ? StrictKey() : LooseKey());
      case 13:
      case 14:
        return Many();
      case 15:
      case 16:
        return RawJoin(AnyKey());
      case 17:
        return Forget(LooseKey());
      case 18:
        return Look(AnyKey());
      default:
        return StopSomebody();
    }
  }

  // ---- Do

  void DoPlain(int key, int depth) {
    Ask ask = NewAsk(key);
    Work work = WorkFor(ask);
    const std::function<void()> inside = [&] {
      // Asks in the order of the keys, so that no cycle arises, or for its own key.
      if (key < StrictKeys() && OneIn(2)) {
        ++looks;
        if (ErrorOf([&] { return group_.Do(key, work); }) !=
            std::errc::resource_deadlock_would_occur) {
          Report("a caller that waits for itself got no error");
        }
      } else if (key + 1 < kKeys) {
        DoPlain(key + 1 + static_cast<int>(Below(static_cast<unsigned>(kKeys - key - 1))),
                depth + 1);
      }
    };
    if (depth < 3 && OneIn(4)) work.inside = &inside;
    Note(ask, [&] { return group_.Do(key, work); });
    asks.push_back(ask);
  }

  void DoTimed(int key) {
    if (!settings_.timeouts) return DoPlain(key, 0);
    Ask ask = NewAsk(key);
    const StoppableWork work{WorkFor(ask)};
    const std::chrono::microseconds timeout(OneIn(3) ? 0 : Below(200));
    Note(ask, [&] { return group_.Do(key, work, {.timeout = timeout}); });
    asks.push_back(ask);
  }

  void DoStopped(int key) {
    if (!settings_.stops) return DoPlain(key, 0);
    Ask ask = NewAsk(key);
    const StoppableWork work{WorkFor(ask)};
    const StopToken stop = OfferToStop();
    Note(ask, [&] { return group_.Do(key, work, {.stop = stop}); });
    ask.stop_requested = WithdrawStop();
    asks.push_back(ask);
  }

  void DoRetrying(int key) {
    if (!settings_.retries) return DoPlain(key, 0);
    Ask ask = NewAsk(key);
    ask.retries = true;
    const Work work = WorkFor(ask);
    Note(ask, [&] { return group_.Do(key, work, {.on_failure = OnFailure::kRetry}); });
    asks.push_back(ask);
  }

  // ---- DoAsync

  auto Executor() {
    return [this](auto task) { window_.pool.Post(std::move(task)); };
  }

  void Async(int key) {
    Ask ask = NewAsk(key);
    const Work work = WorkFor(ask);
    Note(ask, [&] {
      if (OneIn(16)) return singleflight::DoAsync(group_, key, work).Get();
      return singleflight::DoAsync(group_, key, work, Executor()).Get();
    });
    asks.push_back(ask);
  }

  // Drops the Future, or the leader's task.
  void AsyncDropped(int key) {
    if (!settings_.drops) return Async(key);
    Ask ask = NewAsk(key);
    const StoppableWork work{WorkFor(ask)};
    const unsigned what = Below(3);
    std::function<void()> held;
    const auto executor = [&](auto task) {
      if (what == 0) {
        ++window_.dropped_tasks;
      } else if (what == 1) {
        held = std::move(task);
      } else {
        window_.pool.Post(std::move(task));
      }
    };
    try {
      auto future = singleflight::DoAsync(group_, key, work, executor);
      if (what == 0) {
        Note(ask, [&] { return future.Get(); });
      } else if (OneIn(2)) {
        std::this_thread::yield();
      } else {
        static_cast<void>(future.WaitFor(std::chrono::microseconds(Below(100))));
      }
    } catch (const std::system_error&) {
      ask.got = Got::kRefused;
    }
    if (held) {  // its call has not landed, so this caller left it
      ask.got = Got::kLeft;
      window_.pool.Post(std::move(held));
    }
    if (ask.end == 0) ask.end = Now();
    asks.push_back(ask);
  }

  // ---- CoDo

  // The coroutine resumes on the thread that lands its call or requests its stop.
  void CoroutineInline(int key) {
    Ask ask = NewAsk(key);
    const bool may_stop = settings_.stops && key >= StrictKeys();
    const StopToken stop = may_stop ? OfferToStop() : StopToken();
    Event done;
    if (OneIn(2)) {
      AskInline(group_, WorkFor(ask), stop, ask, done);
    } else {
      AskInline(group_, PooledWork{WorkFor(ask)}, stop, ask, done);
    }
    done.Await();
    if (may_stop) static_cast<void>(WithdrawStop());  // it has left, or has a result: never both
    asks.push_back(ask);
  }
  template <class Fn>
  static FireAndForget AskInline(Group& group, Fn fn, StopToken stop, Ask& ask, Event& done) {
    try {
      const auto result = co_await singleflight::CoDo(group, ask.key, fn, stop);
      Note(
          ask, [&]() -> const auto& { return result; });
    } catch (...) {
      Note(ask, []() -> singleflight::Result<Answer> { throw; });
    }
    done.Set();
  }

  // The coroutine resumes on this thread, or its frame is destroyed here.
  void CoroutineOfOurs(int key) {
    Ask ask = NewAsk(key);
    Resumption resumption;
    const bool drop = settings_.drops && key >= StrictKeys() && OneIn(2);
    Routine routine = AskHere(group_, PooledWork{WorkFor(ask)}, ask, resumption);
    if (drop) {
      for (auto i = Below(50); i > 0 && !resumption.HasCome(); --i) std::this_thread::yield();
      if (!routine.Done()) {
        routine.Destroy();
        ask.end = Now();
      }
    } else if (!routine.Done()) {
      resumption.Go();
    }
    asks.push_back(ask);
  }
  static Routine AskHere(Group& group, PooledWork fn, Ask& ask, Resumption resumption) {
    try {
      const StopToken none;
      const auto result = co_await singleflight::CoDo(group, ask.key, fn, none, resumption);
      Note(
          ask, [&]() -> const auto& { return result; });
    } catch (...) {
      Note(ask, []() -> singleflight::Result<Answer> { throw; });
    }
  }

  // ---- DoMany

  void Many() {
    std::array<int, kKeys> keys;
    for (int key = 0; key < kKeys; ++key) keys[static_cast<std::size_t>(key)] = key;
    std::shuffle(keys.begin(), keys.end(), random_);
    const bool may_leave = (settings_.timeouts || settings_.stops) && OneIn(2);
    std::vector<int> chosen;
    for (const int key : keys) {
      if (chosen.size() < kMaxBatch && (!may_leave || key >= StrictKeys())) {
        chosen.push_back(key);
      }
    }
    chosen.resize(1 + Below(static_cast<unsigned>(chosen.size())));

    const Ask batch = NewAsk(0);
    const unsigned spins = Below(40);
    const bool fails = OneIn(8);
    const auto fn = [&](std::span<const int> missing, const StopToken& stop) {
      std::vector<Answer> answers;
      Failure failure;
      failure.executions.fill(kNoExecution);
      for (const int key : missing) {
        const std::uint32_t number = window_.Begin(key, batch.operation, batch.start);
        answers.push_back({number, {key}});
        failure.executions.at(static_cast<std::size_t>(key)) = number;
      }
      for (unsigned i = 0; i < spins && !stop.stop_requested(); ++i) std::this_thread::yield();
      for (const Answer& answer : answers) {
        window_.End(answer.execution, fails, stop.stop_requested());
      }
      if (fails) throw failure;
      return answers;
    };
    singleflight::CallOptions options;
    if (settings_.retries && OneIn(4)) options.on_failure = OnFailure::kRetry;
    const bool offers = may_leave && settings_.stops;
    if (offers) options.stop = OfferToStop();
    if (may_leave && settings_.timeouts) options.timeout = std::chrono::microseconds(100);
    const auto results = singleflight::DoMany(group_, chosen, fn, options);
    const bool stop_requested = offers && WithdrawStop();
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      Ask ask = batch;
      ask.key = chosen[i];
      ask.retries = options.on_failure == OnFailure::kRetry;
      Note(
          ask, [&]() -> const auto& { return results[i].result(); });
      ask.stop_requested = stop_requested && ask.got == Got::kCanceled;
      asks.push_back(ask);
    }
  }

  // ---- Join and Leave

  void RawJoin(int key) {
    RawWaiter& waiter = waiters_.emplace_back();
    Ask ask = NewAsk(key);
    const Work work = WorkFor(ask);
    const bool at_once = OneIn(4);
    const auto launch = [&](Group::Lead lead) {
      const auto land = [lead, work] {
        Group::Lead one = lead;
        Group::Lead same = lead;
        if (!one.Run(work) || same.Run(work)) std::abort();  // a call lands once
      };
      if (at_once) {
        land();
      } else {
        window_.pool.Post(land);
      }
    };
    const bool may_leave = settings_.drops && key >= StrictKeys();
    try {
      group_.Join(key, waiter, launch);
      if (may_leave && OneIn(2)) {
        for (auto i = Below(50); i > 0; --i) std::this_thread::yield();
        if (group_.Leave(waiter)) {
          waiter.expected_notifications = 0;
          ask.got = Got::kLeft;
          ask.end = Now();
        }
      }
      if (waiter.expected_notifications > 0) {
        waiter.landed.Await();
        Note(ask, [&] { return waiter.TakeResult(); });
      }
    } catch (const std::system_error&) {
      waiter.expected_notifications = 0;
      ask.got = Got::kRefused;
      ask.end = Now();
    }
    asks.push_back(ask);
  }

  // ---- The rest

  void Forget(int key) {
    if (!settings_.forgets) return Look(key);
    Forgetting forgetting{.key = key, .start = Now()};
    if (OneIn(2)) {
      group_.Forget(key);
      forgetting.certain = true;
    } else {
      forgetting.certain = group_.ForgetUnshared(key);
    }
    forgetting.end = Now();
    forgettings.push_back(forgetting);
  }

  void Look(int key) {
    ++looks;
    if (group_.Callers(key) > settings_.options.max_callers_per_call) {
      Report("Callers returned more than max_callers_per_call");
    }
    const singleflight::Stats stats = group_.GetStats();
    if (stats.executions < seen_.executions || stats.followers < seen_.followers ||
        stats.failures < seen_.failures || stats.left < seen_.left ||
        stats.refused < seen_.refused) {
      Report("a counter decreased");
    }
    if (stats.failures > stats.executions) Report("there are more failures than executions");
    seen_ = stats;
  }

  void StopSomebody() {
    if (!settings_.stops) return Look(AnyKey());
    const unsigned whom = Below(kThreads);
    std::optional<StopSource> stop;
    {
      const std::lock_guard lock(window_.stop_mutexes[whom]);
      stop = window_.stops[whom];
    }
    if (stop) stop->request_stop();
  }
  StopToken OfferToStop() {
    StopSource stop;
    if (OneIn(8)) stop.request_stop();  // stopped before it asks
    const std::lock_guard lock(window_.stop_mutexes[thread_]);
    return window_.stops[thread_].emplace(std::move(stop)).get_token();
  }
  bool WithdrawStop() {
    const std::lock_guard lock(window_.stop_mutexes[thread_]);
    const bool requested = window_.stops[thread_]->stop_requested();
    window_.stops[thread_].reset();
    return requested;
  }

  int StrictKeys() const { return window_.history.strict_keys; }

  Window& window_;
  Group& group_;
  const Settings& settings_;
  const unsigned thread_;
  Random random_;
  std::uint64_t operations_ = 0;
  singleflight::Stats seen_;
  std::deque<RawWaiter> waiters_;  // kept until the window is over, to see late notifications
};

// ---- The statistics at the end of a window

struct Range {
  std::uint64_t least = 0;
  std::uint64_t most = 0;
  void Add(bool certain) {
    least += certain;
    ++most;
  }
};

void CheckStats(const Window& window, const std::vector<Ask>& asks,
                std::vector<std::string>& violations) {
  const singleflight::Stats stats = window.group.GetStats();
  std::uint64_t failed = window.dropped_tasks;
  for (std::uint32_t i = 0; i < window.executions; ++i) {
    failed += window.history.executions[i].failed;
  }
  std::uint64_t refused = 0;
  Range left;
  Range joined;  // joined as leader or follower
  bool retried = false;
  for (const Ask& ask : asks) {
    retried |= ask.retries;
    refused += ask.got == Got::kRefused;
    switch (ask.got) {
      case Got::kTimedOut:
      case Got::kLeft:
        left.Add(true);
        joined.Add(true);
        break;
      case Got::kCanceled:  // it left, or was stopped before it asked
        left.Add(false);
        joined.Add(false);
        break;
      case Got::kDropped:  // it left, or the call had landed
        left.Add(false);
        joined.Add(true);
        break;
      case Got::kRefused:
      case Got::kDeadlock:
        break;
      default:
        if (ask.stop_requested) left.Add(false);  // the stop came before `fn` finished, or after
        joined.Add(true);
    }
  }
  const std::uint64_t executions = window.executions + window.dropped_tasks;
  const auto expect = [&](const char* name, std::uint64_t count, Range range) {
    if (count >= range.least && count <= range.most) return;
    std::ostringstream text;
    text << "Stats::" << name << " is " << count << ", not " << range.least << " to " << range.most;
    violations.push_back(text.str());
  };
  expect("executions", stats.executions, {executions, executions});
  expect("failures", stats.failures, {failed, failed});
  expect("refused", stats.refused, {refused, refused});
  expect("left", stats.left, left);
  expect("in_flight", stats.in_flight, {0, 0});
  if (retried) joined.most = std::numeric_limits<std::uint64_t>::max();
  expect("executions + followers", stats.executions + stats.followers, joined);
}

// Once all calls have landed, there is room for as many as before, and for no more.
void CheckRoom(Group& group, const GroupOptions& options, std::vector<std::string>& violations) {
  if (options.max_calls_in_flight == GroupOptions::kNoLimit) return;
  const std::function<Answer(int)> nest = [&](int key) -> Answer {
    const bool room = key < kKeys + static_cast<int>(options.max_calls_in_flight);
    const auto ask = [&] { return group.Do(key, [&] { return nest(key + 1); }); };
    if (room != !ErrorOf(ask)) violations.emplace_back("max_calls_in_flight is not exact");
    return {};
  };
  nest(kKeys);
}

// ---- All windows

std::uint64_t Number(const char* name, std::uint64_t otherwise) {
  const char* const set = std::getenv(name);
  return set != nullptr ? std::strtoull(set, nullptr, 10) : otherwise;
}

Settings SettingsOf(std::uint64_t seed) {
  Random random(static_cast<unsigned>(seed));
  Settings settings;
  settings.seed = seed;
  switch (seed % 3) {
    case 1:
      settings.options = {.max_callers_per_call = 4, .max_calls_in_flight = 5};
      break;
    case 2:
      settings.options.max_age = std::chrono::microseconds(300);
      break;
    default:
      break;
  }
  settings.jitter = random() % 2 == 0 ? 0 : 1 + static_cast<unsigned>(random()) % 4;
  settings.stops = random() % 2 == 0;
  settings.drops = random() % 2 == 0;
  settings.retries = random() % 2 == 0;
  settings.forgets = random() % 2 == 0;
  settings.timeouts = random() % 2 == 0;
  return settings;
}

struct Totals {
  std::uint64_t operations = 0;
  std::uint64_t executions = 0;
};

// Waits until `condition` holds, and aborts if nothing moves for a long time. That is better than
// to hang, since it prints the seed.
template <class Condition>
void AwaitProgress(const Window& window, const char* what, Condition&& condition) {
  using namespace std::chrono_literals;
  std::uint64_t progress = 0;
  auto since = std::chrono::steady_clock::now();
  while (!condition()) {
    std::this_thread::yield();
    const auto now = std::chrono::steady_clock::now();
    if (std::exchange(progress, window.progress) != window.progress) since = now;
    if (now - since < 20s) continue;
    std::cerr << "stress: nothing moves: " << what << ". STRESS_SEED=" << window.settings.seed
              << '\n';
    std::abort();
  }
}

std::vector<std::string> RunWindow(const Settings& settings, Pool& pool, Totals& totals) {
  JitteryMutex::rate = settings.jitter;
  Window window(settings, pool);
  History& history = window.history;
  history.max_callers_per_call = settings.options.max_callers_per_call;
  history.max_calls_in_flight = settings.options.max_calls_in_flight;
  if (settings.options.max_age) {
    history.max_age = settings.options.max_age->count();
  } else {
    history.strict_keys = 2;
  }
  std::deque<Worker> workers;
  std::atomic<unsigned> ended = 0;
  {
    std::vector<JoiningThread> threads;
    for (unsigned i = 0; i < kThreads; ++i) workers.emplace_back(window, i);
    for (Worker& worker : workers) {
      threads.emplace_back([&] {
        worker.Run();
        ++ended;
      });
    }
    AwaitProgress(window, "a thread does not finish", [&] { return ended == kThreads; });
  }
  AwaitProgress(window, "a call does not land",
                [&] { return window.group.GetStats().in_flight == 0; });

  std::vector<std::string> violations;
  for (Worker& worker : workers) {
    worker.CheckWaiters();
    const auto append = [](auto& all, const auto& more) {
      all.insert(all.end(), more.begin(), more.end());
    };
    append(history.asks, worker.asks);
    append(history.forgettings, worker.forgettings);
    append(violations, worker.violations);
    totals.operations += worker.looks;
  }
  CheckStats(window, history.asks, violations);
  for (int key = 0; key < kKeys; ++key) {
    if (window.group.Callers(key) != 0) violations.push_back("a key still has a call in flight");
  }
  CheckRoom(window.group, settings.options, violations);
  history.executions.resize(window.executions);
  const HistoryCheck check(history);
  violations.insert(violations.end(), check.Violations().begin(), check.Violations().end());
  totals.operations += history.asks.size() + history.forgettings.size();
  totals.executions += window.executions;
  return violations;
}

}  // namespace

TEST_CASE("Under a mix of everything the group keeps all its promises") {
  const std::uint64_t first_seed = Number("STRESS_SEED", 1);
  const std::chrono::seconds time(Number("STRESS_SECONDS", 2));
  std::cout << "stress: STRESS_SEED=" << first_seed << std::endl;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::steady_clock::now() - start; };
  Pool pool;
  Totals totals;
  std::vector<std::string> violations;
  std::uint64_t seed = first_seed;
  do {
    violations = RunWindow(SettingsOf(seed), pool, totals);
    ++seed;
  } while (violations.empty() && (elapsed() < time || seed < first_seed + 3));

  const double seconds = std::chrono::duration<double>(elapsed()).count();
  Evidence("stress.operations", totals.operations);
  Evidence("stress.executions", totals.executions);
  Evidence("stress.seconds", seconds);
  if (violations.size() > 10) violations.resize(10);
  INFO("it ran for " << seconds << " s, at last with STRESS_SEED=" << seed - 1);
  CHECK(violations == std::vector<std::string>());
}

TEST_CASE("The history check finds what a group that keeps its promises could not have done") {
  // Key 0: a leader and a follower share execution 0. Key 3: execution 1 is forgotten, then 2 runs.
  History good;
  good.strict_keys = 1;
  good.executions = {{.key = 0, .asked_by = 1, .asked = 10, .begin = 20, .end = 30},
                     {.key = 3, .asked_by = 3, .asked = 10, .begin = 20, .end = 60},
                     {.key = 3, .asked_by = 4, .asked = 40, .begin = 45, .end = 50}};
  const auto ask = [](int key, std::uint64_t operation, Nanoseconds start, Nanoseconds end,
                      std::uint32_t execution, Role role, bool shared) {
    Ask it;
    it.key = key;
    it.operation = operation;
    it.start = start;
    it.end = end;
    it.got = Got::kValue;
    it.execution = execution;
    it.role = role;
    it.shared = shared;
    return it;
  };
  good.asks = {
      ask(0, 1, 10, 31, 0, Role::kLeader, true), ask(0, 2, 15, 32, 0, Role::kFollower, true),
      ask(3, 3, 10, 61, 1, Role::kLeader, false), ask(3, 4, 40, 51, 2, Role::kLeader, false)};
  good.forgettings = {{.key = 3, .start = 25, .end = 35, .certain = true}};
  CHECK(HistoryCheck(good).Violations() == std::vector<std::string>());

  const auto finds = [&](const std::string& what, auto&& change) {
    History bad = good;
    change(bad);
    const HistoryCheck check(bad);
    INFO(what);
    CHECK(std::any_of(check.Violations().begin(), check.Violations().end(),
                      [&](const std::string& it) { return it.starts_with(what); }));
  };
  finds("a caller got a result that another had returned with", [](History& it) {
    it.asks[1].start = 40;
    it.asks[1].end = 41;
  });
  finds("a caller returned before its execution", [](History& it) { it.asks[1].end = 29; });
  finds("a caller got another key's result", [](History& it) { it.asks[1].execution = 1; });
  finds("a caller got a result that no execution made",
        [](History& it) { it.asks[1].execution = kNoExecution; });
  finds("callers of one execution do not agree", [](History& it) { it.asks[1].shared = false; });
  finds("a result that is not shared",
        [](History& it) { it.asks[0].shared = it.asks[1].shared = false; });
  finds("a result that is shared went to one",
        [](History& it) { it.asks.erase(++it.asks.begin()); });
  finds("the leader is not the caller", [](History& it) { it.asks[1].role = Role::kLeader; });
  finds("an execution with two leaders", [](History& it) { it.asks[1].operation = 1; });
  finds("an execution without a leader", [](History& it) { it.executions[0].asked_by = 9; });
  finds("two executions for one key", [](History& it) { it.forgettings.clear(); });
  finds("a caller joined a call that had been forgotten", [](History& it) {
    it.asks[3].execution = 1;
    it.asks[3].end = 62;
  });
  finds("a caller is on a call that was asked to stop",
        [](History& it) { it.executions[0].stopped = true; });
  finds("a caller joined a call that was too old", [](History& it) {
    it.max_age = 5;
    it.asks[1].start = 26;
  });
  finds("a caller that could not leave", [](History& it) { it.asks[1].got = Got::kLeft; });
  finds("a caller that retries", [](History& it) {
    it.executions[0].failed = true;
    it.asks[0].got = it.asks[1].got = Got::kFailure;
    it.asks[1].retries = true;
  });
  finds("a deadlock where", [](History& it) { it.asks[1].got = Got::kDeadlock; });
  finds("more callers on a call", [](History& it) { it.max_callers_per_call = 1; });
  finds("more executions at the same time", [](History& it) { it.max_calls_in_flight = 1; });
}
