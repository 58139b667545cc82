// SPDX-License-Identifier: MIT
#pragma once

// BatcherCore: collects keys into batches, decides when and where each batch runs, and lands its
// calls.

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include "../../batcher_options.hpp"
#include "../../options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../../timeout.hpp"
#include "../any_task.hpp"
#include "../errors.hpp"
#include "../event.hpp"
#include "../group_like.hpp"
#include "../intrusive_list.hpp"
#include "../thread_mark.hpp"
#include "../thread_reaper.hpp"
#include "batch.hpp"
#include "fn.hpp"

namespace singleflight::detail {

// Shared by the Batcher, its threads, and the tasks that its executor has. A task may outlive the
// Batcher.
//
// CoDo and the like see a group that does the work of its calls itself: see GroupWithOwnFn.
template <class G>
class BatcherCore : public std::enable_shared_from_this<BatcherCore<G>> {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using Batch = KeyBatch<G>;
  using Keys = typename Batch::Keys;
  using Phase = typename Batch::Phase;
  using Lock = std::unique_lock<std::mutex>;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = typename G::HashType;
  using KeyEqualType = typename G::KeyEqualType;
  using Waiter = typename G::Waiter;
  using Lead = UnusedLead;

  // `executor` is null if there is none.
  BatcherCore(G& group, const BatcherOptions& options, std::unique_ptr<BatcherFn<G>> fn,
              std::unique_ptr<BatcherExecutor<G>> executor)
      : group_(group),
        max_keys_(options.max_keys),
        max_delay_(LimitOf(options.max_delay)),
        max_threads_(options.max_threads),
        takes_stop_(fn->TakesStop()),
        executor_(std::move(executor)),
        fn_(std::move(fn)) {}

