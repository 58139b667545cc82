// SPDX-License-Identifier: MIT
#pragma once

// RoutedCommand: a command on its way through the servers of a client, which may redirect it. A
// script goes by its digest first, and as its text if the server does not know that.

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "address.hpp"
#include "answer.hpp"
#include "command.hpp"
#include "reply.hpp"
#include "script.hpp"

namespace singleflight::redis::detail {

class Node;
class RoutedCommand;

// Gets each outcome of a RoutedCommand.
class CommandRouter {
 public:
  virtual void OnReply(std::unique_ptr<RoutedCommand> command, Reply reply) = 0;
  virtual void OnLoss(std::unique_ptr<RoutedCommand> command, Sent sent,
                      const std::string& why) = 0;

 protected:
  ~CommandRouter() = default;
};

class RoutedCommand : public Command {
 public:
  // Makes a command of these words. Without memory for them, Bytes is empty, as below.
  RoutedCommand(CommandRouter& router, std::optional<unsigned> slot,
                std::span<const std::string_view> words)
      : router_(router), slot_(slot) {
    WithMemory([&] { AppendCommand(bytes_, words); });
  }
  // Makes a command that runs a script.
  RoutedCommand(CommandRouter& router, std::optional<unsigned> slot, const Script& script,
                std::span<const std::string_view> keys, std::span<const std::string_view> arguments)
      : router_(router), slot_(slot), script_(&script) {
    words_ = 3 + keys.size() + arguments.size();
    WithMemory([&] {
      bytes_.reserve(detail::SizeOf(keys) + detail::SizeOf(arguments) + 128);
      head_ = AppendScriptHead(bytes_, "EVALSHA", script.Digest());
      AppendWord(bytes_, std::to_string(keys.size()));
      for (const std::string_view key : keys) AppendWord(bytes_, key);
      for (const std::string_view argument : arguments) AppendWord(bytes_, argument);
    });
  }

  // Called once. The command is destroyed after that.
  virtual void OnAnswer(Answer answer) noexcept = 0;

  const Script* TheScript() const noexcept { return script_; }  // null: none
  std::optional<unsigned> Slot() const noexcept { return slot_; }

  // From now on, the script goes as its text. False if it does already, is no script, or there is
  // no memory for that.
  bool SendWholeScript() {
    if (script_ == nullptr || is_whole_) return false;
    return WithMemory([&] {
      std::string whole;
      whole.reserve(bytes_.size() + script_->Text().size() + 128);
      if (ask_at_) whole = kAsking;
      const std::size_t head = AppendScriptHead(whole, "EVAL", script_->Text());
      whole.append(bytes_, head_);
      bytes_ = std::move(whole);
      head_ = head;
      is_whole_ = true;
    });
  }

  // Has the next attempt go to a node that does not have the slot yet, or to the one that has it.
  void SetAskAt(std::optional<Address> address) {
    if (address.has_value() != ask_at_.has_value()) {
      if (address) {
        bytes_.insert(0, kAsking);
        head_ += kAsking.size();
      } else {
        bytes_.erase(0, kAsking.size());
        head_ -= kAsking.size();
      }
    }
    ask_at_ = std::move(address);
  }
  const std::optional<Address>& AskAt() const noexcept { return ask_at_; }

  std::string_view Bytes() const noexcept override { return bytes_; }
  int Replies() const noexcept override { return ask_at_ ? 2 : 1; }
  void OnReply(std::unique_ptr<Command> self, Reply reply) noexcept override {
    router_.OnReply(Downcast(std::move(self)), std::move(reply));
  }
  void OnLoss(std::unique_ptr<Command> self, Sent sent, const std::string& why) noexcept override {
    router_.OnLoss(Downcast(std::move(self)), sent, why);
  }

  static std::unique_ptr<RoutedCommand> Downcast(std::unique_ptr<Command> self) noexcept {
    return std::unique_ptr<RoutedCommand>(static_cast<RoutedCommand*>(self.release()));
  }

  std::optional<Address> only_at = {};  // no other server is asked. Set before it is sent

  // Used by the router alone.
  Node* sent_to = nullptr;
  int redirections = 0;
  bool has_met_noscript = false;
  Clock::time_point give_up = {};  // until then it waits for a server, or is tried again

 private:
  static constexpr std::string_view kAsking = "*1\r\n$6\r\nASKING\r\n";

  // Returns the size of `bytes` with the head.
  std::size_t AppendScriptHead(std::string& bytes, std::string_view name,
                               std::string_view script) const {
    AppendHeader(bytes, '*', words_);
    AppendWord(bytes, name);
    AppendWord(bytes, script);
    return bytes.size();
  }
  // False: there is no memory for what `fn` does.
  template <class Fn>
  static bool WithMemory(const Fn& fn) {
    try {
      fn();
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  }

  CommandRouter& router_;
  const std::optional<unsigned> slot_;  // none: any server will do
  const Script* const script_ = nullptr;
  bool is_whole_ = false;  // the script goes as its text
  std::size_t words_ = 0;  // of a script's command
  std::size_t head_ = 0;   // the size of what comes before the number of keys
  std::string bytes_;
  std::optional<Address> ask_at_;
};

}  // namespace singleflight::redis::detail
