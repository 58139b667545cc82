// SPDX-License-Identifier: MIT
#pragma once

// LeaseRenewer: a thread that renews the leases of a process's leaders while their `fn` runs. It
// also gives back the leases of calls that no caller of the process wants any more. Each group has
// one, which starts before its first lease is taken.

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
#include "outage.hpp"
#include "payload.hpp"
#include "server.hpp"

namespace singleflight::redis::detail {

// A HeldLease is a lease that this process has taken, or is about to take.
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
  std::uint64_t fence = 0;       // set before other threads see it
  Clock::time_point taken = {};  // set before other threads see it
  // The server keeps the lease at least until then. Once the lease is known to be lost, this is in
  // the past. Relaxed: no other data depends on it.
  std::atomic<Clock::rep> held_until = 0;
  // `renewed` and `state` are guarded by LeaseRenewer::mutex_.
  Clock::time_point renewed = {};
  enum class State : unsigned char {
    kKept,
    kLost,       // the server no longer holds it for us, or it is too old
    kUnwanted,   // no caller of this process wants its outcome any more
    kGivenBack,  // it was kUnwanted, and the renewer has given it back
  } state = State::kKept;
};

// The list node is allocated before its lease is taken, and is only spliced after that. So keeping
// a lease that was taken cannot fail for want of memory.
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

  // True in a forked child: it has no renewal thread, and must not act for its parent.
  bool IsForked() const noexcept { return process_ != ::getpid(); }

  // Starts the thread if it does not run yet. This comes before a lease is taken, so that no lease
  // is taken in vain if the thread cannot be started.
  void Start() {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }

  // Returns how long a lease that was taken at `taken` may last from now on.
  std::chrono::milliseconds DurationFor(Clock::time_point taken) const {
    if (!max_age_) return lease_;
    const auto left = *max_age_ - (Clock::now() - taken);
    return std::min(lease_, std::chrono::floor<std::chrono::milliseconds>(left));
  }

  // Has its lease renewed during its lifetime.
  class Renewal {
   public:
    Renewal(LeaseRenewer& renewer, LeaseList one) noexcept
        : renewer_(renewer), entry_(one.begin()) {
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

    // Has the renewer give the lease back, so that another process takes over. Does not wait for
    // that.
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
  // Looks after the leases once a tick. It sleeps only after a whole tick without leases, so that a
  // leader whose `fn` is quick need not wake it.
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
      const auto found = std::find_if(held_.begin(), held_.end(), [](const auto& held) {
        return held->state == HeldLease::State::kUnwanted;
      });
      const std::shared_ptr<HeldLease> lease = *found;
      lease->state = HeldLease::State::kGivenBack;
      --unwanted_;
      lock.unlock();
      lease->HoldUntil(Clock::time_point::min());
      try {
        leases_.Publish(lease->keys, lease->token,
                        Pack({PayloadKind::kAbandoned, {}}, lease->token));
      } catch (const std::exception&) {  // no server or no memory: the lease expires instead
      }
      lock.lock();
    }
  }

  // Renews the leases that are due. The one that was renewed longest ago is first in the list. A
  // lease that cannot be renewed does not hold up the others: an endpoint that does not answer is
  // waited for only once.
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

  // False if the lease is lost. If that is unknown, renewal is tried again at the next tick.
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
  LeaseList held_;            // the lease that was renewed longest ago is first
  std::size_t unwanted_ = 0;  // leases in held_ whose state is kUnwanted
  bool used_ = false;         // a lease was added since the thread last looked
  bool asleep_ = false;       // the thread waits until a lease is added
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace singleflight::redis::detail
