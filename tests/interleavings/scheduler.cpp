// SPDX-License-Identifier: MIT

#include "scheduler.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <unordered_map>

#include "runtime.hpp"
#include "search.hpp"

namespace interleave {

thread_local Worker* this_worker = nullptr;
thread_local int in_runtime = 0;

namespace {

constexpr std::size_t kTooManySteps = 20000;
constexpr std::size_t kSpins = 4;  // this many equal reads in a row are taken for a loop

// One thread waits for it, and another gives it.
class Baton {
 public:
  void Give() {
    given_.store(1, std::memory_order_release);
    syscall(SYS_futex, &given_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  void Take() {
    while (given_.exchange(0, std::memory_order_acquire) == 0) {
      syscall(SYS_futex, &given_, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
    }
  }

 private:
  std::atomic<std::uint32_t> given_ = 0;
};

// The next step of a thread.
struct Step {
  enum class Kind : std::uint8_t { kNone, kBegin, kPoint, kLock, kWake, kAtomic };
  Kind kind = Kind::kNone;  // kNone: the thread has finished
  const void* object = nullptr;
  Mode mode = Mode::kNone;             // kPoint only
  Atomic atomic = {};                  // kAtomic only
  const void* mutex = nullptr;         // kWake only: the mutex to lock
  const timespec* deadline = nullptr;  // kWake only
};

struct Object {
  Clock order_read = {}, order_mark = {}, order_write = {};  // the steps that touched it
  Clock released = {};            // what happens before a thread that acquires it
  std::uint64_t version = 0;      // how often it was changed
  const Worker* owner = nullptr;  // the holder, if this is a mutex
};

}  // namespace

struct Worker {
  std::size_t index = 0;
  Baton baton;
  const std::function<void()>* body = nullptr;
  Step next;
  bool woken = false;  // kWake only: woken before the deadline
  std::size_t waiting_since = 0;
  // These detect a loop that waits for an atomic to change. The last step read the object `read`
  // and found `read_version`.
  const void* read = nullptr;
  std::uint64_t read_version = 0;
  std::size_t reads = 0;  // equal reads in a row
  bool yielded = false;   // it has yielded since the read
  bool spins = false;     // its next step would only read the same again
  // The thread's stack. While the thread does not run, nothing below `parked_at` is alive.
  std::uintptr_t stack_begin = 0;
  std::uintptr_t parked_at = 0;
};

namespace {

class Scheduler {
 public:
  static Scheduler& Get() {
    static Scheduler& scheduler = *new Scheduler;  // never destroyed: its threads never stop
    return scheduler;
  }

  Explored Explore(const std::string& name, Search& search,
                   const std::function<void(Run&)>& scenario) {
    Explored explored;
    search_ = &search;
    name_ = name;
    while (search.NextRun()) {
      StartRun();
      {
        Run run;
        scenario(run);
        if (run.bodies.empty() || run.bodies.size() > kMaxThreads) std::abort();
        while (workers_.size() < run.bodies.size()) AddWorker();
        threads_ = run.bodies.size();
        for (std::size_t i = 0; i < threads_; ++i) {
          workers_[i]->body = &run.bodies[i];
          workers_[i]->next.kind = Step::Kind::kBegin;
        }
        Dispatch(nullptr);
        main_.Take();
        for (const auto& check : run.checks) check();
      }
      EndRun();
      ++explored.schedules;
    }
    return explored;
  }

  // ---- Called on the worker that runs

  // Returns when it is this worker's turn to take `step`.
  [[gnu::noinline]] void Reach(const Step& step) {
    Worker& me = *this_worker;
    me.next = step;
    me.parked_at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    Dispatch(&me);
    Commit(me);
  }

  void Lock(const void* mutex) { Reach({.kind = Step::Kind::kLock, .object = mutex}); }

  void Unlock(const void* mutex) {
    OnAccess(mutex, 1, Memory::Kind::kAtomic, nullptr);
    Object& object = objects_[mutex];
    if (object.owner != this_worker) Fail("a mutex is unlocked by a thread that has not locked it");
    object.owner = nullptr;
    Release(object, /*keep=*/false);
    Merge(object.order_write, order_[this_worker->index]);
  }

  bool Wait(const void* object, const void* mutex, const timespec* deadline) {
    Reach({.kind = Step::Kind::kPoint, .object = object, .mode = Mode::kRead});
    OnAccess(object, 1, Memory::Kind::kAtomic, nullptr);
    if (mutex != nullptr) Unlock(mutex);
    return AwaitWake(object, mutex, deadline);
  }

  bool WaitWhile(const std::uint32_t* word, std::uint32_t expected, const timespec* deadline) {
    Reach({.kind = Step::Kind::kPoint, .object = word, .mode = Mode::kRead});
    OnAccess(word, 4, Memory::Kind::kAtomic, nullptr);
    if (*static_cast<const volatile std::uint32_t*>(word) != expected) return true;
    return AwaitWake(word, nullptr, deadline);
  }

  // A futex may already be destroyed, so waking it reads nothing.
  void Wake(const void* object, std::size_t count, bool is_futex) {
    Reach({.kind = Step::Kind::kPoint, .object = object, .mode = Mode::kWrite});
    if (!is_futex) OnAccess(object, 1, Memory::Kind::kAtomic, nullptr);
    for (; count > 0; --count) {
      Worker* longest = nullptr;
      for (std::size_t i = 0; i < threads_; ++i) {
        Worker& worker = *workers_[i];
        if (worker.next.kind != Step::Kind::kWake || worker.next.object != object) continue;
        if (worker.woken) continue;
        if (longest == nullptr || worker.waiting_since < longest->waiting_since) longest = &worker;
      }
      if (longest == nullptr) return;
      longest->woken = true;
    }
  }

  void Yield() { this_worker->yielded = true; }

  timespec Now() {
    Reach({.kind = Step::Kind::kPoint, .object = &now_, .mode = Mode::kRead});
    return now_;
  }
  void PassTime(std::chrono::nanoseconds time) {
    Reach({.kind = Step::Kind::kPoint, .object = &now_, .mode = Mode::kWrite});
    now_ = Later(now_, time.count());
  }
  timespec Later(const timespec& by) {
    const timespec now = Now();
    return Later(now, by.tv_sec * kSecond + by.tv_nsec);
  }

  void OnAtomic(const Atomic& atomic) {
    Worker& me = *this_worker;
    const void* const address = const_cast<const void*>(atomic.address);
    if (!IsIncrement(atomic)) {  // an increment commutes with all that others do to a count
      me.spins = me.read == address && (me.yielded || me.reads >= kSpins);
      Reach({.kind = Step::Kind::kAtomic, .object = address, .atomic = atomic});
    }
    OnAccess(address, atomic.size, Memory::Kind::kAtomic, atomic.code);
    Synchronize(atomic);
  }

  void OnAccess(const void* address, std::size_t size, Memory::Kind kind, const void* code) {
    const Worker& me = *this_worker;
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    for (std::size_t i = 0; i < threads_; ++i) {
      const Worker& other = *workers_[i];
      if (&other == &me || at < other.stack_begin || at >= other.parked_at) continue;
      std::ostringstream text;
      text << "thread " << me.index << " (code " << code << ") uses a frame of thread " << i
           << " that has ended";
      Fail(text.str());
    }
    if (auto problem = memory_.Check({me.index, seen_[me.index], code}, address, size, kind)) {
      Fail(*problem);
    }
  }

  void OnFree(void* memory, std::size_t size, const void* code) {
    OnAccess(memory, size, Memory::Kind::kFree, code);
    freed_.push_back(memory);
  }
  void OnNewMemory(const void* memory, std::size_t size) { memory_.Renew(memory, size); }
  void CountNew() { ++blocks_; }
  void CountFree() { --blocks_; }

  void Fail(const std::string& why) {
    if (failure_.empty()) failure_ = why;
  }

 private:
  void StartRun() {
    memory_.StartRun();
    objects_.clear();
    order_ = {};
    seen_ = {};
    for (std::size_t i = 0; i < kMaxThreads; ++i) seen_[i][i] = 1;
    now_ = {1000, 0};
    current_ = kMaxThreads;
    schedule_.clear();
    trace_.clear();
    failure_.clear();
    blocks_ = 0;
  }

  void EndRun() {
    for (void* const memory : freed_) ReallyFree(memory);
    freed_.clear();
    if (blocks_ != 0) Fail("memory is leaked: " + std::to_string(blocks_) + " blocks");
    if (!failure_.empty()) throw std::runtime_error(Report());
  }

  void AddWorker() {
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    worker.index = workers_.size() - 1;
    pthread_t thread;
    const auto start = [](void* self) -> void* { Get().Serve(*static_cast<Worker*>(self)); };
    if (pthread_create(&thread, nullptr, start, &worker) != 0) std::abort();
    pthread_detach(thread);
    main_.Take();  // from here on, the other workers may read where its stack is
    // Only one worker runs at a time. On one processor, a hand-over is just a context switch.
    cpu_set_t processors;
    if (cpu_ == CPU_SETSIZE) {
      if (sched_getaffinity(0, sizeof(processors), &processors) != 0) return;
      std::size_t skip =
          static_cast<std::size_t>(getpid()) % static_cast<std::size_t>(CPU_COUNT(&processors));
      for (cpu_ = 0; !CPU_ISSET(cpu_, &processors) || skip-- > 0;) ++cpu_;
    }
    CPU_ZERO(&processors);
    CPU_SET(cpu_, &processors);
    pthread_setaffinity_np(thread, sizeof(processors), &processors);
  }

  [[noreturn]] void Serve(Worker& me) {
    in_runtime = 1;
    this_worker = &me;
    pthread_attr_t attributes;
    void* begin = nullptr;
    std::size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) std::abort();
    pthread_attr_getstack(&attributes, &begin, &size);
    pthread_attr_destroy(&attributes);
    me.stack_begin = reinterpret_cast<std::uintptr_t>(begin);
    me.parked_at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    main_.Give();
    for (;;) {
      me.baton.Take();
      Commit(me);
      in_runtime = 0;
      try {
        (*me.body)();
      } catch (...) {
        const InRuntime inside;
        Fail("an exception escaped from a thread of the scenario");
      }
      in_runtime = 1;
      me.parked_at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
      me.next = {};
      Dispatch(&me);
    }
  }

  bool AwaitWake(const void* object, const void* mutex, const timespec* deadline) {
    Worker& me = *this_worker;
    me.woken = false;
    me.waiting_since = schedule_.size();
    Reach({.kind = Step::Kind::kWake, .object = object, .mutex = mutex, .deadline = deadline});
    if (!me.woken && Earlier(now_, *deadline)) now_ = *deadline;
    return me.woken;
  }

  static constexpr std::int64_t kSecond = 1'000'000'000;  // in ns
  static timespec Later(const timespec& than, std::int64_t by) {
    const std::int64_t sum = than.tv_nsec + by;
    return {than.tv_sec + sum / kSecond, sum % kSecond};
  }
  static bool Earlier(const timespec& a, const timespec& b) {
    return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec < b.tv_nsec;
  }

  // ---- Choosing

  // Chooses the worker that runs next. Returns when it is `me`, or at once if `me` has finished or
  // is null (the main thread).
  void Dispatch(Worker* me) {
    State state;
    state.threads = threads_;
    state.current = current_;
    bool all_ended = true;
    for (std::size_t i = 0; i < threads_; ++i) {
      const Worker& worker = *workers_[i];
      state.clocks[i] = order_[i];
      if (worker.next.kind == Step::Kind::kNone) continue;
      all_ended = false;
      state.next[i] = AccessesOf(worker);
      if (CanGoOn(worker)) state.enabled |= Bit(i);
    }
    if (all_ended) return main_.Give();
    if (state.enabled == 0) End("the run hangs: no thread can continue");
    if (schedule_.size() == kTooManySteps) End("the run does not finish");
    current_ = search_->Choose(state);
    schedule_.push_back(static_cast<char>('0' + current_));
    Worker& chosen = *workers_[current_];
    trace_.push_back(chosen.next);
    if (&chosen == me) return;
    const bool ended = me == nullptr || me->next.kind == Step::Kind::kNone;
    chosen.baton.Give();
    if (!ended) me->baton.Take();
  }

  bool CanGoOn(const Worker& worker) {
    const Step& step = worker.next;
    switch (step.kind) {
      case Step::Kind::kNone:
        return false;
      case Step::Kind::kBegin:
      case Step::Kind::kPoint:
        return true;
      case Step::Kind::kLock:
        return objects_[step.object].owner == nullptr;
      case Step::Kind::kWake:
        return (worker.woken || step.deadline != nullptr) &&
               (step.mutex == nullptr || objects_[step.mutex].owner == nullptr);
      case Step::Kind::kAtomic:
        return !worker.spins || objects_[step.object].version != worker.read_version ||
               ModeOf(step.atomic) == Mode::kWrite;
    }
    return false;
  }

  Accesses AccessesOf(const Worker& worker) const {
    const Step& step = worker.next;
    switch (step.kind) {
      case Step::Kind::kNone:
      case Step::Kind::kBegin:
        return {};
      case Step::Kind::kPoint:
        return {{{step.object, step.mode}}};
      case Step::Kind::kLock:
        return {{{step.object, Mode::kWrite}}};
      case Step::Kind::kWake:
        return {{{step.object, Mode::kMark},
                 {step.mutex, step.mutex != nullptr ? Mode::kWrite : Mode::kNone},
                 {&now_, worker.woken ? Mode::kNone : Mode::kWrite}}};
      case Step::Kind::kAtomic:
        return {{{step.object, ModeOf(step.atomic)}}};
    }
    return {};
  }

  // ---- Atomic operations

  static std::uint64_t Load(const Atomic& atomic) {
    std::uint64_t value = 0;
    std::memcpy(&value, const_cast<const void*>(atomic.address), atomic.size);
    return value;
  }

  // These recognize one more and one fewer owner, as std::shared_ptr and std::stop_source count
  // them.
  static bool IsIncrement(const Atomic& atomic) {
    return atomic.kind == Atomic::Kind::kAdd && atomic.size == 4 && atomic.operand == 1 &&
           (atomic.order == __ATOMIC_ACQ_REL || atomic.order == __ATOMIC_RELAXED);
  }
  static bool IsDecrement(const Atomic& atomic) {
    return atomic.kind == Atomic::Kind::kAdd && atomic.size == 4 && atomic.operand == 0xFFFF'FFFF &&
           atomic.order == __ATOMIC_ACQ_REL;
  }

  // Returns the mode that the operation would have now.
  static Mode ModeOf(const Atomic& atomic) {
    const std::uint64_t value = Load(atomic);
    bool changes = true;
    switch (atomic.kind) {
      case Atomic::Kind::kLoad:
        // libstdc++'s shared_ptr reads both its counts at once. If both are 1, it destroys the
        // object.
        changes = atomic.size == 8 && value == 0x1'0000'0001;
        break;
      case Atomic::Kind::kAdd:
        changes = !IsDecrement(atomic) || value <= 2;  // all but the last two decrements commute
        break;
      case Atomic::Kind::kExchange:
        changes = value != atomic.operand;
        break;
      case Atomic::Kind::kCompareExchange:
        changes = value == atomic.operand;
        break;
      case Atomic::Kind::kStore:
      case Atomic::Kind::kUpdate:
        break;
    }
    return changes ? Mode::kWrite : Mode::kRead;
  }

  // Orders what comes before and after the operation as C++ does.
  void Synchronize(const Atomic& atomic) {
    // An increment orders nothing: that would hide one that comes too late.
    if (IsIncrement(atomic)) return;
    Object& object = objects_[const_cast<const void*>(atomic.address)];
    const int order = atomic.order;
    const bool stores = ModeOf(atomic) == Mode::kWrite || IsDecrement(atomic);
    if (atomic.kind != Atomic::Kind::kStore &&
        (order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
         order == __ATOMIC_SEQ_CST)) {
      Merge(seen_[this_worker->index], object.released);
    }
    if (atomic.kind == Atomic::Kind::kLoad || !stores) return;
    if (order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST) {
      Release(object, /*keep=*/atomic.kind != Atomic::Kind::kStore);
    } else if (atomic.kind == Atomic::Kind::kStore) {
      object.released = {};
    }
  }

  void Release(Object& object, bool keep) {
    Clock& mine = seen_[this_worker->index];
    if (!keep) object.released = {};
    Merge(object.released, mine);
    ++mine[this_worker->index];
  }

  void Own(const Worker& me, const void* mutex) {
    Object& object = objects_[mutex];
    object.owner = &me;
    Merge(seen_[me.index], object.released);
  }

  // ---- Taking a step

  void Commit(Worker& me) {
    const Step& step = me.next;
    const Accesses accesses = AccessesOf(me);
    Clock& clock = order_[me.index];
    for (const Access& access : accesses) {
      if (access.mode == Mode::kNone) continue;
      const Object& object = objects_[access.object];
      Merge(clock, object.order_write);
      if (access.mode != Mode::kRead) Merge(clock, object.order_read);
      if (access.mode != Mode::kMark) Merge(clock, object.order_mark);
    }
    ++clock[me.index];
    bool changed = false;
    for (const Access& access : accesses) {
      if (access.mode == Mode::kNone) continue;
      Object& object = objects_[access.object];
      if (access.mode == Mode::kRead) Merge(object.order_read, clock);
      if (access.mode == Mode::kMark) Merge(object.order_mark, clock);
      if (access.mode == Mode::kWrite) {
        Merge(object.order_write, clock);
        ++object.version;
        changed = true;
      }
    }
    if (step.kind == Step::Kind::kAtomic && !changed && step.atomic.kind != Atomic::Kind::kAdd) {
      const std::uint64_t version = objects_[step.object].version;
      me.reads = me.read == step.object && me.read_version == version ? me.reads + 1 : 1;
      me.read = step.object;
      me.read_version = version;
    } else {
      me.read = nullptr;
      me.reads = 0;
    }
    me.yielded = false;
    me.spins = false;
    if (step.kind == Step::Kind::kLock) {
      OnAccess(step.object, 1, Memory::Kind::kAtomic, nullptr);
      Own(me, step.object);
    }
    if (step.kind == Step::Kind::kWake && step.mutex != nullptr) Own(me, step.mutex);
  }

  // ---- Reporting

  [[noreturn]] void End(const char* why) {
    Fail(why);
    std::fprintf(stderr, "%s\n", Report().c_str());
    std::abort();
  }

  std::string Report() const {
    static const char* const kKinds[] = {"end", "begin", "point", "lock", "wake", "atomic"};
    static const char* const kAtomics[] = {"load", "store",  "exchange",
                                           "add",  "update", "compare-exchange"};
    std::ostringstream text;
    text << "interleavings: " << name_ << ": " << failure_ << "\n  steps:";
    std::unordered_map<const void*, std::size_t> numbers;
    const auto number = [&numbers](const void* object) {
      return numbers.try_emplace(object, numbers.size() + 1).first->second;
    };
    const auto tell = [&](char thread, const Step& step) {
      text << "\n    thread " << thread << ' ' << kKinds[static_cast<int>(step.kind)];
      if (step.object != nullptr) text << " object " << number(step.object);
      if (step.kind == Step::Kind::kAtomic) {
        text << ' ' << kAtomics[static_cast<int>(step.atomic.kind)] << " at code "
             << step.atomic.code;
      }
    };
    for (std::size_t i = 0; i < trace_.size(); ++i) tell(schedule_[i], trace_[i]);
    text << "\n  next:";
    for (std::size_t i = 0; i < threads_; ++i) {
      tell(static_cast<char>('0' + i), workers_[i]->next);
    }
    text << "\n  to replay: INTERLEAVINGS_REPLAY=" << name_ << ':' << schedule_;
    if (const std::string shorter = search_->HowToReplay(); !shorter.empty()) {
      text << ", or " << shorter;
    }
    return text.str();
  }

  std::vector<std::unique_ptr<Worker>> workers_;  // never stopped: one that hangs could not be
  int cpu_ = CPU_SETSIZE;

  // The current search
  Search* search_ = nullptr;
  std::string name_;

  // The current run
  std::size_t threads_ = 0;
  std::size_t current_ = kMaxThreads;
  std::unordered_map<const void*, Object> objects_;
  std::array<Clock, kMaxThreads> order_ = {};  // the order that the search assumes
  std::array<Clock, kMaxThreads> seen_ = {};   // the order that C++ guarantees
  Memory memory_;
  std::vector<void*> freed_;
  std::size_t blocks_ = 0;  // allocated by scheduled threads, and not freed
  timespec now_ = {};
  std::string schedule_;
  std::vector<Step> trace_;
  std::string failure_;
  Baton main_;  // the main thread's
};

}  // namespace

void OnAccess(const void* address, std::size_t size, Memory::Kind kind, const void* code) {
  Scheduler::Get().OnAccess(address, size, kind, code);
}
void OnFree(void* memory, std::size_t size, const void* code) {
  Scheduler::Get().OnFree(memory, size, code);
}
void OnNewMemory(const void* memory, std::size_t size) {
  Scheduler::Get().OnNewMemory(memory, size);
}
void CountNew() { Scheduler::Get().CountNew(); }
void CountFree() { Scheduler::Get().CountFree(); }
void OnAtomic(const Atomic& atomic) { Scheduler::Get().OnAtomic(atomic); }
void Lock(const void* mutex) { Scheduler::Get().Lock(mutex); }
void Unlock(const void* mutex) { Scheduler::Get().Unlock(mutex); }
bool Wait(const void* object, const void* mutex, const timespec* deadline) {
  return Scheduler::Get().Wait(object, mutex, deadline);
}
bool WaitWhile(const std::uint32_t* word, std::uint32_t expected, const timespec* deadline) {
  return Scheduler::Get().WaitWhile(word, expected, deadline);
}
void Notify(const void* condition, std::size_t count) {
  Scheduler::Get().Wake(condition, count, /*is_futex=*/false);
}
void WakeFutex(const void* word, std::size_t count) {
  Scheduler::Get().Wake(word, count, /*is_futex=*/true);
}
void Yield() { Scheduler::Get().Yield(); }
timespec Now() { return Scheduler::Get().Now(); }
timespec Later(const timespec& by) { return Scheduler::Get().Later(by); }

void Point(const void* object, Mode mode) {
  if (this_worker == nullptr) return;  // before the threads start, or after they have finished
  const InRuntime inside;
  Scheduler::Get().Reach({.kind = Step::Kind::kPoint, .object = object, .mode = mode});
}
std::size_t ThisThread() { return this_worker != nullptr ? this_worker->index : kMaxThreads; }
void PassTime(std::chrono::nanoseconds time) {
  const InRuntime inside;
  Scheduler::Get().PassTime(time);
}
void Fail(const std::string& why) {
  const InRuntime inside;
  Scheduler::Get().Fail(why);
}

Untracked::Untracked() { ++in_runtime; }
Untracked::~Untracked() { --in_runtime; }

Explored Explore(const std::string& name, Search& search,
                 const std::function<void(Run&)>& scenario) {
  const InRuntime inside;
  if (const char* const wanted = std::getenv("INTERLEAVINGS_REPLAY")) {
    const std::string_view replayed = wanted;
    const std::size_t colon = replayed.rfind(':');
    if (replayed.substr(0, colon) != name) return {};
    Replay replay(replayed.substr(colon + 1));
    const Explored explored = Scheduler::Get().Explore(name, replay, scenario);
    std::fprintf(stderr, "interleavings: %s passes under that schedule\n", name.c_str());
    return explored;
  }
  return Scheduler::Get().Explore(name, search, scenario);
}

}  // namespace interleave
