// SPDX-License-Identifier: MIT
#pragma once

// Inbox: through which others tell a group of outcomes. Inboxes: those of a client.

#include <array>
#include <atomic>
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

#include "answer.hpp"
#include "client_core.hpp"
#include "fork_count.hpp"
#include "protocol.hpp"

namespace singleflight::redis::detail {

// One that waits for messages about a lease. It stays alive while it is listed.
class Listener {
 public:
  // Thread: the loop's.
  virtual void OnMessage(const Message& message) noexcept = 0;
  // Messages may have been lost until now.
  virtual void OnSubscribed() noexcept = 0;
  // The client is being destroyed.
  virtual void OnClose() noexcept = 0;
  virtual bool Holds() const noexcept = 0;  // the lease that it is listed for

 protected:
  ~Listener() = default;
};

// A channel of this process, through which others tell a group of outcomes.
//
// A message may overtake the answer to a Take, which comes through another connection. So as long
// as answers are awaited, it is remembered which leases messages came about.
//
// Thread: the loop's, except Channel.
class Inbox : public std::enable_shared_from_this<Inbox> {
 public:
  Inbox(ClientCore& core, std::string_view prefix)
      : core_(core), channel_((std::string(prefix) += ":inbox:") += detail::NewToken(0)) {}

  const std::string& Channel() const noexcept { return channel_; }
  bool IsOpen() const noexcept { return is_open_; }  // any thread

  void Open() {
    if (is_open_.exchange(true)) return;
    core_.Subscriptions().Subscribe(
        channel_, {[this, kept = shared_from_this()](std::string_view bytes) { OnMessage(bytes); },
                   [this] { OnSubscribed(); }});
  }
  void Close() {
    ForEach([](Listener& each) { each.OnClose(); });
  }

  // `id` is the listener's own, and stays as it is while that is listed.
  void Add(const std::string& id, Listener& listener) { listeners_.emplace(id, &listener); }
  void Add(std::string&&, Listener&) = delete;
  void Remove(const std::string& id, Listener& listener) noexcept {
    const auto [first, last] = listeners_.equal_range(id);
    for (auto each = first; each != last; ++each) {
      if (each->second != &listener) continue;
      listeners_.erase(each);
      return;
    }
  }

  // When a Take was sent.
  struct Moment {
    std::uint64_t subscription = 0;
    std::uint64_t generation = 0;
  };
  Moment TakeSent() {
    ++current_.takes;
    return {subscription_, generation_};
  }
  // What has come since about the lease that the Take's answer names.
  struct Missed {
    bool message = false;  // perhaps one about the outcome
    bool forgotten = false;
  };
  Missed TakeAnswered(const Moment& sent, const std::string& id) {
    Missed missed{sent.subscription != subscription_};
    for (const Generation* each : {&previous_, &current_}) {
      const auto found = each->messages.find(id);
      if (found == each->messages.end()) continue;
      missed.message = missed.message || found->second.message;
      missed.forgotten = missed.forgotten || found->second.forgotten;
    }
    --(sent.generation == generation_ ? current_ : previous_).takes;
    while (previous_.takes == 0) {  // nobody needs what came before
      for (Question& each : previous_.questions) AnswerSoon(std::move(each));
      previous_ = std::exchange(current_, {});
      ++generation_;
      if (previous_.questions.empty()) break;
    }
    return missed;
  }

 private:
  // Whether the lease with this id and name is held.
  struct Question {
    std::string id;
    std::string lease;
  };
  // Takes that were sent in one period, and messages that came in it.
  struct Generation {
    std::size_t takes = 0;                             // that are not answered
    std::unordered_map<std::string, Missed> messages;  // by id
    std::vector<Question> questions;
  };

