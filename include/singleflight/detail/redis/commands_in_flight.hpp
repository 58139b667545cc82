// SPDX-License-Identifier: MIT
#pragma once

// CommandsInFlight: the commands of one connection that wait for their answers, in the order in
// which these will come.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "command.hpp"
#include "reply.hpp"

namespace singleflight::redis::detail {

class CommandsInFlight {
 public:
  bool Empty() const noexcept { return entries_.empty(); }
  std::size_t Size() const noexcept { return entries_.size(); }
  // Returns how much memory they take, roughly.
  std::size_t Bytes() const noexcept { return bytes_; }
  static std::size_t CostOf(const Command& command) noexcept {
    return command.Bytes().size() + kOverhead;
  }

  // `end` is how many bytes the connection will have written when all of the command's are.
  void Add(std::unique_ptr<Command> command, std::uint64_t end, Clock::time_point now) {
    const std::size_t cost = CostOf(*command);
    const int replies = command->Replies();
    bytes_ += cost;
    entries_.push_back({std::move(command), cost, end, now, replies});
  }

  // Returns the oldest command if this is the last of its replies. Else null.
  std::unique_ptr<Command> TakeForReply() {
    Entry& oldest = entries_.front();
    if (--oldest.replies > 0) return nullptr;
    answered_ = oldest.end;
    std::unique_ptr<Command> command = std::move(oldest.command);
    bytes_ -= oldest.cost;
    entries_.pop_front();
    return command;
  }

  // Returns how long the server may be silent while the oldest command waits.
  Clock::duration Patience(Clock::duration command_timeout) const noexcept {
    return std::min(entries_.front().command->Patience(), command_timeout);
  }
  // Returns since when the oldest command waits.
  Clock::time_point Since() const noexcept { return entries_.front().since; }

  // Returns the `end` of the last command that was answered.
  std::uint64_t Answered() const noexcept { return answered_; }

  // Removes all, and tells each one. A command of which the server has not got the last byte was
  // not run, and will not be.
  static void Fail(CommandsInFlight lost, std::uint64_t written, const std::string& why) {
    for (Entry& entry : lost.entries_) {
      Command& command = *entry.command;
      command.OnLoss(std::move(entry.command), entry.end <= written ? Sent::kMaybe : Sent::kNo,
                     why);
    }
  }

 private:
  struct Entry {
    std::unique_ptr<Command> command;
    std::size_t cost;
    std::uint64_t end;
    Clock::time_point since;
    int replies;  // that have not come yet
  };

  static constexpr std::size_t kOverhead = 256;  // of memory, besides a command's bytes

  std::deque<Entry> entries_;  // the oldest first
  std::size_t bytes_ = 0;
  std::uint64_t answered_ = 0;
};

}  // namespace singleflight::redis::detail
