// SPDX-License-Identifier: MIT
#pragma once

// Fleet: what the groups of a client have in common: its event loop, and the thread that delivers.
// GroupContext: what the calls of one group have in common.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../../redis_options.hpp"
#include "answer.hpp"
#include "channel_hub.hpp"
#include "client_core.hpp"
#include "deliverer.hpp"
#include "inbox.hpp"
#include "payload.hpp"
#include "protocol.hpp"

namespace singleflight::redis::detail {

// Learns that servers can be used, or cannot any more.
class ServerWatcher {
 public:
  // Thread: the loop's.
  virtual void OnServersChange() = 0;

 protected:
  ~ServerWatcher() = default;
};

class Fleet {
 public:
  explicit Fleet(ClientCore& core) : core_(core), inboxes_(std::make_shared<Inboxes>(core)) {
    core.SetOnChange([this] { OnServersChange(); });
  }
  ~Fleet() { inboxes_->TakeAll(); }  // if the loop has not run

  ClientCore& Core() noexcept { return core_; }
  EventLoop& Loop() noexcept { return core_.Loop(); }
  Deliverer& Deliveries() noexcept { return deliveries_; }

  // Thread: the loop's, for these two.
  ChannelHub& Hub() noexcept { return hub_; }
  void WatchServers(std::weak_ptr<ServerWatcher> watcher) {
    std::erase_if(watchers_, [](const auto& each) { return each.expired(); });
    watchers_.push_back(std::move(watcher));
  }

  // A Forget is on its way to the server. EndForgetting must follow. `base` is the key's.
  //
  // Thread: the loop's, as for the next two.
  void BeginForgetting(const std::string& base) { ++forgetting_[base].count; }
  void EndForgetting(const std::string& base) {
    const auto found = forgetting_.find(base);
    if (--found->second.count > 0) return;
    const std::vector<std::function<void()>> waiting = std::move(found->second.waiting);
    forgetting_.erase(found);
    for (const std::function<void()>& then : waiting) then();
  }
  // True: `then` runs once the Forgets of this key that are on their way have been answered. A call
  // that begins after them must not be led by the one before: it could come to the server earlier,
  // if that does not know the script, or is busy.
  bool WaitsForForget(const std::string& base, std::function<void()> then) {
    if (forgetting_.empty()) return false;
    const auto found = forgetting_.find(base);
    if (found == forgetting_.end()) return false;
    found->second.waiting.push_back(std::move(then));
    return true;
  }

  // An outcome is on its way to the server. EndPublishing must follow, on the loop's thread.
  void BeginPublishing() noexcept {
    const std::lock_guard lock(mutex_);
    ++publishing_;
  }
  void EndPublishing() noexcept {
    const std::lock_guard lock(mutex_);
    if (--publishing_ == 0) published_.notify_all();
  }
  // Waits for outcomes that are on their way.
  void AwaitPublishing(std::chrono::milliseconds at_most) {
    std::unique_lock lock(mutex_);
    published_.wait_for(lock, at_most, [this] { return publishing_ == 0; });
  }
  const std::shared_ptr<Inboxes>& AllInboxes() const noexcept { return inboxes_; }

  // Ends what the loop does for this. Afterwards nothing more is posted.
  //
  // Thread: the loop's.
  void Close() {
    is_closed_ = true;
    for (const auto& each : inboxes_->TakeAll()) each->Close();
  }
  // No server is asked any more. Thread: the loop's.
  bool IsClosed() const noexcept { return is_closed_; }

 private:
  void OnServersChange() {
    const std::vector<std::weak_ptr<ServerWatcher>> watchers = watchers_;  // they may add others
    for (const auto& each : watchers) {
      if (const auto watcher = each.lock()) watcher->OnServersChange();
    }
  }

  struct Forgetting {
    std::size_t count = 0;
    std::vector<std::function<void()>> waiting = {};
  };