  void OnMessage(std::string_view bytes) {
    const std::optional<Message> message = detail::ReadMessage(bytes);
    if (!message) return;
    if (message->kind == MessageKind::kHeld) return OnQuestion(*message);
    if (current_.takes + previous_.takes > 0) {
      Missed& its = current_.messages[message->id];
      (message->kind == MessageKind::kForgotten ? its.forgotten : its.message) = true;
    }
    std::vector<Listener*> told;  // they may remove themselves
    const auto find = [&](const std::string& id) {
      const auto [first, last] = listeners_.equal_range(id);
      for (auto each = first; each != last; ++each) told.push_back(each->second);
    };
    find(message->id);
    if (message->kind == MessageKind::kForgotten) {
      find(std::string(detail::TokenOf(message->id)));  // it may not know the fence
    }
    for (Listener* const each : told) each->OnMessage(*message);
  }
  // The lease may have been given to a Take that is not answered yet.
  void OnQuestion(const Message& message) {
    if (IsHeld(message.id)) return;
    Question question{message.id, std::string(message.payload)};
    if (current_.takes + previous_.takes > 0) {
      current_.questions.push_back(std::move(question));
    } else {
      AnswerSoon(std::move(question));
    }
  }
  // Not at once: the lease may be about to be listed.
  void AnswerSoon(Question question) {
    core_.Loop().Post([self = shared_from_this(), question = std::move(question)] {
      if (!self->IsHeld(question.id)) self->Disown(question);
    });
  }
  bool IsHeld(const std::string& id) const {
    const auto [first, last] = listeners_.equal_range(id);
    for (auto each = first; each != last; ++each) {
      if (each->second->Holds()) return true;
    }
    return listeners_.contains(detail::TokenOf(id));
  }
  // Ends a lease that this process does not hold. Those who follow it ask again. If the answer is
  // lost, they will send their question again.
  void Disown(const Question& question) {
    const std::string_view lease = question.lease;
    if (!lease.ends_with(kLeaseSuffix)) return;
    const std::string_view base = lease.substr(0, lease.size() - kLeaseSuffix.size());
    const std::string_view token = detail::TokenOf(question.id);
    const std::string forgotten = detail::ForgottenName(base, token);
    const std::string outcome = detail::OutcomeName(base, token);
    const std::array<std::string_view, 3> keys = {lease, forgotten, outcome};
    const std::array<std::string_view, 6> words = {token, detail::FenceOf(question.id), {}, "1", {},
                                                   "0"};
    core_.Commands().RunScript(detail::PublishScript(), keys, words, [](const Answer&) {});
  }
  void OnSubscribed() {
    ++subscription_;
    ForEach([](Listener& each) { each.OnSubscribed(); });
  }
  template <class Fn>
  void ForEach(Fn&& fn) {
    std::vector<Listener*> all;
    all.reserve(listeners_.size());
    for (const auto& each : listeners_) all.push_back(each.second);
    for (Listener* const each : all) fn(*each);
  }

  ClientCore& core_;
  const std::string channel_;
  std::atomic<bool> is_open_ = false;
  std::uint64_t subscription_ = 0;  // how often it was subscribed
  std::uint64_t generation_ = 0;
  Generation current_, previous_;
  std::unordered_multimap<std::string_view, Listener*> listeners_;  // by the lease's id
};

// The inboxes of a client. What the groups share may be destroyed after the client, if that is
// destroyed on a thread that delivers. So this outlives both.
//
// Thread: any. In a forked child, nothing is opened or closed: a thread of the parent may have had
//   the mutex.
class Inboxes {
 public:
  explicit Inboxes(ClientCore& core) : core_(&core) {}

  std::shared_ptr<Inbox> Open(std::string_view prefix) {
    if (IsForked()) return std::make_shared<Inbox>(*core_, prefix);
    const std::lock_guard lock(mutex_);
    return all_.emplace_back(std::make_shared<Inbox>(*core_, prefix));
  }
  void Close(const std::shared_ptr<Inbox>& inbox) {
    if (IsForked()) return;
    const std::lock_guard lock(mutex_);
    if (core_ == nullptr) return;
    std::erase(all_, inbox);
    if (!inbox->IsOpen()) return;
    core_->Loop().Post(
        [core = core_, channel = inbox->Channel()] { core->Subscriptions().Unsubscribe(channel); });
  }

  // The client is being destroyed. Afterwards nothing more is posted.
  std::vector<std::shared_ptr<Inbox>> TakeAll() {
    const std::lock_guard lock(mutex_);
    core_ = nullptr;
    return std::exchange(all_, {});
  }

 private:
  // The loop may have been destroyed.
  bool IsForked() const noexcept { return forks_ != ForkCount(); }

  const unsigned forks_ = ForkCount();
  std::mutex mutex_;
  // Guarded by mutex_.
  ClientCore* core_;  // null once the client is being destroyed
  std::vector<std::shared_ptr<Inbox>> all_;
};

}  // namespace singleflight::redis::detail
