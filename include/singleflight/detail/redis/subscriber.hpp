// SPDX-License-Identifier: MIT
#pragma once

// Subscriber: a client's connection for messages, to one node at a time. All channels are
// subscribed again when it has connected again. Messages that were sent meanwhile are lost: whoever
// waits for them asks again in `on_subscribed`.
//
// Thread: the loop's.

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "async_connection.hpp"
#include "command.hpp"
#include "event_loop.hpp"
#include "node.hpp"
#include "protocol.hpp"
#include "reply.hpp"

namespace singleflight::redis::detail {

// No function may throw, but all may subscribe and unsubscribe.
struct ChannelCallbacks {
  std::function<void(std::string_view message)> on_message;
  // Every message that is published from now on is delivered, as long as the connection lasts.
  std::function<void()> on_subscribed;
  // The server refuses this channel or another one. Until on_subscribed no message comes. `why` is
  // one line that names the server and the channel.
  std::function<void(const std::string& why)> on_refused = {};
};

class Subscriber {
 public:
  // `on_change` runs when the connection is up, and when it was lost.
  Subscriber(EventLoop& loop, const Settings& settings, std::function<void()> on_change)
      : loop_(loop),
        settings_(settings),
        on_change_(std::move(on_change)),
        connection_(
            loop, settings,
            {[this] { OnUp(); }, [this](const AsyncConnection::Down& down) { OnDown(down); },
             [this](const Reply& message) { OnMessage(message); }}),
        retry_(loop.Timers(), [this] { Update(); }),
        heartbeat_(loop.Timers(), [this] { OnHeartbeat(); }) {}
  Subscriber(const Subscriber&) = delete;
  Subscriber& operator=(const Subscriber&) = delete;

  // Uses this node from now on, while it is up. Null: none. Call it again when the node's state has
  // changed. The node must live until another one is attached.
  void Attach(Node* node) {
    if (node != node_) {
      connection_.Close("another server is used");
      heartbeat_.Cancel();
      retry_.Cancel();
      pause_.Reset();
    }
    node_ = node;
    Update();
  }

  // Closes the connection for good.
  void Close() {
    channels_.clear();
    heartbeat_.Cancel();
    retry_.Cancel();
    connection_.Close("the client is destroyed");
  }

  void Subscribe(const std::string& channel, ChannelCallbacks callbacks) {
    auto shared = std::make_shared<const ChannelCallbacks>(std::move(callbacks));
    channels_[channel] = shared;
    if (connection_.IsUp()) {
      Send(channel, std::move(shared));
    } else {
      Update();
    }
  }
  void Unsubscribe(const std::string& channel) {
    if (channels_.erase(channel) > 0 && connection_.IsUp()) Send(channel, nullptr);
  }

  // Returns why there are no messages at present, if there should be some.
  const std::string& Why() const noexcept { return why_; }
  const Node* Attached() const noexcept { return node_; }
  bool IsUp() const noexcept { return connection_.IsUp(); }

 private:
  using Shared = std::shared_ptr<const ChannelCallbacks>;

  // SUBSCRIBE or UNSUBSCRIBE, of one channel, so that it has one answer.
  class Request final : public Command {
   public:
    // Without callbacks, it unsubscribes.
    Request(Subscriber& subscriber, const std::string& channel, Shared callbacks)
        : subscriber_(subscriber), callbacks_(std::move(callbacks)), channel_(channel) {
      const std::string_view name = callbacks_ != nullptr ? "SUBSCRIBE" : "UNSUBSCRIBE";
      const std::array<std::string_view, 2> words = {name, channel_};
      AppendCommand(bytes_, words);
    }
    void OnReply(std::unique_ptr<Command>, Reply reply) noexcept override {
      if (reply.IsError()) {
        subscriber_.OnRefused(channel_, reply.text);
      } else if (callbacks_ != nullptr) {
        subscriber_.OnSubscribed(channel_, callbacks_);
      }
    }
    void OnLoss(std::unique_ptr<Command>, Sent, const std::string&) noexcept override {}
    std::string_view Bytes() const noexcept override { return bytes_; }

   private:
    Subscriber& subscriber_;
    const Shared callbacks_;
    const std::string channel_;
    std::string bytes_;
  };

  void Send(const std::string& channel, Shared callbacks) {
    auto request = std::make_unique<Request>(*this, channel, std::move(callbacks));
    if (connection_.Send(std::move(request)) == nullptr) return;
    connection_.Fail(
        "has max_queued_bytes of subscriptions in its queue");  // else one is forgotten
  }

  // Connects, if there is something to subscribe to and somewhere to do so.
  void Update() {
    if (!connection_.IsClosed() || retry_.IsSet() || channels_.empty()) return;
    if (node_ == nullptr || !node_->IsUp()) return;
    connection_.Open(node_->Name(), node_->Where().host, node_->Addresses(),
                     loop_.Now() + settings_.connect_timeout);
  }

  void OnUp() {
    heartbeat_.Set(loop_.Now() + Beat());
    why_.clear();
    const auto channels = channels_;  // each Send may fail
    for (const auto& [channel, callbacks] : channels) {
      if (connection_.IsUp()) Send(channel, callbacks);
    }
    on_change_();
  }

  void OnDown(const AsyncConnection::Down& down) {
    why_ = down.why;
    heartbeat_.Cancel();
    if (down.was_up && loop_.Now() - connection_.UpSince() > std::chrono::seconds(1)) {
      pause_.Reset();
    }
    retry_.Set(loop_.Now() + pause_.Next());
    if (node_ != nullptr && down.timed_out) node_->Suspect();
    on_change_();
  }

  void OnSubscribed(const std::string& channel, const Shared& callbacks) {
    const auto found = channels_.find(channel);
    if (found == channels_.end() || found->second != callbacks) return;  // it was replaced since
    if (callbacks->on_subscribed) callbacks->on_subscribed();
  }

  // The connection is of no use: each channel is needed.
  void OnRefused(const std::string& channel, const std::string& error) {
    const std::string why =
        node_->Name() + ": refuses the channel " + detail::Printable(channel) + ": " + error;
    const auto channels = channels_;
    for (const auto& [name, callbacks] : channels) {
      if (callbacks->on_refused) callbacks->on_refused(why);
    }
    connection_.Fail("answered SUBSCRIBE with: " + error);
  }

  // The reply is ["message", channel, message].
  void OnMessage(const Reply& reply) {
    const auto found = channels_.find(reply.elements[1].text);
    if (found == channels_.end()) return;
    const Shared callbacks = found->second;  // it may unsubscribe
    if (callbacks->on_message) callbacks->on_message(reply.elements[2].text);
  }

  // A connection over which nothing comes may be dead. Three beats make a command_timeout: one
  // until the silence is noticed, one until the next beat, and one to answer.
  Clock::duration Beat() const noexcept { return settings_.Patience() / 3; }
  void OnHeartbeat() {
    heartbeat_.Set(loop_.Now() + Beat());
    if (loop_.Now() - connection_.LastHeard() < Beat() || connection_.InFlight() > 0) return;
    static_cast<void>(connection_.Send(std::make_unique<Ping>(Beat())));
  }

  EventLoop& loop_;
  const Settings& settings_;
  const std::function<void()> on_change_;
  Node* node_ = nullptr;
  std::map<std::string, Shared, std::less<>> channels_;
  AsyncConnection connection_;
  std::string why_;
  RetryPause pause_;
  Timer retry_;
  Timer heartbeat_;
};

}  // namespace singleflight::redis::detail
