// SPDX-License-Identifier: MIT
#pragma once

// Client: what a redis::Group does on the server, whatever its Value. The leader of a process's
// call takes the lease, or follows the process that has it (TakeOrFollow). A leader that has the
// lease gives it back with the outcome (Leadership).

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../../redis_options.hpp"
#include "../../stop_token.hpp"
#include "../event.hpp"
#include "../outcome.hpp"
#include "check_options.hpp"
#include "connection.hpp"
#include "lease.hpp"
#include "lease_renewer.hpp"
#include "outage.hpp"
#include "payload.hpp"
#include "posix.hpp"
#include "server.hpp"

namespace singleflight::redis::detail {

// Lands the process's call when its leader leaves while it waits for another process. The callers
// that had joined it ask again. A user never sees this exception.
struct HandedOver {};

// Holds the limits of one caller of Do, and what that caller did if it led its process's call.
//
// A caller that leaves is counted exactly once. The process's group counts one that is stopped, and
// any of its followers that times out. Its leader cannot time out there: if it times out while it
// follows another process, redis::Group counts it (Counters::timed_out).
struct Caller {
  // Forwards the caller's stop: first to the process's group, which counts the caller as left, and
  // then to the wait for the server.
  struct PassStop {
    void operator()() const noexcept {
      if (!caller.leaves.exchange(true)) caller.stop.request_stop();
      caller.stop_passed.request_stop();
    }
    Caller& caller;
  };

  singleflight::detail::Deadline deadline = {};
  StopSource stop{kNoStopState};         // seen by the process's group
  StopSource stop_passed{kNoStopState};  // seen by the wait for the server
  std::atomic<bool> leaves = false;      // set by its stop or its timeout, whichever comes first

  enum class Part : unsigned char {
    kNone,      // it led no call
    kRan,       // it ran `fn`
    kFollowed,  // it got another process's outcome
    kTimedOut,  // it left: its timeout passed
    kCanceled,  // it left: its stop was requested
  } part = Part::kNone;
  bool others_follow = false;  // callers in other processes follow its call
};

struct Counters {
  std::atomic<std::uint64_t> executions, remote, takeovers, unpublished, undecodable, outages;
  std::atomic<std::uint64_t> handed_over;  // calls of the process that landed with HandedOver
  std::atomic<std::uint64_t> timed_out;    // leaders of these that left because they timed out
};

class Client {
 public:
  explicit Client(const Options& its_options) : options((CheckOptions(its_options), its_options)) {}

  const Options options;
  Counters count{};

  // Throws in a forked child. The server cannot tell the connections of parent and child apart, and
  // the child has no renewal thread.
  void RefuseAfterFork() const {
    if (IsForked()) {
      singleflight::detail::Throw(std::errc::operation_not_permitted,
                                  "singleflight::redis: this Group was made before a fork: make "
                                  "one in each process");
    }
  }
  bool IsForked() const noexcept { return renewer_.IsForked(); }

  Server& server() noexcept { return server_; }
  LeaseCommands& leases() noexcept { return leases_; }

  static void LeaveIfStopped(Caller& caller) {
    if (caller.stop_passed.stop_requested()) {
      caller.part = Caller::Part::kCanceled;
      throw HandedOver();
    }
  }

  // Keeps a lease that was taken, for as long as `fn` runs.
  class Leadership {
   public:
    Leadership(Client& client, LeaseList one) noexcept
        : client_(client), lease_(one.front()), renewal_(client.renewer_, std::move(one)) {}
    ~Leadership() {
      if (!ended_) End(PayloadKind::kAbandoned, {});  // the thread is cancelled
    }
    Leadership(const Leadership&) = delete;
    Leadership& operator=(const Leadership&) = delete;

    // No caller of this process wants the outcome any more: another process may take over.
    void GiveUp() noexcept { renewal_.GiveUp(); }

