// SPDX-License-Identifier: MIT
#pragma once

// Router: sends each command to the server that has its key, follows redirections, and has commands
// wait while a connection is being made. It never sends again what a server may have run: whether
// that may be repeated is known to the caller alone. Commands reach a server in their order, except
// those that were redirected, tried again, or had to load their script.
//
// Thread: the loop's.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "address.hpp"
#include "answer.hpp"
#include "command.hpp"
#include "commands_in_flight.hpp"
#include "event_loop.hpp"
#include "routed_command.hpp"
#include "script.hpp"
#include "slots.hpp"
#include "topology.hpp"

namespace singleflight::redis::detail {

class Router final : private CommandRouter {
 public:
  Router(EventLoop& loop, const Settings& settings, LookUp look_up, Places places,
         std::function<void()> on_change)
      : loop_(loop),
        settings_(settings),
        on_change_(std::move(on_change)),
        topology_(loop, settings, std::move(look_up), std::move(places), [this] { OnChange(); }),
        patience_(loop.Timers(), [this] { OnPatience(); }),
        again_(loop.Timers(),
               [this] {
                 retried_bytes_ = 0;
                 SendAll(std::exchange(retried_, {}));
               }),
        deliver_([this] {
          deliver_is_deferred_ = false;
          DeliverFailures();
        }) {}
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  void Start() { topology_.Start(); }

  // Fails all commands, and each later one. Connections are closed.
  void Close(const std::string& why) {
    closed_ = why;
    patience_.Cancel();
    again_.Cancel();
    for (auto* list : {&waiting_, &retried_}) {
      for (auto& command : std::exchange(*list, {})) FailSoon(std::move(command), why);
    }
    topology_.Close(why);
    DeliverFailures();
  }

  // Runs a script, which has the slot of its first key. `on_answer(Answer)` is called once, never
  // before this returns.
  //
  // Cost: one allocation, and the command's bytes.
  template <std::invocable<Answer> OnAnswer>
  void RunScript(const Script& script, std::span<const std::string_view> keys,
                 std::span<const std::string_view> arguments, OnAnswer on_answer) {
    const std::optional<unsigned> slot =
        keys.empty() ? std::nullopt : std::optional(HashSlot(keys.front()));
    Send(std::make_unique<WithCallback<OnAnswer>>(std::move(on_answer), *this, slot, script, keys,
                                                  arguments));
  }

  // Runs a command. `key` says which server to ask, and is not sent by itself. None: any server.
  template <std::invocable<Answer> OnAnswer>
  void Run(std::optional<std::string_view> key, std::span<const std::string_view> words,
           OnAnswer on_answer) {
    const std::optional<unsigned> slot = key ? std::optional(HashSlot(*key)) : std::nullopt;
    Send(std::make_unique<WithCallback<OnAnswer>>(std::move(on_answer), *this, slot, words));
  }

  // The same, at this server, whoever has which keys.
  template <std::invocable<Answer> OnAnswer>
  void RunAt(const Address& server, std::span<const std::string_view> words, OnAnswer on_answer) {
    auto command =
        std::make_unique<WithCallback<OnAnswer>>(std::move(on_answer), *this, std::nullopt, words);
    command->only_at = server;
    Send(std::move(command));
  }

  bool IsCluster() const noexcept { return topology_.IsCluster(); }

  // Whether a command for this key would go to a server now.
  bool CanSend(std::string_view key) {
    const Topology::Target target = topology_.Find(HashSlot(key));
    return target.node != nullptr && target.node->IsUp();
  }

  // Replaces the connection on which a command for this key would go. Those in flight on it fail,
  // or are sent on the next one if they are no longer than that.
  void Interrupt(std::string_view key, std::size_t longest) {
    const Topology::Target target = topology_.Find(HashSlot(key));
    if (target.node == nullptr) return;
    longest_sent_again_ = longest;
    target.node->Interrupt("a command takes too long");
    longest_sent_again_ = kNoLimit;
  }

  Topology& Servers() noexcept { return topology_; }

