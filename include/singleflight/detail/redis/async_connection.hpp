// SPDX-License-Identifier: MIT
#pragma once

// AsyncConnection: one connection to a server, for many commands at a time. All that a turn of the
// loop sends goes out in one write. The answers come in the order of the commands.
//
// It does not reconnect: its owner opens it again.
//
// Thread: the loop's, for every member. None of the callbacks may destroy the connection, but they
//   may close it and open it again.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "commands_in_flight.hpp"
#include "event_loop.hpp"
#include "handshake.hpp"
#include "output_buffer.hpp"
#include "reply.hpp"
#include "stream.hpp"

namespace singleflight::redis::detail {

class AsyncConnection {
 public:
  struct Down {
    std::string why;         // which server, and what happened
    bool timed_out = false;  // the server was silent for too long
    bool was_up = false;
  };
  struct Callbacks {
    std::function<void()> on_up;
    // The connection is closed, and may be opened again. The commands in flight fail after this.
    std::function<void(const Down&)> on_down;
    std::function<void(Reply)> on_message = {};  // of a subscription
  };

  AsyncConnection(EventLoop& loop, const Settings& settings, Callbacks callbacks)
      : loop_(loop),
        settings_(settings),
        callbacks_(std::move(callbacks)),
        parser_(settings.max_reply_bytes),
        on_file_([this](short) { OnReadyOrFail(); }),
        flush_([this] {
          flush_is_deferred_ = false;
          Flush();
        }),
        deadline_(loop.Timers(), [this] { OnDeadline(); }),
        connect_again_(loop.Timers(), [this] { ConnectNext(); }) {}
  // Closed by its owner before, so that no command is lost silently.
  ~AsyncConnection() = default;
  AsyncConnection(const AsyncConnection&) = delete;
  AsyncConnection& operator=(const AsyncConnection&) = delete;

  bool IsClosed() const noexcept { return state_ == State::kClosed; }
  bool IsUp() const noexcept { return state_ == State::kUp; }
  const ServerInfo& Info() const noexcept { return info_; }
  Clock::time_point UpSince() const noexcept { return up_since_; }
  Clock::time_point LastHeard() const noexcept { return last_heard_; }
  std::size_t InFlight() const noexcept { return in_flight_.Size(); }

  // Connects to the first address that accepts, and says hello, until `give_up`. Each address has
  // its share of that time. The outcome is on_up or on_down, never before this returns.
  void Open(std::string name, const std::string& host, std::vector<SocketAddress> addresses,
            Clock::time_point give_up) {
    name_ = std::move(name);
    host_ = host;
    addresses_ = std::move(addresses);
    next_address_ = 0;
    last_error_ = "it has no address";
    state_ = State::kConnecting;
    give_up_ = give_up;
    connect_again_.Set(loop_.Now());
  }

  // Closes the connection. The commands in flight fail with `why`.
  void Close(const std::string& why) { FailAll(TearDown(), why); }

  // Closes it as if the server had, with on_down. While it connects, it tries the next address.
  void Fail(const std::string& error, bool timed_out = false) {
    if (!IsUp() && next_address_ < addresses_.size()) {
      last_error_ = error;
      TearDown();
      state_ = State::kConnecting;
      return ConnectNext();
    }
    const Down down{name_ + ": " + error, timed_out, state_ == State::kUp};
    Lost lost = TearDown();
    callbacks_.on_down(down);
    FailAll(std::move(lost), down.why);
  }

  // Whether the queue has room.
  bool HasRoomFor(const Command& command) const noexcept {
    return in_flight_.Bytes() + CommandsInFlight::CostOf(command) <= settings_.max_queued_bytes;
  }
  // Sends a command, if the connection is up, its queue has room, and there is memory. Returns it
  // otherwise.
  std::unique_ptr<Command> Send(std::unique_ptr<Command> command) {
    if (!IsUp() || !HasRoomFor(*command)) return command;
    const bool is_first = out_.Empty();
    if (!out_.Append(command->Bytes())) return command;
    if (is_first && !std::exchange(flush_is_deferred_, true)) loop_.Defer(flush_);
    in_flight_.Add(std::move(command), out_.Appended(), loop_.Now());
    if (!deadline_.IsSet()) {
      deadline_.Set(loop_.Now() + in_flight_.Patience(settings_.command_timeout));
    }
    return nullptr;
  }

 private:
  enum class State : unsigned char { kClosed, kConnecting, kHandshake, kUp };

