// SPDX-License-Identifier: MIT
#pragma once

// Topology: which server is asked about which key. It is one server, the first one of several that
// is no replica, the master that the Sentinels name, or the nodes of a Redis Cluster.
//
// Thread: the loop's.

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "address.hpp"
#include "command.hpp"
#include "event_loop.hpp"
#include "node.hpp"
#include "reply.hpp"
#include "resolver.hpp"
#include "retry_pause.hpp"
#include "sentinel_watch.hpp"
#include "slot_table.hpp"
#include "slots.hpp"
#include "subscriber.hpp"

namespace singleflight::redis::detail {

// Where to look for servers.
struct Places {
  std::vector<Address> seeds = {};  // not used if there are sentinels
  std::vector<Address> sentinels = {};
  std::string master = {};
  std::string sentinel_user = {};
  std::string sentinel_password = {};
};

class Topology {
 public:
  // `on_change` runs after any change that may matter to a command that waits.
  Topology(EventLoop& loop, const Settings& settings, LookUp look_up, Places places,
           std::function<void()> on_change)
      : loop_(loop),
        settings_(settings),
        look_up_(std::move(look_up)),
        places_(std::move(places)),
        on_change_(std::move(on_change)),
        subscriber_(loop, settings, [this] { on_change_(); }),
        slots_(loop, {[this] { return AnyUp(); },
                      [this](const Address& address) -> Node& { return NodeAt(address); },
                      [this](const std::vector<SlotRange>& ranges) { OnSlots(ranges); }}),
        ask_again_(loop.Timers(), [this] { Search(); }) {
    if (places_.sentinels.empty()) return;
    sentinels_ = std::make_unique<SentinelWatch>(
        loop, SettingsForSentinels(), look_up_, places_.sentinels, places_.master,
        SentinelWatch::Callbacks{[this](const Address& master) { OnMaster(master); },
                                 [this] { OnSentinelChange(); }});
  }
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;

  void Start() {
    if (sentinels_ != nullptr) sentinels_->Start();
    Search();
    on_change_();
  }

  // Closes all connections. Commands in flight fail with `why`.
  void Close(const std::string& why) {
    slots_.Close();
    ask_again_.Cancel();
    subscriber_.Close();
    if (sentinels_ != nullptr) sentinels_->Close(why);
    for (const auto& [address, node] : nodes_) node->Pause(why);
  }

  bool IsCluster() const noexcept { return slots_.IsInUse(); }

  struct Target {
    Node* node = nullptr;   // up. Null: there is none now
    bool may_come = false;  // then: `on_change` says when there may be one
  };
  // Returns where to send a command about a slot, or one about no key.
  Target Find(std::optional<unsigned> slot) {
    if (!slots_.IsInUse()) {
      if (master_ == nullptr) return {nullptr, IsSearching()};
      return TargetOf(*master_);
    }
    if (!slots_.IsKnown() && slots_.IsRefreshing()) return {nullptr, true};
    Node* const node = slot && slots_.At(*slot) != nullptr ? slots_.At(*slot) : AnyUp();
    Target target = node != nullptr ? TargetOf(*node) : Target{nullptr, IsSearching()};
    if (target.node == nullptr) target.may_come = target.may_come || slots_.IsRefreshing();
    return target;
  }
  // Returns where to send a command that a node has redirected.
  Target FindAt(const Address& address) { return TargetOf(NodeAt(address)); }

  // Returns the servers that have the keys, or none if they are not known.
  std::vector<Address> Masters() const {
    std::vector<Address> masters;
    if (slots_.IsInUse()) {
      for (const Node* const node : slots_.Nodes()) masters.push_back(node->Where());
    } else if (master_ != nullptr) {
      masters.push_back(master_->Where());
    }
    return masters;
  }

  // Returns in one line why there is no target.
  std::string Why(std::optional<unsigned> slot) const {
    if (slots_.IsInUse() && slot && slots_.At(*slot) != nullptr) return slots_.At(*slot)->Why();
    std::string why;
    for (const auto& [address, node] : nodes_) {
      if (node->State() == NodeState::kIdle || node->Why().empty()) continue;
      why += (why.empty() ? "" : "; ") + node->Why();
    }
    if (sentinels_ != nullptr && why.empty()) why = WhyNoMaster();
    return why.empty() ? "no server is connected yet" : why;
  }

  // A node has answered that a slot is elsewhere.
  void OnMoved(const Redirect& moved) {
    slots_.Use();
    master_ = nullptr;
    Node& node = NodeAt(moved.to);
    slots_.Set(moved.slot, node);
    node.Resume();
    slots_.RefreshSoon();
  }

  // A node has answered that it takes no writes.
  void OnReadOnly(Node& node) {
    if (!node.IsUp()) return;  // many commands in flight say so
    node.Drain("is a replica, which takes no writes");
    OnNodeChange(node);
  }

  Subscriber& Subscriptions() noexcept { return subscriber_; }

  // Calls `visit(node, is_sentinel)` for each server.
  template <class Visit>
  void ForEachNode(Visit&& visit) const {
    for (const auto& [address, node] : nodes_) visit(*node, false);
    if (sentinels_ == nullptr) return;
    for (const auto& sentinel : sentinels_->Sentinels()) visit(*sentinel, true);
  }

 private:
  // Sentinels have users of their own, and neither databases nor replicas.
  Settings SettingsForSentinels() const {
    Settings settings = settings_;
    settings.user = places_.sentinel_user;
    settings.password = places_.sentinel_password;
    settings.database = 0;
    settings.master_only = false;
    return settings;
  }

