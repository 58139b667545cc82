// SPDX-License-Identifier: MIT
#pragma once

// SentinelWatch: asks Redis Sentinels which server is the master, and listens to them for the next.
//
// Thread: the loop's.

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
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
#include "subscriber.hpp"

namespace singleflight::redis::detail {

class SentinelWatch {
 public:
  struct Callbacks {
    std::function<void(const Address&)> on_master;  // also if it is the same one again
    std::function<void()> on_change;                // of a Sentinel's state
  };

  SentinelWatch(EventLoop& loop, Settings settings, const LookUp& look_up,
                const std::vector<Address>& sentinels, std::string master, Callbacks callbacks)
      : settings_(std::move(settings)),
        master_(std::move(master)),
        callbacks_(std::move(callbacks)),
        subscriber_(loop, settings_, [] {}) {
    for (const Address& address : sentinels) {
      sentinels_.push_back(std::make_unique<Node>(loop, settings_, look_up, address,
                                                  [this](Node& node) { OnChange(node); }));
    }
    subscriber_.Subscribe("+switch-master",
                          {[this](std::string_view message) { OnSwitch(message); }, {}});
  }
  SentinelWatch(const SentinelWatch&) = delete;
  SentinelWatch& operator=(const SentinelWatch&) = delete;

  void Start() {
    for (const auto& sentinel : sentinels_) sentinel->Resume();
  }
  void Close(const std::string& why) {
    subscriber_.Close();
    for (const auto& sentinel : sentinels_) sentinel->Pause(why);
  }

  // Asks all Sentinels that are up. The first answer counts.
  void Ask() {
    ++round_;
    waiting_ = 0;
    for (const auto& sentinel : sentinels_) AskOne(*sentinel);
  }

  // Whether an answer may come soon.
  bool IsBusy() const noexcept {
    return waiting_ > 0 || std::ranges::any_of(sentinels_, [](const auto& sentinel) {
             return sentinel->State() == NodeState::kConnecting;
           });
  }

  // Returns what the last answer that named no master said.
  const std::string& Why() const noexcept { return why_; }
  const std::vector<std::unique_ptr<Node>>& Sentinels() const noexcept { return sentinels_; }

 private:
  class Question final : public Command {
   public:
    Question(SentinelWatch& watch, const Node& sentinel)
        : watch_(watch), sentinel_(sentinel), round_(watch.round_) {
      const std::array<std::string_view, 3> words = {"SENTINEL", "get-master-addr-by-name",
                                                     watch.master_};
      AppendCommand(bytes_, words);
    }
    void OnReply(std::unique_ptr<Command>, Reply reply) noexcept override {
      watch_.OnAnswer(sentinel_, round_, reply);
    }
    void OnLoss(std::unique_ptr<Command>, Sent, const std::string& why) noexcept override {
      watch_.OnNoAnswer(round_, why);
    }
    std::string_view Bytes() const noexcept override { return bytes_; }

   private:
    SentinelWatch& watch_;
    const Node& sentinel_;
    const std::uint64_t round_;
    std::string bytes_;
  };

  void AskOne(Node& sentinel) {
    if (!sentinel.IsUp()) return;
    if (sentinel.Send(std::make_unique<Question>(*this, sentinel)) == nullptr) ++waiting_;
  }

  void OnChange(Node& sentinel) {
    if (sentinel.IsUp()) AskOne(sentinel);
    const auto up = std::ranges::find_if(sentinels_, [](const auto& one) { return one->IsUp(); });
    subscriber_.Attach(up == sentinels_.end() ? nullptr : up->get());
    callbacks_.on_change();
  }

  // The reply is [host, port], or nil.
  void OnAnswer(const Node& sentinel, std::uint64_t round, const Reply& reply) {
    if (round != round_) return;
    if (reply.elements.size() == 2) {
      const std::optional<int> port = ParseNumber(reply.elements[1].text);
      if (port && !reply.elements[0].text.empty()) {
        ++round_;  // the other answers come too late
        waiting_ = 0;
        return callbacks_.on_master({reply.elements[0].text, *port});
      }
    }
    const bool is_unknown = reply.type == Reply::Type::kNil;
    OnNoAnswer(round, sentinel.Name() + (is_unknown ? ": knows no master '" + master_ + "'"
                                                    : ": answered: " + reply.text));
  }

  void OnNoAnswer(std::uint64_t round, const std::string& why) {
    if (round != round_ || waiting_ == 0) return;
    why_ = why;
    if (--waiting_ == 0) callbacks_.on_change();
  }

  // The message is "NAME OLD_HOST OLD_PORT HOST PORT".
  void OnSwitch(std::string_view message) {
    std::istringstream words{std::string(message)};
    std::string name, old_host, old_port, host, port;
    if (!(words >> name >> old_host >> old_port >> host >> port) || name != master_) return;
    if (const std::optional<int> number = ParseNumber(port)) {
      ++round_;  // an answer that is on its way may be older than this
      waiting_ = 0;
      callbacks_.on_master({host, *number});
    }
  }

  const Settings settings_;
  const std::string master_;
  const Callbacks callbacks_;
  std::vector<std::unique_ptr<Node>> sentinels_;
  Subscriber subscriber_;
  std::uint64_t round_ = 0;
  std::size_t waiting_ = 0;  // answers of this round that have not come yet
  std::string why_;
};

}  // namespace singleflight::redis::detail
