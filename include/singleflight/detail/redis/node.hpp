// SPDX-License-Identifier: MIT
#pragma once

// Node: one server, with the connection for its commands. It connects again by itself, with growing
// pauses, so that commands never do: while the server is away, they fail at once.
//
// Thread: the loop's.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../../redis_client_options.hpp"
#include "address.hpp"
#include "async_connection.hpp"
#include "command.hpp"
#include "event_loop.hpp"
#include "resolver.hpp"
#include "retry_pause.hpp"

namespace singleflight::redis::detail {

// A command without a caller, which only keeps the connection from being silent.
class Ping final : public Command {
 public:
  explicit Ping(Clock::duration patience) : patience_(patience) {}
  void OnReply(std::unique_ptr<Command>, Reply) noexcept override {}
  void OnLoss(std::unique_ptr<Command>, Sent, const std::string&) noexcept override {}
  std::string_view Bytes() const noexcept override { return "*1\r\n$4\r\nPING\r\n"; }
  Clock::duration Patience() const noexcept override { return patience_; }

 private:
  const Clock::duration patience_;
};

class Node {
 public:
  // `on_change` runs whenever the state has changed by itself. It must not destroy the node.
  Node(EventLoop& loop, const Settings& settings, const LookUp& look_up, Address address,
       std::function<void(Node&)> on_change)
      : loop_(loop),
        settings_(settings),
        address_(std::move(address)),
        name_(TextOf(address_)),
        on_change_(std::move(on_change)),
        connection_(
            loop, settings,
            {[this] { OnUp(); }, [this](const AsyncConnection::Down& down) { OnDown(down); }}),
        resolver_(loop, look_up, [this](LookUpResult result) { OnLookUp(std::move(result)); }),
        retry_(loop.Timers(), [this] { Attempt(); }),
        look_up_deadline_(loop.Timers(), [this] { OnLookUpDeadline(); }),
        drained_(loop.Timers(), [this] { FinishDrain(); }) {
    std::optional<LookUpResult> known = KnownAddress(address_);
    is_known_ = known.has_value();
    if (known) {
      addresses_ = std::move(known->addresses);
      look_up_error_ = std::move(known->error);
    }
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const Address& Where() const noexcept { return address_; }
  const std::string& Name() const noexcept { return name_; }
  NodeState State() const noexcept { return state_; }
  bool IsUp() const noexcept { return state_ == NodeState::kUp; }
  const ServerInfo& Info() const noexcept { return connection_.Info(); }
  const std::string& Why() const noexcept { return why_; }
  std::chrono::system_clock::time_point Since() const noexcept { return since_; }
  // True if it has been idle for that long.
  bool IsIdleFor(Clock::duration time) const noexcept {
    return state_ == NodeState::kIdle && loop_.Now() - changed_ >= time;
  }
  const std::vector<SocketAddress>& Addresses() const noexcept { return addresses_; }
  std::size_t InFlight() const noexcept { return connection_.InFlight(); }

  // Begins to connect, if nobody has asked for that yet.
  void Resume() {
    retires_ = false;
    if (state_ != NodeState::kIdle) return;
    Become(NodeState::kConnecting, {});
    pause_.Reset();
    Attempt();
  }

  // Does not wait for the end of a pause between two attempts.
  void ResumeNow() {
    Resume();
    if (state_ == NodeState::kAway && retry_.IsSet()) Attempt();
  }

  // Closes the connection until Resume. Commands in flight fail with `why`.
  void Pause(const std::string& why) {
    Become(NodeState::kIdle, name_ + ": " + why);
    StopTimers();
    connection_.Close(name_ + ": " + why);
  }

  bool HasRoomFor(const Command& command) const noexcept { return connection_.HasRoomFor(command); }

  // Sends a command, or returns it if the node is not up, its queue is full, or there is no memory.
  std::unique_ptr<Command> Send(std::unique_ptr<Command> command) {
    if (!IsUp()) return command;
    return connection_.Send(std::move(command));
  }

  // Has the node take no more commands, since it is not what it was. The answers to those in flight
  // are awaited, and then it connects again. Its state is `kAway` from now on.
  void Drain(const std::string& why) {
    if (!IsUp()) return;
    Become(NodeState::kAway, name_ + ": " + why);
    drained_.Set(loop_.Now() + kDrainCheck);
  }

  // Does the same, and then does not connect before Resume.
  void Retire(const std::string& why) {
    if (state_ == NodeState::kIdle) return;
    Drain(why);
    if (drained_.IsSet()) {
      retires_ = true;
    } else {
      Pause(why);
    }
  }

  // Connects again, because what is in flight takes too long.
  void Interrupt(const std::string& why) {
    if (!IsUp()) return;
    is_interrupted_ = true;
    connection_.Fail(why);
    is_interrupted_ = false;
  }

  // Finds out soon whether the server still answers, if nothing else is about to.
  void Suspect() {
    if (IsUp() && InFlight() == 0) {
      static_cast<void>(Send(std::make_unique<Ping>(settings_.Patience() / 3)));
    }
  }

 private:
  // A connection that is lost is replaced at once, if none was lost for as long as this: a server
  // that closes one connection is not away.
  static constexpr auto kStable = std::chrono::seconds(1);
  static constexpr auto kDrainCheck = std::chrono::milliseconds(5);

  void Become(NodeState state, std::string why) {
    if (state != state_) {
      since_ = std::chrono::system_clock::now();
      changed_ = loop_.Now();
    }
    state_ = state;
    why_ = std::move(why);
  }

  void StopTimers() noexcept {
    retry_.Cancel();
    look_up_deadline_.Cancel();
    drained_.Cancel();
  }

  void Attempt() {
    retry_.Cancel();
    give_up_ = loop_.Now() + settings_.connect_timeout;
    if (!is_known_) resolver_.Start(address_);  // also beside the last good answer, for a new one
    if (!addresses_.empty()) return Open();
    if (is_known_) return AttemptFailed(name_ + ": " + look_up_error_);
    look_up_deadline_.Set(give_up_);
  }

  void Open() {
    look_up_deadline_.Cancel();
    retry_.Cancel();
    connection_.Open(name_, address_.host, addresses_, give_up_);
  }

  void OnLookUp(LookUpResult result) {
    const bool was_awaited = look_up_deadline_.IsSet();
    if (result.addresses.empty()) {
      look_up_deadline_.Cancel();
      if (was_awaited) AttemptFailed(name_ + ": cannot be looked up: " + result.error);
      return;
    }
    const bool is_first = addresses_.empty();
    addresses_ = std::move(result.addresses);
    const bool waits = was_awaited || (is_first && retry_.IsSet());
    if (!waits || !connection_.IsClosed()) return;
    if (!was_awaited) give_up_ = loop_.Now() + settings_.connect_timeout;
    Open();
  }

  void OnLookUpDeadline() { AttemptFailed(name_ + ": cannot be looked up within connect_timeout"); }

  void OnUp() {
    Become(NodeState::kUp, {});
    on_change_(*this);
  }

  void OnDown(const AsyncConnection::Down& down) {
    if (drained_.IsSet() && retires_) return Pause("it is not used any more");
    drained_.Cancel();
    const bool was_stable =
        is_interrupted_ || (down.was_up && (!lost_ || loop_.Now() - *lost_ >= kStable));
    if (down.was_up && !is_interrupted_) lost_ = loop_.Now();
    if (was_stable) pause_.Reset();
    if (!was_stable || down.timed_out || !IsUp()) return AttemptFailed(down.why);
    Become(NodeState::kConnecting, down.why);
    Attempt();
    on_change_(*this);
  }

  void AttemptFailed(const std::string& why) {
    Become(NodeState::kAway, why);
    retry_.Set(loop_.Now() + pause_.Next());
    on_change_(*this);
  }

  void FinishDrain() {
    if (InFlight() > 0) return drained_.Set(loop_.Now() + kDrainCheck);
    if (retires_) return Pause("it is not used any more");
    connection_.Close(why_);
    retry_.Set(loop_.Now() + pause_.Next());
  }

  EventLoop& loop_;
  const Settings& settings_;
  const Address address_;
  const std::string name_;
  const std::function<void(Node&)> on_change_;
  NodeState state_ = NodeState::kIdle;
  std::string why_;
  std::chrono::system_clock::time_point since_ = std::chrono::system_clock::now();
  Clock::time_point changed_ = {};
  AsyncConnection connection_;
  Resolver resolver_;
  bool is_known_ = false;                 // the address needs no looking up
  std::vector<SocketAddress> addresses_;  // the last good answer
  std::string look_up_error_;
  Clock::time_point give_up_ = {};  // when the present attempt has failed
  RetryPause pause_;
  Timer retry_;
  Timer look_up_deadline_;                 // set while an attempt waits for the name's addresses
  std::optional<Clock::time_point> lost_;  // when a connection that was up was lost
  bool is_interrupted_ = false;            // the connection is lost, but not because of the server
  bool retires_ = false;                   // after Drain, it does not connect again
  Timer drained_;                          // looks whether the last answer has come
};

}  // namespace singleflight::redis::detail
