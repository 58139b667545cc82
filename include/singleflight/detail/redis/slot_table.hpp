// SPDX-License-Identifier: MIT
#pragma once

// SlotTable: which node of a Redis Cluster has which slot. It asks a node for all of them, again
// when something has changed, and is corrected by redirections meanwhile.
//
// Thread: the loop's.

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "event_loop.hpp"
#include "node.hpp"
#include "reply.hpp"
#include "retry_pause.hpp"
#include "slots.hpp"

namespace singleflight::redis::detail {

class SlotTable {
 public:
  struct Callbacks {
    std::function<Node*()> any_up;  // a node to ask. Null: there is none now
    std::function<Node&(const Address&)> node_at;
    std::function<void(const std::vector<SlotRange>&)> on_slots;  // they have been learned
  };

  SlotTable(EventLoop& loop, Callbacks callbacks)
      : loop_(loop),
        callbacks_(std::move(callbacks)),
        again_(loop.Timers(), [this] { Refresh(); }) {}
  SlotTable(const SlotTable&) = delete;
  SlotTable& operator=(const SlotTable&) = delete;

  // True once the server has turned out to be a cluster.
  bool IsInUse() const noexcept { return !slots_.empty(); }
  void Use() {
    if (!IsInUse()) slots_.assign(kSlots, nullptr);
  }
  void Close() noexcept { again_.Cancel(); }

  // Whether the nodes have been asked, and have answered, at least once.
  bool IsKnown() const noexcept { return is_known_; }
  // Whether an answer is about to come.
  bool IsRefreshing() const noexcept { return is_refreshing_; }

  // Null: not known.
  Node* At(unsigned slot) const noexcept { return slots_[slot]; }
  void Set(unsigned slot, Node& node) noexcept { slots_[slot] = &node; }

  // Returns the nodes that have slots, or none if no node has said which those are.
  std::vector<Node*> Nodes() const {
    std::vector<Node*> nodes;
    if (!was_told_) return nodes;
    for (Node* const node : slots_) {
      const bool is_new = node != nullptr && (nodes.empty() || nodes.back() != node) &&
                          std::ranges::find(nodes, node) == nodes.end();
      if (is_new) nodes.push_back(node);
    }
    return nodes;
  }

  // Asks now. Without a node to ask, it is up to the caller to ask again when one is up.
  void Refresh() {
    Node* const node = is_refreshing_ ? nullptr : callbacks_.any_up();
    if (node == nullptr) return;
    is_refreshing_ = node->Send(std::make_unique<Question>(*this, *node)) == nullptr;
  }

  // Asks soon, so that many redirections cause one question.
  void RefreshSoon() {
    pause_.Reset();
    if (!again_.IsSet() && !is_refreshing_) again_.Set(loop_.Now() + kPause);
  }

 private:
  static constexpr auto kPause = std::chrono::milliseconds(100);

  class Question final : public Command {
   public:
    Question(SlotTable& table, const Node& node) : table_(table), node_(node) {}
    void OnReply(std::unique_ptr<Command>, Reply reply) noexcept override {
      table_.OnSlots(ParseSlots(reply, node_.Where()));
    }
    void OnLoss(std::unique_ptr<Command>, Sent, const std::string&) noexcept override {
      table_.is_refreshing_ = false;
      table_.Refresh();  // from another node
      if (!table_.is_refreshing_) table_.callbacks_.on_slots({});
    }
    std::string_view Bytes() const noexcept override {
      return "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
    }

   private:
    SlotTable& table_;
    const Node& node_;
  };

  // Without ranges, the user may not ask: redirections teach the slots one by one.
  void OnSlots(const std::vector<SlotRange>& ranges) {
    is_refreshing_ = false;
    is_known_ = true;
    if (!ranges.empty()) {
      was_told_ = true;
      slots_.assign(kSlots, nullptr);
      for (const SlotRange& range : ranges) {
        std::fill(slots_.begin() + range.first, slots_.begin() + range.last + 1,
                  &callbacks_.node_at(range.master));
      }
      const bool is_complete = std::ranges::none_of(slots_, [](const Node* node) {
        return node == nullptr || node->State() == NodeState::kAway;
      });
      if (is_complete) {
        pause_.Reset();
      } else {  // a replica may soon be in the place of a node that is away
        again_.Set(loop_.Now() + pause_.Next());
      }
    }
    callbacks_.on_slots(ranges);
  }

  EventLoop& loop_;
  const Callbacks callbacks_;
  std::vector<Node*> slots_;  // by slot. Empty: not in use
  bool is_known_ = false;
  bool was_told_ = false;  // by a node that let the user ask
  bool is_refreshing_ = false;
  RetryPause pause_;
  Timer again_;
};

}  // namespace singleflight::redis::detail