  struct Lost {
    CommandsInFlight commands;
    std::uint64_t written;
  };

  // How often one turn reads, so that the loop's other work is not kept waiting.
  static constexpr int kReads = 16;
  static constexpr std::size_t kReadSize = 65'536;
  // What HELLO answers grows with the server's modules.
  static constexpr std::size_t kHandshakeReply = 1'048'576;
  static constexpr auto kBusyPause = std::chrono::milliseconds(5);

  // Connects to the next address. If it fails at once, to the one after that.
  void ConnectNext() {
    for (;;) {
      CloseStream();
      if (next_address_ == addresses_.size()) return Fail(last_error_);
      const SocketAddress& address = addresses_[next_address_];
      switch (stream_.Connect(address, last_error_)) {
        case Stream::Connecting::kStarted: {
          file_ = loop_.AddFile(stream_.File(), POLLOUT, &on_file_);
          const auto left = give_up_ - loop_.Now();
          const auto share = static_cast<Clock::rep>(addresses_.size() - next_address_);
          deadline_.Set(loop_.Now() + left / share);
          ++next_address_;
          return;
        }
        case Stream::Connecting::kBusy:
          if (loop_.Now() >= give_up_) {
            ++next_address_;
            return Fail("its backlog stayed full for connect_timeout", true);
          }
          connect_again_.Set(loop_.Now() + kBusyPause);
          return;
        case Stream::Connecting::kFailed:
          ++next_address_;
          break;
      }
    }
  }

  void OnReadyOrFail() {
    try {
      OnReady();
    } catch (const std::bad_alloc&) {  // for a long reply, most likely
      if (!IsClosed()) Fail("no memory for what it sent");
    }
  }

  void OnReady() {
    if (state_ == State::kConnecting) {
      if (const int error = stream_.ConnectError(); error != 0) {
        return Fail(ErrorText(error));
      }
      return SayHello();
    }
    const std::uint64_t opened = opened_;
    ReadAll();
    if (opened_ == opened && state_ != State::kClosed) Flush();
  }

  void SayHello() {
    state_ = State::kHandshake;
    last_heard_ = loop_.Now();
    if (settings_.tls != nullptr) stream_.StartTls(*settings_.tls, host_);
    parser_.SetLimit(std::max(settings_.max_reply_bytes, kHandshakeReply));
    std::string hello;
    handshake_.emplace(settings_, hello);
    if (!out_.Append(hello)) return Fail("there is no memory to say hello");
    Flush();
  }

  void OnDeadline() {
    const Clock::time_point now = loop_.Now();
    switch (state_) {
      case State::kClosed:
        return;
      case State::kConnecting:
        return Fail("cannot be reached within connect_timeout", true);
      case State::kHandshake:
        return Fail("did not answer within connect_timeout", true);
      case State::kUp:
        break;
    }
    if (in_flight_.Empty()) return;
    if (IsDelivering()) last_heard_ = now;
    const Clock::duration patience = in_flight_.Patience(settings_.command_timeout);
    const Clock::time_point due = std::max(in_flight_.Since(), last_heard_) + patience;
    if (now < due) return deadline_.Set(due);
    const auto silent = std::chrono::ceil<std::chrono::milliseconds>(patience).count();
    Fail("has sent nothing for " + std::to_string(silent) + " ms while a command waits", true);
  }

  // A long command on a slow link is no silence: whether the server's side has taken more of it
  // since this was last called.
  bool IsDelivering() noexcept {
    const std::uint64_t left = std::min<std::uint64_t>(stream_.Undelivered(), out_.Written());
    if (left == 0 && out_.Empty()) return false;  // the server has it all
    const std::uint64_t before = std::max(delivered_, in_flight_.Answered());
    delivered_ = out_.Written() - left;
    return delivered_ > before;
  }

  // Reads what has arrived, and hands it out.
  void ReadAll() {
    const std::uint64_t opened = opened_;
    for (int reads = 0;; ++reads) {
      std::array<char, kReadSize> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init)
      std::size_t size = 0;
      std::string error;
      if (!stream_.Read(buffer.data(), buffer.size(), size, error)) {
        if (!error.empty()) return Fail(error);
        return UpdateEvents();
      }
      last_heard_ = loop_.Now();
      const bool is_valid = Feed({buffer.data(), size}, error);
      if (opened_ != opened) return;
      if (!error.empty()) return Fail(error);
      if (!is_valid) return Fail("sent what is not the Redis protocol");
      if (stream_.PollSeesTheRest() && (size < buffer.size() || reads == kReads)) return;
    }
  }

