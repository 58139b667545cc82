// SPDX-License-Identifier: MIT
#pragma once

// ClientCore: what a redis::Client is to the rest of the library: an event loop, and the servers
// that are asked from it.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../../redis_client_options.hpp"
#include "../errors.hpp"
#include "check_client_options.hpp"
#include "command.hpp"
#include "event_loop.hpp"
#include "resolver.hpp"
#include "router.hpp"
#include "subscriber.hpp"

namespace singleflight::redis::detail {

class ClientCore {
 public:
  // Errors: std::invalid_argument, and std::system_error if there are no file descriptors left.
  explicit ClientCore(const ClientOptions& options, LookUp look_up = SystemLookUp())
      : settings_((CheckClientOptions(options), SettingsOf(options))),
        router_(loop_, settings_, std::move(look_up), PlacesOf(options), [this] { OnChange(); }),
        start_([this] { router_.Start(); }),
        close_([this] {
          router_.Close("the client is destroyed");
          last_();
        }) {
    loop_.Post(start_);  // the first that the loop does, once it runs
  }

  // Commands in flight fail: each callback has been called when this returns. A callback must not
  // send again for ever.
  ~ClientCore() {
    Close([] {});
  }

  // What the destructor does. `last()` runs on the loop's thread, if it has one, after the last
  // callback.
  void Close(std::function<void()> last) {
    if (!std::exchange(is_closed_, true)) {
      last_ = std::move(last);
      loop_.Post(close_);
    }
    loop_.Stop();
  }

  ClientCore(const ClientCore&) = delete;
  ClientCore& operator=(const ClientCore&) = delete;

  // Starts the loop, if it does not run yet. Call it before a Post from any other thread.
  //
  // Errors: std::system_error: `operation_not_permitted` in a forked child, or what the system says
  //   if there is no thread to be had.
  void Start() {
    RefuseIfForked();
    loop_.Start();
  }
  // Throws `operation_not_permitted` in a forked child, which has no loop, and in which any mutex
  // may be held for ever by a thread of the parent.
  void RefuseIfForked() const {
    if (loop_.IsForked()) {
      singleflight::detail::Throw(
          std::errc::operation_not_permitted,
          "singleflight::redis: this Client was made before a fork: make one in each process");
    }
  }

  // Returns the size of a value for which there is always room in an empty queue, if the rest of
  // the command that carries it is no longer than `rest`.
  std::size_t RoomBeside(std::size_t rest) const noexcept {
    return settings_.max_queued_bytes - std::min(settings_.max_queued_bytes, rest);
  }

  // Has `on_change()` run on the loop's thread whenever a server's state may have changed. Call it
  // before Start.
  void SetOnChange(std::function<void()> on_change) { on_change_ = std::move(on_change); }

  // Its Post and IsLoopThread are for any thread, and the rest for the loop's own.
  EventLoop& Loop() noexcept { return loop_; }

  // Only the loop's thread may use these.
  Router& Commands() noexcept { return router_; }
  Subscriber& Subscriptions() noexcept { return router_.Servers().Subscriptions(); }

  // Thread: any.
  std::vector<NodeInfo> Nodes() const {
    if (loop_.IsForked()) return {};  // the loop may have had the mutex
    const std::lock_guard lock(mutex_);
    return nodes_;
  }

 private:
  void OnChange() {
    std::vector<NodeInfo> nodes;
    const Subscriber& subscriber = Subscriptions();
    router_.Servers().ForEachNode([&](const Node& node, bool is_sentinel) {
      const auto without_name = [&](std::string_view why) {
        const std::string start = node.Name() + ": ";
        return std::string(why.substr(why.starts_with(start) ? start.size() : 0));
      };
      nodes.push_back(
          {node.Name(), node.State(), node.Since(), without_name(node.Why()), is_sentinel});
      if (node.IsUp() && subscriber.Attached() == &node && !subscriber.Why().empty()) {
        nodes.back().why = "no messages: " + without_name(subscriber.Why());
      }
    });
    {
      const std::lock_guard lock(mutex_);
      nodes_.swap(nodes);
    }
    if (on_change_) on_change_();
  }

  EventLoop loop_;
  const Settings settings_;
  mutable std::mutex mutex_;
  std::vector<NodeInfo> nodes_;  // guarded by mutex_
  Router router_;
  LoopFunction start_;
  LoopFunction close_;
  std::function<void()> last_;
  std::function<void()> on_change_;  // set before Start
  bool is_closed_ = false;
};

}  // namespace singleflight::redis::detail