  template <class K, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    return group_.Join(key, waiter, Adding(key, launch), on_failure);
  }
  template <class K, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return group_.JoinAgain(key, waiter, Adding(key, launch));
  }
  void GiveUp(Waiter& waiter) noexcept { group_.GiveUp(waiter); }
  template <class K, class Launch>
  auto Join(const K& key, Launch&& launch) {
    return group_.Join(key, Adding(key, launch));
  }

  // For a thread that has joined, and is about to block: it may be the one that would have called
  // Flush.
  void BeforeBlocking() {
    if (!max_delay_) Flush();
  }

  std::size_t Flush() {
    std::size_t count = 0;
    std::shared_ptr<Batch> batch;
    {
      const Lock lock(mutex_);
      batch = std::move(waiting_);
      if (batch != nullptr) count = batch->keys.size();
    }
    if (batch != nullptr) HandOver(std::move(batch));
    return count;
  }

  // See ~Batcher.
  void Close() noexcept {
    Lock lock(mutex_);
    closed_ = true;
    open_ = nullptr;
    if (Batch* const batch = waiting_.get()) batch->self = std::move(waiting_);
    while (Batch* const batch = FindUnsettled()) Settle(lock, *batch);
    not_in_use_.wait(lock, [this] { return in_use_ == 0; });
    work_.notify_all();
    lock.unlock();
    threads_.JoinAll();
    fn_.reset();
  }

  BatcherStats GetStats() const {
    const Lock lock(mutex_);
    BatcherStats stats{fn_->Batches(), fn_->KeysAsked(), fn_->Dropped(), 0};
    for (const ListLink* link = batches_.next; link != &batches_; link = link->next) {
      const Batch& batch = static_cast<const Batch&>(*link);
      if (batch.phase == Phase::kWaiting) stats.waiting += batch.keys.size();
    }
    return stats;
  }

  // Runs a batch on this thread, unless it has run, or is not to be run any more.
  void Run(Batch& batch) {
    Keys keys;
    {
      const Lock lock(mutex_);
      if (batch.phase != Phase::kWaiting) return;
      batch.phase = Phase::kRunning;
      if (open_ == &batch) open_ = nullptr;
      keys.swap(batch.keys);
      ++in_use_;
    }
    const LeadingScope leading;
    {
      const InUse in_use{*this};
      for (BatcherKey<G>& key : keys) key.running.emplace(key.lead.Target());
      fn_->Load(keys, [&](const StopSource& stop) {
        Lock lock(mutex_);
        batch.stop = stop;
        if (!closed_) return;
        lock.unlock();
        StopSource(stop).request_stop();
      });
    }
    Land(batch, std::move(keys));
  }

  // For the batch's destructor.
  void Remove(Batch& batch) noexcept {
    const Lock lock(mutex_);
    batch.Unlink();
    if (open_ == &batch) open_ = nullptr;
  }

 private:
  // While it lives, Close waits.
  struct InUse {
    ~InUse() {
      const Lock lock(core.mutex_);
      --core.in_use_;
      core.not_in_use_.notify_all();
    }
    BatcherCore& core;
  };

  // What is too long to be represented is no limit.
  static std::optional<std::chrono::nanoseconds> LimitOf(const std::optional<Duration>& delay) {
    using std::chrono::nanoseconds;
    if (!delay || *delay == (nanoseconds::max)()) return std::nullopt;
    return std::max<nanoseconds>(*delay, nanoseconds::zero());
  }

  // ---- Adding a key

  // What this throws fails one call alone.
  template <class K, class Launch>
  auto Adding(const K& key, Launch& launch) {
    return [this, &key, &launch](typename G::Lead lead) {
      Keys one;
      one.emplace_back(detail::CopyKey<G>(key), std::move(lead));
      if (takes_stop_) one.back().stop = one.back().lead.GetStopToken();
      std::invoke(launch, UnusedLead());
      const auto kept = this->shared_from_this();  // a waiter may destroy the Batcher
      one.back().lead.HandedOver();                // the batch may run in Add
      Add(std::move(one));
    };
  }

  void Add(Keys one) {
    std::shared_ptr<Batch> opened;  // this and the next are released after the lock
    std::shared_ptr<Batch> due;
    {
      const Lock lock(mutex_);
      if (closed_) detail::Throw(std::errc::owner_dead, "singleflight: the Batcher was destroyed");
      if (open_ == nullptr) {
        opened = std::make_shared<Batch>(this->shared_from_this(), Timeout(max_delay_).Deadline());
        if (NeedsThread()) WakeThread();
        opened->InsertBefore(batches_);
        open_ = opened.get();
        waiting_ = opened;
      }
      open_->keys.splice(open_->keys.end(), one);
      const bool full = open_->keys.size() >= max_keys_;
      if (full || IsHandedOverAtOnce()) due = std::move(waiting_);
      if (full) open_ = nullptr;
    }
    if (due != nullptr) HandOver(std::move(due));
  }

  // Whether the executor is given a batch when its first key comes.
  bool IsHandedOverAtOnce() const noexcept {
    return executor_ != nullptr && max_delay_ && (max_delay_->count() == 0 || max_keys_ == 1);
  }
  bool NeedsThread() const noexcept { return max_delay_ && !IsHandedOverAtOnce(); }

  // ---- Running a batch

  void HandOver(std::shared_ptr<Batch> batch) {
    if (executor_ != nullptr) {
      Execute(std::move(batch));
    } else if (!max_delay_) {
      Run(*batch);
    } else {
      const Lock lock(mutex_);
      Batch& ready = *batch;
      ready.self = std::move(batch);
      TryToWakeThread();
    }
  }

  void Execute(std::shared_ptr<Batch> batch) {
    std::exception_ptr error;
    try {
      executor_->Execute(BatcherTask<G>(batch));
    } catch (...) {
      error = Caught();
    }
    if (error != nullptr) Refuse(*batch, error);
  }

  // The executor threw: nothing else will run the batch, unless it has run already.
  void Refuse(Batch& batch, const std::exception_ptr& error) {
    Keys keys;
    {
      const Lock lock(mutex_);
      if (batch.phase != Phase::kWaiting) return;
      if (open_ == &batch) open_ = nullptr;
      keys.swap(batch.keys);
      batch.phase = Phase::kLanding;
    }
    const LeadingScope leading;
    for (BatcherKey<G>& key : keys) {
      key.running.emplace(key.lead.Target());
      key.Fail(error);
    }
    Land(batch, std::move(keys));
  }

  // Lands calls that have an outcome. Until the last has landed, this thread counts as the leader
  // of the others. A waiter that is notified may destroy the Batcher, which lands the rest.
  void Land(Batch& batch, Keys keys) {
    Lock lock(mutex_);
    batch.phase = Phase::kLanding;
    batch.keys.swap(keys);
    while (!batch.keys.empty()) LandOne(lock, batch);
  }

  void LandOne(Lock& lock, Batch& batch) {
    {
      Keys one;
      one.splice(one.begin(), batch.keys, batch.keys.begin());
      lock.unlock();
      one.front().lead.Land(std::move(*one.front().outcome));
    }
    lock.lock();
  }

  // ---- Closing

  static bool IsUnsettled(const Batch& batch) noexcept {
    switch (batch.phase) {
      case Phase::kWaiting:
        return true;
      case Phase::kRunning:
        return batch.stop.stop_possible() && !batch.stop.stop_requested();
      case Phase::kLanding:
        return !batch.keys.empty();
    }
    return false;
  }

  Batch* FindUnsettled() noexcept {
    for (ListLink* link = batches_.next; link != &batches_; link = link->next) {
      Batch& batch = static_cast<Batch&>(*link);
      if (IsUnsettled(batch)) return &batch;
    }
    return nullptr;
  }

  void Settle(Lock& lock, Batch& batch) noexcept {
    if (batch.phase == Phase::kLanding) {
      LandOne(lock, batch);
    } else if (batch.phase == Phase::kRunning) {
      StopSource stop = batch.stop;
      lock.unlock();
      stop.request_stop();
      lock.lock();
    } else {
      batch.phase = Phase::kLanding;
      {
        Keys dropped;
        dropped.swap(batch.keys);
        const std::shared_ptr<Batch> self = std::move(batch.self);
        lock.unlock();  // now the calls land with `owner_dead`
      }
      lock.lock();
    }
  }

  // ---- The batcher's threads. All of this is called under the lock.

  // Makes sure that a thread looks for work: now, or if there may be no more threads, when it has
  // finished its batch.
  //
  // Errors: throws what starting a thread throws.
  void WakeThread() {
    if (free_threads_ > 0) {
      work_.notify_one();
    } else if (thread_count_ < max_threads_) {
      threads_.Start(AnyTask(this->shared_from_this(), [](const std::shared_ptr<void>& core) {
        static_cast<BatcherCore*>(core.get())->Work();
      }));
      ++thread_count_;
      ++free_threads_;
    }
  }

  // If there is no thread to be had, those that are busy will come back.
  void TryToWakeThread() noexcept {
    try {
      WakeThread();
    } catch (...) {
    }
  }

  // What a thread of the batcher does. It stops if there is nothing to do for two others already.
  void Work() {
    Lock lock(mutex_);
    while (!closed_) {
      if (std::shared_ptr<Batch> batch = TakeDue()) {
        --free_threads_;
        if (waiting_ != nullptr || FindReady() != nullptr) TryToWakeThread();
        lock.unlock();
        if (executor_ != nullptr) {
          Execute(std::move(batch));
        } else {
          Run(*batch);
        }
        batch.reset();
        lock.lock();
        ++free_threads_;
      } else if (free_threads_ > kMostFreeThreads) {
        break;
      } else if (const Deadline due = waiting_ != nullptr ? waiting_->due : std::nullopt) {
        work_.wait_until(lock, *due);
      } else {
        work_.wait(lock);
      }
    }
    --free_threads_;
    --thread_count_;
  }

  // Returns a batch that must be run, or else the one whose time has come.
  std::shared_ptr<Batch> TakeDue() noexcept {
    if (Batch* const ready = FindReady()) return std::move(ready->self);
    if (waiting_ == nullptr || !waiting_->due) return nullptr;
    if (std::chrono::steady_clock::now() < *waiting_->due) return nullptr;
    return std::move(waiting_);
  }

  Batch* FindReady() noexcept {
    for (ListLink* link = batches_.next; link != &batches_; link = link->next) {
      Batch& batch = static_cast<Batch&>(*link);
      if (batch.self != nullptr) return &batch;
    }
    return nullptr;
  }

  static constexpr std::size_t kMostFreeThreads = 2;

  G& group_;
  const std::size_t max_keys_;
  const std::optional<std::chrono::nanoseconds> max_delay_;
  const std::size_t max_threads_;
  const bool takes_stop_;
  const std::unique_ptr<BatcherExecutor<G>> executor_;
  std::unique_ptr<BatcherFn<G>> fn_;  // used only before Close, or while in_use_ counts it

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Batch* open_ = nullptr;           // takes keys. Null: the next key opens a batch
  std::shared_ptr<Batch> waiting_;  // the open batch, until it is given to what runs it
  ListLink batches_;                // every KeyBatch
  std::size_t in_use_ = 0;          // threads that use fn_, or what `fn` returned
  bool closed_ = false;
  std::size_t thread_count_ = 0;        // threads of the batcher
  std::size_t free_threads_ = 0;        // those that wait for work, or are about to look for it
  std::condition_variable work_;        // they wait for it
  std::condition_variable not_in_use_;  // Close waits until in_use_ is 0

  ThreadReaper threads_;
};

}  // namespace singleflight::detail