  static constexpr auto kForgetAfter = std::chrono::seconds(10);

  Node& NodeAt(const Address& address) {
    std::unique_ptr<Node>& node = nodes_[address];
    if (node == nullptr) {
      node = std::make_unique<Node>(loop_, settings_, look_up_, address,
                                    [this](Node& changed) { OnNodeChange(changed); });
    }
    return *node;
  }

  Target TargetOf(Node& node) {
    node.Resume();
    if (node.IsUp()) return {&node, false};
    return {nullptr, node.State() == NodeState::kConnecting};
  }

  Node* AnyUp() const noexcept {
    const auto up =
        std::ranges::find_if(nodes_, [](const auto& one) { return one.second->IsUp(); });
    return up == nodes_.end() ? nullptr : up->second.get();
  }

  bool IsSearching() const noexcept {
    return (sentinels_ != nullptr && sentinels_->IsBusy()) ||
           std::ranges::any_of(nodes_, [](const auto& one) {
             return one.second->State() == NodeState::kConnecting;
           });
  }

  // Looks for a master, or for any node of the cluster.
  void Search() {
    if (sentinels_ == nullptr) {
      for (const Address& seed : places_.seeds) NodeAt(seed).Resume();
    } else if (master_ == nullptr) {
      sentinels_->Ask();
      ask_again_.Set(loop_.Now() + ask_pause_.Next());
    }
  }

  void OnNodeChange(Node& node) {
    if (node.IsUp()) {
      OnUp(node);
    } else if (node.State() == NodeState::kAway) {
      if (master_ == &node) master_ = nullptr;
      if (slots_.IsInUse()) slots_.Refresh();
      if (slots_.IsInUse() ? AnyUp() == nullptr : master_ == nullptr) Search();
    }
    AttachSubscriber();
    on_change_();
  }

  void OnUp(Node& node) {
    if (node.Info().is_cluster) slots_.Use();
    if (slots_.IsInUse()) {
      if (!slots_.IsKnown()) slots_.Refresh();
      return;
    }
    if (master_ != nullptr || (sentinels_ != nullptr && candidate_ != &node)) return;
    master_ = &node;
    ask_again_.Cancel();
    ask_pause_.Reset();
    for (const auto& [address, other] : nodes_) {
      if (other.get() != &node) other->Retire("another server is used");
    }
  }

  void AttachSubscriber() {
    // In a cluster, every node has all messages.
    const bool is_cluster = slots_.IsInUse();
    if (is_cluster && (subscribed_ == nullptr || !subscribed_->IsUp())) subscribed_ = AnyUp();
    subscriber_.Attach(is_cluster ? subscribed_ : master_);
  }

  // The Sentinels have named a master.
  void OnMaster(const Address& address) {
    candidate_ = &NodeAt(address);
    if (master_ != candidate_) master_ = nullptr;
    RetireUnused("the Sentinels have named another master",
                 [this](const Node& node) { return &node == candidate_; });
    if (candidate_->IsUp()) OnUp(*candidate_);
    candidate_->ResumeNow();
    if (master_ == nullptr) ask_again_.Set(loop_.Now() + ask_pause_.Next());
    AttachSubscriber();
    on_change_();
  }

  void OnSentinelChange() {
    if (master_ == nullptr && !ask_again_.IsSet()) {
      ask_again_.Set(loop_.Now() + ask_pause_.Next());
    }
    on_change_();
  }

  std::string WhyNoMaster() const {
    if (!sentinels_->Why().empty()) return sentinels_->Why();
    for (const auto& sentinel : sentinels_->Sentinels()) {
      if (!sentinel->Why().empty()) return sentinel->Why();
    }
    return "the Sentinels have named no master yet";
  }

  void OnSlots(const std::vector<SlotRange>& ranges) {
    for (const SlotRange& range : ranges) NodeAt(range.master).Resume();
    if (!ranges.empty()) {
      RetireUnused("the cluster does not use it", [&](const Node& node) {
        return std::ranges::find(ranges, node.Where(), &SlotRange::master) != ranges.end();
      });
    }
    AttachSubscriber();
    on_change_();
  }

  // Closes the connections of the other nodes, and forgets those that have been idle for long:
  // nothing of this turn of the loop refers to them any more.
  template <class IsUsed>
  void RetireUnused(const std::string& why, IsUsed&& is_used) {
    for (auto entry = nodes_.begin(); entry != nodes_.end();) {
      Node& node = *entry->second;
      const bool is_forgotten = !is_used(node) && node.IsIdleFor(kForgetAfter);
      if (!is_used(node)) node.Retire(why);
      if (is_forgotten && subscribed_ == &node) subscribed_ = nullptr;
      if (is_forgotten && subscriber_.Attached() == &node) subscriber_.Attach(nullptr);
      entry = is_forgotten ? nodes_.erase(entry) : std::next(entry);
    }
  }

  EventLoop& loop_;
  const Settings& settings_;
  const LookUp look_up_;
  const Places places_;
  const std::function<void()> on_change_;
  std::map<Address, std::unique_ptr<Node>> nodes_;
  std::unique_ptr<SentinelWatch> sentinels_;  // null: none
  Subscriber subscriber_;

  // Of one server, whoever names it.
  Node* master_ = nullptr;     // the one in use. Null: there is none now
  Node* candidate_ = nullptr;  // the one that the Sentinels named last

  // Of a cluster.
  SlotTable slots_;
  Node* subscribed_ = nullptr;  // the one that delivers messages

  RetryPause ask_pause_;
  Timer ask_again_;
};

}  // namespace singleflight::redis::detail
