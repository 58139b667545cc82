// SPDX-License-Identifier: MIT
#pragma once

// Command: what is sent to a server, and who gets the answer. Settings: what a client's connections
// have in common.

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "reply.hpp"
#include "timer_queue.hpp"
#include "tls.hpp"

namespace singleflight::redis::detail {

// What is known of a command whose answer will not come.
enum class Sent : unsigned char {
  kNo,     // the server has not got it, and will not
  kMaybe,  // the server may have run it
};

// Exactly one of OnReply and OnLoss is called, once, on the loop's thread. It gets the command
// itself, which may be sent again.
class Command {
 public:
  Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  virtual ~Command() = default;

  virtual void OnReply(std::unique_ptr<Command> self, Reply reply) noexcept = 0;
  virtual void OnLoss(std::unique_ptr<Command> self, Sent sent,
                      const std::string& why) noexcept = 0;

  // Returns what is sent: one or several whole commands. No static object with a destructor may be
  // behind it: the loop goes on while a process exits that has leaked its client.
  virtual std::string_view Bytes() const noexcept = 0;
  // Returns how many replies these have. OnReply gets the last one.
  virtual int Replies() const noexcept { return 1; }
  // Returns how long the server may be silent while this is the oldest command in flight, if that
  // is not `command_timeout`.
  virtual Clock::duration Patience() const noexcept { return Clock::duration::max(); }
};

struct Settings {
  std::string user = {};
  std::string password = {};  // empty: no authentication
  int database = 0;
  std::string client_name = {};  // shown by CLIENT LIST. Empty: none
  bool master_only = true;       // a replica is refused
  std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(500);
  std::chrono::milliseconds command_timeout = std::chrono::seconds(1);
  std::size_t max_queued_bytes = std::size_t{64} << 20;  // of commands without an answer
  std::size_t max_reply_bytes = std::size_t{16} << 20;
  std::shared_ptr<const TlsContext> tls = {};

  // Returns command_timeout. A part of it may be less than a millisecond.
  Clock::duration Patience() const noexcept { return command_timeout; }
};

}  // namespace singleflight::redis::detail