 private:
  using List = std::deque<std::unique_ptr<RoutedCommand>>;

  template <class Fn>
  class WithCallback final : public RoutedCommand {
   public:
    template <class... Args>
    explicit WithCallback(Fn fn, Args&&... args)
        : RoutedCommand(std::forward<Args>(args)...), fn_(std::move(fn)) {}
    void OnAnswer(Answer answer) noexcept override { fn_(std::move(answer)); }

   private:
    Fn fn_;
  };

  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
  static constexpr int kMaxRedirections = 16;
  static constexpr const char* kNoMemory = "there is no memory for a command";
  static constexpr auto kRetryPause = std::chrono::milliseconds(25);

  void Send(std::unique_ptr<RoutedCommand> command) {
    command->give_up = loop_.Now() + std::max(settings_.connect_timeout, settings_.command_timeout);
    if (command->Bytes().empty()) return FailSoon(std::move(command), kNoMemory);
    Route(std::move(command));
  }

  void Route(std::unique_ptr<RoutedCommand> command) {
    if (!closed_.empty()) return FailSoon(std::move(command), closed_);
    const std::optional<Address>& at = command->AskAt() ? command->AskAt() : command->only_at;
    const Topology::Target target = at ? topology_.FindAt(*at) : topology_.Find(command->Slot());
    if (target.node != nullptr) {
      command->sent_to = target.node;
      std::unique_ptr<Command> refused = target.node->Send(std::move(command));
      if (refused == nullptr) return;
      const char* const why = target.node->HasRoomFor(*refused)
                                  ? kNoMemory
                                  : "max_queued_bytes of commands wait for their answers";
      return FailSoon(RoutedCommand::Downcast(std::move(refused)),
                      target.node->Name() + ": " + why);
    }
    if (!target.may_come) {
      const std::string why = topology_.Why(command->Slot());
      return FailSoon(std::move(command), why);
    }
    const std::size_t bytes = CommandsInFlight::CostOf(*command);
    if (waiting_bytes_ + bytes > settings_.max_queued_bytes) {
      return FailSoon(std::move(command), "max_queued_bytes of commands wait for a connection");
    }
    waiting_bytes_ += bytes;
    waiting_.push_back(std::move(command));
    if (!patience_.IsSet()) patience_.Set(waiting_.front()->give_up);
  }

  // Something has changed: commands that wait may go, or fail, now. Sending them may itself change
  // something.
  void OnChange() {
    has_changed_ = true;
    if (!std::exchange(is_sending_, true)) {
      while (std::exchange(has_changed_, false)) {
        waiting_bytes_ = 0;
        SendAll(std::exchange(waiting_, {}));
      }
      is_sending_ = false;
    }
    on_change_();
  }

  void SendAll(List commands) {
    for (auto& command : commands) Route(std::move(command));
  }

  void OnPatience() {
    List waiting = std::exchange(waiting_, {});
    waiting_bytes_ = 0;
    for (auto& command : waiting) {
      if (command->give_up <= loop_.Now()) {
        const std::string why = topology_.Why(command->Slot());
        FailSoon(std::move(command), why);
      } else {
        Route(std::move(command));
      }
    }
  }

  void OnReply(std::unique_ptr<RoutedCommand> command, Reply reply) override {
    std::erase(loading_, command.get());
    if (reply.IsError() && TryAgain(command, reply.text)) return;
    RoutedCommand& answered = *command;
    if (reply.IsError() || reply.type == Reply::Type::kTooLarge) {
      const std::string& what =
          reply.IsError() ? reply.text : "the answer is longer than max_reply_bytes";
      std::string why = answered.sent_to->Name() + ": " + what;
      answered.OnAnswer({Answer::Kind::kRefused, std::move(reply), std::move(why)});
    } else {
      answered.OnAnswer({Answer::Kind::kReply, std::move(reply), {}});
    }
  }

