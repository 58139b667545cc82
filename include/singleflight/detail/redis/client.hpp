// SPDX-License-Identifier: MIT
#pragma once

// What a redis::Group does with the server, whatever its Value: a process's leader takes the lease,
// or follows who has it (TakeOrFollow); one that has it gives it back with the outcome
// (Leadership).

#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../../redis_options.hpp"
#include "../event.hpp"
#include "../outcome.hpp"
#include "connection.hpp"
#include "lease.hpp"
#include "lease_renewer.hpp"
#include "payload.hpp"
#include "server.hpp"

namespace singleflight::redis::detail {

// Lands a process's call when its leader leaves while it waits for another process: those who had
// joined it ask again. Never seen by a user.
struct HandedOver {};

// A caller of Do, and what becomes of it when it leads its process's call.
struct Caller {
  // Passes its stop on: to the process's group, which counts that the caller leaves, and then to
  // who waits for the server on its behalf. So nobody leaves who was not counted, nor twice.
  struct PassStop {
    void operator()() const noexcept {
      if (!caller.leaves.exchange(true)) caller.stop.request_stop();
      caller.stop_passed.request_stop();
    }
    Caller& caller;
  };

  singleflight::detail::Deadline deadline = {};
  std::stop_source stop{std::nostopstate};
  std::stop_source stop_passed{std::nostopstate};
  std::atomic<bool> leaves = false;  // by a stop or its timeout, whichever came first

  enum class Part : unsigned char {
    kNone,      // it has led nothing
    kRan,       // it has run `fn`
    kFollowed,  // it was given another process's outcome
    kTimedOut,  // it has left
    kCanceled,  // likewise
  } part = Part::kNone;
  bool others_follow = false;  // in other processes
};

struct Counters {
  std::atomic<std::uint64_t> executions, remote, takeovers, unpublished, undecodable, outages;
  std::atomic<std::uint64_t> handed_over, timed_out;  // of HandedOver; timed_out: of these
};

inline void CheckOptions(const Options& options) {
  const auto demand = [](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
  };
  const auto in_range = [](std::chrono::milliseconds time, int least) {
    return time >= std::chrono::milliseconds(least) && time <= std::chrono::hours(24 * 365);
  };
  demand(options.unix_socket.empty()
             ? !options.host.empty() && options.port > 0 && options.port < 65536
             : true,
         "singleflight::redis: there is no server: host and port, or unix_socket");
  demand(options.unix_socket.size() < sizeof(sockaddr_un::sun_path),
         "singleflight::redis: unix_socket is longer than such a path may be");
  demand(options.database >= 0, "singleflight::redis: database is negative");
  demand(options.user.empty() || !options.password.empty(),
         "singleflight::redis: user needs a password");
  demand(options.prefix.find_first_of("{}") == std::string::npos,
         "singleflight::redis: braces in prefix: what is in the first ones must be the key");
  demand(in_range(options.lease, 10), "singleflight::redis: lease is not within 10 ms and a year");
  demand(in_range(options.linger, 1), "singleflight::redis: linger is not within 1 ms and a year");
  demand(in_range(options.connect_timeout, 1) && in_range(options.command_timeout, 1),
         "singleflight::redis: a timeout is not within 1 ms and a year");
  demand(in_range(options.retry_after, 0),
         "singleflight::redis: retry_after is not within 0 and a year");
#ifdef SINGLEFLIGHT_REDIS_TLS
  demand(!options.tls || !options.tls->ca_file.empty() || !options.tls->ca_directory.empty(),
         "singleflight::redis: Tls needs ca_file or ca_directory");
#else
  demand(!options.tls,
         "singleflight::redis: built without TLS: it needs hiredis 1.0 with hiredis_ssl, and "
         "SINGLEFLIGHT_REDIS_TLS defined, as the CMake target does where it finds that");
#endif
}

class Client {
 public:
  explicit Client(const Options& its_options) : options((CheckOptions(its_options), its_options)) {}

  const Options options;
  Counters count{};

  // After a fork the server cannot tell the two processes' connections apart, and there is no
  // keeper.
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

  // A lease that has been taken, for as long as `fn` runs.
  class Leadership {
   public:
    Leadership(Client& client, LeaseList one) noexcept
        : client_(client), lease_(one.front()), renewal_(client.renewer_, std::move(one)) {}
    ~Leadership() {
      if (!ended_) End(PayloadKind::kAbandoned, {});  // the thread is cancelled
    }
    Leadership(const Leadership&) = delete;
    Leadership& operator=(const Leadership&) = delete;

    // Nobody of this process wants the outcome any longer: others may take over.
    void GiveUp() noexcept { renewal_.GiveUp(); }

    // Gives the lease back and tells the followers, once. True if there are some. Throws nothing.
    bool End(PayloadKind kind, std::string_view body) {
      if (std::exchange(ended_, true)) return false;
      if (client_.IsForked()) return false;  // since `fn` began
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
      } catch (const std::exception&) {  // no memory for it
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

  // Takes the lease, and returns it; or follows who has it until `accept(payload)` says that it was
  // given an outcome, and returns none. Throws Outage, HandedOver if the caller leaves, and what
  // `accept` throws.
  template <class Accept>
  LeaseList TakeOrFollow(const RedisKeys& keys, Caller& caller, Accept&& accept) {
    StartRenewer();
    LeaseList one;
    one.push_back(std::make_shared<HeldLease>(keys, NewToken()));
    HeldLease* const lease = one.front().get();
    std::optional<StopFd> stop_fd;
    std::string heard;  // whom we were told of last,
    std::string last;   // and what we have read of its stream
    for (;;) {
      const Clock::time_point asked = Clock::now();
      const auto duration = std::max(renewer_.DurationFor(asked), std::chrono::milliseconds(1));
      const bool awaits = last == "0";  // an outcome may come yet
      const LeaseCommands::Holder holder =
          leases_.Take(keys, lease->token, duration, awaits ? heard : std::string_view());
      if (holder.token == lease->token) {
        if (!heard.empty()) ++count.takeovers;
        lease->fence = holder.fence;
        lease->taken = asked;
        lease->HoldUntil(asked + duration);
        return one;
      }
      if (heard != holder.token) last = "0";
      heard = holder.token;
      if (!stop_fd) stop_fd.emplace(caller.stop_passed.get_token());
      const std::optional<LeaseCommands::Entry> entry =
          ReadOrLeave(keys, heard, last, holder.left, caller, stop_fd->get());
      if (!entry) continue;
      last = entry->id;
      if (const std::optional<Payload> payload = Unpack(entry->payload, heard)) {
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
      throw Outage(std::errc::not_connected, std::string("no thread: ") + error.what());
    }
  }

  // Waits for the outcome until the lease ends, or until it is time to see whether it still holds.
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