  ClientCore& core_;
  const std::shared_ptr<Inboxes> inboxes_;
  // Used by the loop's thread alone.
  bool is_closed_ = false;
  std::unordered_map<std::string, Forgetting> forgetting_;
  ChannelHub hub_;
  std::vector<std::weak_ptr<ServerWatcher>> watchers_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::size_t publishing_ = 0;  // outcomes that are on their way
  std::condition_variable published_;
  Deliverer deliveries_;
};

struct Counters {
  std::atomic<std::uint64_t> executions = 0, remote = 0, takeovers = 0, unpublished = 0, untold = 0,
                             told_to_run = 0, failed_renewals = 0, lost_leases = 0, undecodable = 0,
                             outages = 0;
  std::atomic<std::uint64_t> abandoned = 0;  // calls that landed only because nobody wanted them
};

class CacheState;

// Shared, because a lease may be given back after its group has been destroyed.
struct GroupContext : std::enable_shared_from_this<GroupContext> {
  GroupContext(Fleet& its_fleet, std::string its_prefix, const Options& its_options,
               std::string its_tag)
      : fleet(its_fleet),
        prefix(std::move(its_prefix)),
        options(its_options),
        tag(std::move(its_tag)),
        tag_hash(Fnv1a(tag)),
        who(detail::Who()),
        inboxes_(its_fleet.AllInboxes()),
        opened_(inboxes_->Open(prefix)),
        inbox(*opened_) {}
  virtual ~GroupContext() { inboxes_->Close(opened_); }

  // Thread: any. Errors: std::system_error if there are no random numbers.
  std::string NewToken() {
    return detail::NewToken(tokens_.fetch_add(1, std::memory_order_relaxed) + 1);
  }

  EventLoop& Loop() const noexcept { return fleet.Loop(); }
  Clock::time_point Now() const noexcept { return fleet.Loop().Now(); }  // the loop's thread alone

  // Returns how long a lease lasts for a call that leads since `age`: it does not outlast the
  // maximum age. Zero: it ends.
  std::chrono::milliseconds LeaseAt(Clock::duration age) const {
    using std::chrono::milliseconds;
    if (!options.group.max_age) return options.lease;
    const Clock::duration left = std::chrono::nanoseconds(options.group.max_age->count()) - age;
    return std::clamp(std::chrono::ceil<milliseconds>(left), milliseconds(0), options.lease);
  }

  // Has the server forget the call for which there is a lease at this place.
  //
  // Thread: the loop's.
  void Forget(const std::string& base) {
    fleet.BeginForgetting(base);
    SendForget(base, 0);
  }
  // `attempts` counts those whose answer was lost.
  void SendForget(const std::string& base, int attempts) {
    const std::string lease = detail::LeaseName(base);
    const std::string forgotten = detail::ForgottenName(base, {});
    const std::array<std::string_view, 1> keys = {lease};
    const std::array<std::string_view, 1> words = {forgotten};
    fleet.Core().Commands().RunScript(
        detail::ForgetScript(), keys, words,
        [self = shared_from_this(), base, attempts](const Answer& answer) {
          if (answer.kind == Answer::Kind::kUnknown && attempts < 2) {
            return self->SendForget(base, attempts + 1);
          }
          if (!answer.IsReply()) self->NoteOutage(answer.why);
          self->fleet.EndForgetting(base);
        });
  }

  // Notes an outage of a call, for a log.
  void NoteOutage(const std::string& why) {
    ++count.outages;
    NoteWhy(why);
  }
  // The same for what is no call.
  void NoteWhy(const std::string& why) {
    const std::lock_guard lock(mutex);
    last_outage = why;
  }

  Fleet& fleet;
  const std::string prefix;
  const Options options;
  const std::string tag;  // of the Value's type
  const std::uint64_t tag_hash;
  const std::string who;

 private:
  const std::shared_ptr<Inboxes> inboxes_;
  const std::shared_ptr<Inbox> opened_;
  std::atomic<std::uint64_t> tokens_ = 0;  // how many there were

 public:
  Inbox& inbox;
  std::shared_ptr<CacheState> cache;  // null if it is not that of a cache
  Counters count;
  std::mutex mutex;
  std::string last_outage;  // guarded by mutex
};

// Whether a server's error says that the same command may succeed soon. Before Redis 7, that of a
// command in a script comes inside the script's own.
inline bool IsTransient(std::string_view error) noexcept {
  for (const std::string_view code : {"-BUSY ", "-LOADING ", "-MASTERDOWN ", "-NOREPLICAS ",
                                      "-CLUSTERDOWN ", "-TRYAGAIN ", "-READONLY ", "-UNBLOCKED "}) {
    if (error.starts_with(code.substr(1)) || error.find(code) != std::string_view::npos) {
      return true;
    }
  }
  return false;
}

// Whether a command that gave this answer may be sent again with some hope.
inline bool MayComeTrue(const Answer& answer) noexcept {
  return answer.kind == Answer::Kind::kUnknown ||
         (answer.kind == Answer::Kind::kRefused && detail::IsTransient(answer.reply.text));
}

}  // namespace singleflight::redis::detail