  // Takes the command if the error says that the server has not run it, and that it may be run
  // elsewhere or soon.
  bool TryAgain(std::unique_ptr<RoutedCommand>& command, const std::string& error) {
    if (error.starts_with("NOSCRIPT")) return LoadScript(command);
    if (const auto redirect = ParseRedirect(error, command->sent_to->Where())) {
      if (++command->redirections > kMaxRedirections) return false;
      if (redirect->is_ask) {
        command->SetAskAt(redirect->to);
      } else {
        command->SetAskAt(std::nullopt);
        topology_.OnMoved(*redirect);
      }
      Route(std::move(command));
      return true;
    }
    const bool is_read_only = error.starts_with("READONLY") ||
                              error.find("-READONLY ") != std::string::npos;  // before Redis 7
    if (is_read_only) {
      topology_.OnReadOnly(*command->sent_to);
    } else if (!error.starts_with("TRYAGAIN") && !error.starts_with("CLUSTERDOWN")) {
      return false;
    }
    const std::size_t bytes = CommandsInFlight::CostOf(*command);
    if (loop_.Now() + kRetryPause > command->give_up ||
        retried_bytes_ + bytes > settings_.max_queued_bytes) {
      return false;
    }
    retried_bytes_ += bytes;
    command->SetAskAt(std::nullopt);
    retried_.push_back(std::move(command));
    if (!again_.IsSet()) again_.Set(loop_.Now() + kRetryPause);
    return true;
  }

  // The server does not know the script, which it forgets when it restarts. The first command that
  // learns this sends all of it. The others are behind that one, and find it known.
  bool LoadScript(std::unique_ptr<RoutedCommand>& command) {
    const auto is_same = [&](const RoutedCommand* other) {
      return other->sent_to == command->sent_to && other->TheScript() == command->TheScript();
    };
    const bool is_loading = std::ranges::any_of(loading_, is_same);
    if (!is_loading || std::exchange(command->has_met_noscript, true)) {
      if (!command->SendWholeScript()) return false;
      loading_.push_back(command.get());
    }
    Route(std::move(command));
    return true;
  }

  // A command that was not sent, because its connection was lost, waits for the next one.
  void OnLoss(std::unique_ptr<RoutedCommand> command, Sent sent, const std::string& why) override {
    std::erase(loading_, command.get());
    if (sent == Sent::kNo && loop_.Now() < command->give_up &&
        command->Bytes().size() <= longest_sent_again_) {
      return Route(std::move(command));
    }
    RoutedCommand& lost = *command;
    lost.OnAnswer({sent == Sent::kNo ? Answer::Kind::kNotSent : Answer::Kind::kUnknown, {}, why});
  }

  // Fails a command that was not sent, at the end of this turn: a caller that sends again at once
  // must not do so from inside Send.
  void FailSoon(std::unique_ptr<RoutedCommand> command, const std::string& why) {
    std::erase(loading_, command.get());  // it may have been about to load its script
    if (!std::exchange(deliver_is_deferred_, true)) loop_.Defer(deliver_);
    failed_.push_back({std::move(command), why});
  }
  void DeliverFailures() {
    for (Failed& failed : std::exchange(failed_, {})) {
      failed.command->OnAnswer({Answer::Kind::kNotSent, {}, std::move(failed.why)});
    }
  }

  struct Failed {
    std::unique_ptr<RoutedCommand> command;
    std::string why;
  };

  EventLoop& loop_;
  const Settings& settings_;
  const std::function<void()> on_change_;
  Topology topology_;
  List waiting_;  // for a connection, in the order in which they give up
  std::size_t waiting_bytes_ = 0;
  bool is_sending_ = false;   // what was waiting
  bool has_changed_ = false;  // since that began
  List retried_;              // soon
  std::size_t retried_bytes_ = 0;
  std::size_t longest_sent_again_ = kNoLimit;  // of those whose connection was lost
  std::vector<const RoutedCommand*> loading_;  // not answered, with the whole of a script
  std::deque<Failed> failed_;
  std::string closed_;  // why. Empty: it is not
  Timer patience_;      // of waiting_
  Timer again_;         // for retried_
  LoopFunction deliver_;
  bool deliver_is_deferred_ = false;
};

}  // namespace singleflight::redis::detail