  // False: the bytes are no replies, or the connection was closed, or there is an error.
  bool Feed(std::string_view bytes, std::string& error) {
    const std::uint64_t opened = opened_;
    try {
      return parser_.Feed(bytes, [&](Reply&& reply) {
        OnReply(std::move(reply));
        return opened_ == opened;
      });
    } catch (const std::bad_alloc&) {
      error = "there is no memory for its answer";
    }
    return false;
  }

  void OnReply(Reply&& reply) {
    if (state_ == State::kHandshake) return OnHandshakeReply(reply);
    if (callbacks_.on_message && IsMessage(reply)) {
      if (reply.type == Reply::Type::kTooLarge) return;  // it is not ours
      return callbacks_.on_message(std::move(reply));
    }
    if (in_flight_.Empty()) {
      return Fail(reply.IsError() ? "said: " + reply.text : "answered what nobody asked");
    }
    std::unique_ptr<Command> command = in_flight_.TakeForReply();
    if (command == nullptr) return;
    Command& answered = *command;
    answered.OnReply(std::move(command), std::move(reply));
  }

  void OnHandshakeReply(const Reply& reply) {
    if (const std::optional<std::string> refusal = handshake_->OnReply(reply)) {
      return Fail(*refusal);
    }
    if (!handshake_->IsComplete()) return;
    info_ = handshake_->Info();
    handshake_.reset();
    parser_.SetLimit(settings_.max_reply_bytes);
    state_ = State::kUp;
    up_since_ = loop_.Now();
    deadline_.Cancel();
    callbacks_.on_up();
  }

  static bool IsMessage(const Reply& reply) noexcept {
    const bool has_size = reply.elements.size() == (reply.type == Reply::Type::kTooLarge ? 1 : 3);
    return has_size && reply.elements[0].text == "message";
  }

  // Writes what is queued, as far as the socket takes it.
  void Flush() {
    if (!stream_.IsOpen() || state_ == State::kConnecting) return;
    std::string error;
    for (std::size_t size = 0; !out_.Empty(); out_.Consume(size)) {
      const std::string_view front = out_.Front();
      if (!stream_.Write(front.data(), front.size(), size, error)) break;
    }
    if (!error.empty()) {  // what the server has said before it closed says more
      const std::uint64_t opened = opened_;
      ReadAll();
      if (opened_ == opened && state_ != State::kClosed) Fail(error);
      return;
    }
    UpdateEvents();
  }

  void UpdateEvents() {
    if (file_) loop_.SetEvents(*file_, stream_.Events(!out_.Empty()));
  }

  void CloseStream() noexcept {
    if (file_) loop_.RemoveFile(*file_);
    file_.reset();
    stream_.Close();
  }

  // Makes the connection a closed one, and returns the commands that were in flight.
  Lost TearDown() {
    CloseStream();
    ++opened_;
    state_ = State::kClosed;
    deadline_.Cancel();
    connect_again_.Cancel();
    handshake_.reset();
    parser_.Reset();
    delivered_ = 0;
    Lost lost{std::exchange(in_flight_, {}), out_.Written()};
    out_.Reset();
    return lost;
  }

  static void FailAll(Lost lost, const std::string& why) {
    CommandsInFlight::Fail(std::move(lost.commands), lost.written, why);
  }

  EventLoop& loop_;
  const Settings& settings_;
  const Callbacks callbacks_;
  State state_ = State::kClosed;
  std::uint64_t opened_ = 0;  // how often it was closed: a callback may close it
  std::string name_;          // for messages
  std::string host_;          // whose certificate is expected
  std::vector<SocketAddress> addresses_;
  std::size_t next_address_ = 0;
  std::string last_error_;
  Clock::time_point give_up_ = {};
  Stream stream_;
  std::optional<std::size_t> file_;  // its number in the loop
  std::optional<Handshake> handshake_;
  ServerInfo info_;
  Clock::time_point up_since_ = {};
  Clock::time_point last_heard_ = {};
  ReplyParser parser_;
  CommandsInFlight in_flight_;
  OutputBuffer out_;
  std::uint64_t delivered_ = 0;  // bytes, when IsDelivering was last called
  const EventLoop::Handler on_file_;
  LoopFunction flush_;
  bool flush_is_deferred_ = false;
  Timer deadline_;  // of connecting, of the handshake, or of the oldest command in flight
  Timer connect_again_;
};

}  // namespace singleflight::redis::detail
