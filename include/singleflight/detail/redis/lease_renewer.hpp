// SPDX-License-Identifier: MIT
#pragma once

// LeaseRenewer: the thread that renews the leases of a process's leaders while their `fn` runs, and
// gives back those that nobody wants any longer. There is one a group, from its first lease on.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "../../redis_options.hpp"
#include "connection.hpp"
#include "lease.hpp"
#include "payload.hpp"
#include "server.hpp"

namespace singleflight::redis::detail {

// A lease that this process has taken.
struct HeldLease {
  HeldLease(const RedisKeys& its_keys, std::string its_token)
      : keys(its_keys), token(std::move(its_token)) {}

  bool IsHeld() const noexcept {
    return Clock::now().time_since_epoch().count() < held_until.load(std::memory_order_relaxed);
  }
  void HoldUntil(Clock::time_point time) noexcept {
    held_until.store(time.time_since_epoch().count(), std::memory_order_relaxed);
  }

  const RedisKeys keys;
  const std::string token;
  std::uint64_t fence = 0;       // set before others see it
  Clock::time_point taken = {};  // likewise
  // The server ends it no sooner; in the past once it is known to be lost. Relaxed: only a time.
  std::atomic<Clock::rep> held_until = 0;
  // Guarded by the keeper's mutex.
  Clock::time_point renewed = {};
  enum class State : unsigned char {
    kKept,
    kLost,       // the server has given it to somebody else, or it was too old
    kUnwanted,   // nobody of this process wants its outcome any longer
    kGivenBack,  // by the keeper, for that reason
  } state = State::kKept;
};

// One, or none, with what it takes to keep it: a lease that was taken is not to be lost for want of
// memory.
using LeaseList = std::list<std::shared_ptr<HeldLease>>;

class LeaseRenewer {
 public:
  LeaseRenewer(Server& server, LeaseCommands& leases, const Options& options)
      : server_(server),
        leases_(leases),
        lease_(options.lease),
        max_age_(options.group.max_age),
        tick_(std::max<Clock::duration>(lease_ / 4, std::chrono::milliseconds(1))) {}

  ~LeaseRenewer() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  LeaseRenewer(const LeaseRenewer&) = delete;
  LeaseRenewer& operator=(const LeaseRenewer&) = delete;

  // A child process has no keeper, and is not to speak for its parent.
  bool IsForked() const noexcept { return process_ != ::getpid(); }

  // Before a lease is taken, so that none is taken in vain where there can be no more threads.
  void Start() {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }

  // How long a lease that was taken then may last from now on.
  std::chrono::milliseconds DurationFor(Clock::time_point taken) const {
    if (!max_age_) return lease_;
    const auto left = *max_age_ - (Clock::now() - taken);
    return std::min(lease_, std::chrono::floor<std::chrono::milliseconds>(left));
  }

  // While there is one, its lease is renewed.
  class Renewal {
   public:
    Renewal(LeaseRenewer& keeper, LeaseList one) noexcept : renewer_(keeper), entry_(one.begin()) {
      Lease().renewed = Lease().taken;
      const std::lock_guard lock(renewer_.mutex_);
      renewer_.held_.splice(renewer_.held_.end(), one);
      renewer_.used_ = true;
      if (renewer_.asleep_) renewer_.wake_.notify_one();
    }
    ~Renewal() {
      if (renewer_.IsForked()) return;
      const std::lock_guard lock(renewer_.mutex_);
      if (Lease().state == HeldLease::State::kUnwanted) --renewer_.unwanted_;
      renewer_.held_.erase(entry_);
    }
    Renewal(const Renewal&) = delete;
    Renewal& operator=(const Renewal&) = delete;

    // Has the keeper give it back, so that others take over. Does not wait for that.
    void GiveUp() noexcept {
      if (renewer_.IsForked()) return;
      const std::lock_guard lock(renewer_.mutex_);
      if (Lease().state != HeldLease::State::kKept) return;
      Lease().state = HeldLease::State::kUnwanted;
      ++renewer_.unwanted_;
      renewer_.wake_.notify_one();
    }

    HeldLease::State StateNow() const noexcept {
      const std::lock_guard lock(renewer_.mutex_);
      return Lease().state;
    }

   private:
    HeldLease& Lease() const noexcept { return **entry_; }

    LeaseRenewer& renewer_;
    LeaseList::iterator entry_;
  };

 private:
  // Looks after the leases once a tick, and sleeps only when there were none for a whole one: so
  // that a leader whose `fn` is quick need not wake it.
  void Run() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      if (held_.empty() && !used_) {
        asleep_ = true;
        wake_.wait(lock, [this] { return ending_ || used_; });
        asleep_ = false;
      }
      used_ = false;
      wake_.wait_for(lock, tick_, [this] { return ending_ || unwanted_ > 0; });
      GiveBackUnwanted(lock);
      RenewDue(lock);
    }
  }

  void GiveBackUnwanted(std::unique_lock<std::mutex>& lock) {
    while (unwanted_ > 0 && !ending_) {
      const auto found = std::ranges::find(held_, HeldLease::State::kUnwanted,
                                           [](const auto& lease) { return lease->state; });
      const std::shared_ptr<HeldLease> lease = *found;
      lease->state = HeldLease::State::kGivenBack;
      --unwanted_;
      lock.unlock();
      lease->HoldUntil(Clock::time_point::min());
      try {
        leases_.Publish(lease->keys, lease->token,
                        Pack({PayloadKind::kAbandoned, {}}, lease->token));
      } catch (const std::exception&) {  // the server is away, or memory: then it expires
      }
      lock.lock();
    }
  }

  // The first in the list was renewed the longest time ago. A lease that cannot be renewed does not
  // keep others from it: an endpoint that does not answer is waited for once only.
  void RenewDue(std::unique_lock<std::mutex>& lock) {
    const Clock::time_point now = Clock::now();
    std::optional<Endpoint> away;
    while (!held_.empty() && held_.front()->renewed + tick_ <= now && !ending_) {
      const std::shared_ptr<HeldLease> lease = held_.front();
      held_.splice(held_.end(), held_, held_.begin());
      lease->renewed = now;
      if (lease->state != HeldLease::State::kKept) continue;
      lock.unlock();
      const bool is_lost = !Renew(*lease, away);
      lock.lock();
      if (is_lost && lease->state == HeldLease::State::kKept) {
        lease->state = HeldLease::State::kLost;
      }
    }
  }

  // False if it is lost; if nobody knows, it is tried again at the next tick.
  bool Renew(HeldLease& lease, std::optional<Endpoint>& away) {
    try {
      Endpoint where = server_.EndpointOf(lease.keys.Lease());
      if (where == away) return true;
      const Clock::time_point before = Clock::now();
      const std::chrono::milliseconds duration = DurationFor(lease.taken);
      try {
        const bool kept = duration.count() > 0 && leases_.Renew(lease.keys, lease.token, duration);
        lease.HoldUntil(kept ? before + duration : Clock::time_point::min());
        return kept;
      } catch (const Outage& outage) {
        if (outage.IsConnectionLoss()) away = std::move(where);
      }
    } catch (const std::exception&) {  // no memory
    }
    return true;
  }

  const ::pid_t process_ = ::getpid();
  Server& server_;
  LeaseCommands& leases_;
  const std::chrono::milliseconds lease_;
  const std::optional<std::chrono::nanoseconds> max_age_;
  const Clock::duration tick_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  LeaseList held_;            // of any number
  std::size_t unwanted_ = 0;  // in held_, in that state
  bool used_ = false;         // since the thread last looked
  bool asleep_ = false;       // the thread, until one is held
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace singleflight::redis::detail
