// SPDX-License-Identifier: MIT
#pragma once

// ChannelHub: the channels that several objects of one process listen to. A Subscriber knows one
// listener for each.
//
// Thread: the loop's.

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "subscriber.hpp"

namespace singleflight::redis::detail {

class ChannelHub {
 public:
  using Listener = std::shared_ptr<const ChannelCallbacks>;

  // The listener's on_subscribed is called later, and whenever messages may have been lost. It has
  // all three functions.
  void Listen(Subscriber& subscriber, const std::string& channel, Listener listener) {
    listeners_[channel].push_back(std::move(listener));
    subscriber.Subscribe(
        channel,
        {[this, channel](std::string_view message) {
           ForEach(channel, [&](const auto& each) { each.on_message(message); });
         },
         [this, channel] { ForEach(channel, [](const auto& each) { each.on_subscribed(); }); },
         [this, channel](const std::string& why) {
           ForEach(channel, [&](const auto& each) { each.on_refused(why); });
         }});
  }
  void StopListening(Subscriber& subscriber, const std::string& channel, const Listener& listener) {
    const auto found = listeners_.find(channel);
    if (found == listeners_.end() || std::erase(found->second, listener) == 0) return;
    if (!found->second.empty()) return;
    listeners_.erase(found);
    subscriber.Unsubscribe(channel);
  }

 private:
  template <class Fn>
  void ForEach(const std::string& channel, const Fn& fn) {
    const auto found = listeners_.find(channel);
    if (found == listeners_.end()) return;
    for (const Listener& each : std::vector<Listener>(found->second)) fn(*each);
  }

  std::unordered_map<std::string, std::vector<Listener>> listeners_;
};

}  // namespace singleflight::redis::detail