    // Gives the lease back and publishes the outcome, once. True if other processes follow. Throws
    // nothing.
    bool End(PayloadKind kind, std::string_view body) {
      if (std::exchange(ended_, true)) return false;
      if (client_.IsForked()) return false;  // forked while `fn` ran
      const HeldLease::State state = renewal_.StateNow();
      if (state == HeldLease::State::kGivenBack) return false;
      const bool unwanted = state == HeldLease::State::kUnwanted;
      const Payload payload = unwanted ? Payload{PayloadKind::kAbandoned, {}} : Payload{kind, body};
      LeaseCommands::Published published = LeaseCommands::Published::kTooLate;
      try {
        published =
            client_.leases_.Publish(lease_->keys, lease_->token, Pack(payload, lease_->token));
      } catch (const Outage& outage) {
        client_.server_.NoteOutage(outage);
      } catch (const std::exception&) {  // no memory for the payload
      }
      if (published == LeaseCommands::Published::kTooLate &&
          payload.kind != PayloadKind::kAbandoned) {
        ++client_.count.unpublished;
      }
      return published == LeaseCommands::Published::kToOthers;
    }

   private:
    Client& client_;
    const std::shared_ptr<HeldLease> lease_;
    LeaseRenewer::Renewal renewal_;
    bool ended_ = false;
  };

  // Takes the lease and returns it. If another process has the lease, follows it until
  // `accept(payload)` returns true, and returns an empty list.
  //
  // Errors: Outage, HandedOver if the caller leaves, and what `accept` throws.
  template <class Accept>
  LeaseList TakeOrFollow(const RedisKeys& keys, Caller& caller, Accept&& accept) {
    StartRenewer();
    LeaseList one;
    one.push_back(std::make_shared<HeldLease>(keys, NewToken()));
    HeldLease* const lease = one.front().get();
    std::optional<StopFd> stop_fd;
    std::string followed;  // the token of the last holder we saw
    std::string last;      // the id of the last entry read from its stream
    for (;;) {
      const Clock::time_point asked = Clock::now();
      const auto duration = std::max(renewer_.DurationFor(asked), std::chrono::milliseconds(1));
      const bool awaits = last == "0";  // its outcome may still come
      const LeaseCommands::Holder holder =
          leases_.Take(keys, lease->token, duration, awaits ? followed : std::string_view());
      if (holder.token == lease->token) {
        if (!followed.empty()) ++count.takeovers;
        lease->fence = holder.fence;
        lease->taken = asked;
        lease->HoldUntil(asked + duration);
        return one;
      }
      if (followed != holder.token) last = "0";
      followed = holder.token;
      if (!stop_fd) stop_fd.emplace(caller.stop_passed.get_token());
      const std::optional<LeaseCommands::Entry> entry =
          ReadOrLeave(keys, followed, last, holder.left, caller, stop_fd->get());
      if (!entry) continue;
      last = entry->id;
      if (const std::optional<Payload> payload = Unpack(entry->payload, followed)) {
        if (payload->kind != PayloadKind::kAbandoned) {
          if (accept(*payload)) return {};
          ++count.undecodable;
        }
      } else {
        ++count.undecodable;
      }
    }
  }

 private:
  void StartRenewer() {
    try {
      renewer_.Start();
    } catch (const std::system_error& error) {
      throw Outage(std::errc::not_connected,
                   std::string("cannot start the renewal thread: ") + error.what());
    }
  }

  // Waits for the outcome until the lease expires, or until it is time to check that it is still
  // held.
  std::optional<LeaseCommands::Entry> ReadOrLeave(const RedisKeys& keys, const std::string& token,
                                                  const std::string& last,
                                                  std::chrono::milliseconds left, Caller& caller,
                                                  int stop_fd) {
    LeaveIfDue(caller);
    auto wait = std::min(left, options.linger) + std::chrono::milliseconds(1);
    WaitLimit limit{Clock::time_point::max(), stop_fd};
    if (caller.deadline) {
      limit.until = *caller.deadline;
      const auto own =
          std::chrono::ceil<std::chrono::milliseconds>(*caller.deadline - Clock::now());
      wait = std::min(wait, std::max(own, std::chrono::milliseconds(1)));
    }
    std::optional<LeaseCommands::Entry> entry = leases_.Read(keys, token, last, wait, limit);
    if (!entry) LeaveIfDue(caller);
    return entry;
  }

  static void LeaveIfDue(Caller& caller) {
    LeaveIfStopped(caller);
    if (caller.deadline && Clock::now() >= *caller.deadline && !caller.leaves.exchange(true)) {
      caller.part = Caller::Part::kTimedOut;
      throw HandedOver();
    }
  }

  Server server_{options};
  LeaseCommands leases_{server_, options};
  LeaseRenewer renewer_{server_, leases_, options};
};

}  // namespace singleflight::redis::detail
