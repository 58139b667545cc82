// SPDX-License-Identifier: MIT
#pragma once

// Handshake: the first commands of a connection, sent together, and what their answers say about
// the server.

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.hpp"
#include "reply.hpp"

namespace singleflight::redis::detail {

// What a server says about itself. Before Redis 6, it says nothing.
struct ServerInfo {
  bool is_cluster = false;
  bool is_replica = false;
};

class Handshake {
 public:
  // Appends the commands to `out`.
  Handshake(const Settings& settings, std::string& out) : master_only_(settings.master_only) {
    if (!settings.password.empty() && settings.user.empty()) {
      Add(out, Step::kAuth, {"AUTH", settings.password});
    } else if (!settings.password.empty()) {
      Add(out, Step::kAuth, {"AUTH", settings.user, settings.password});
    }
    if (settings.database != 0) {
      Add(out, Step::kSelect, {"SELECT", std::to_string(settings.database)});
    }
    if (!settings.client_name.empty()) {
      Add(out, Step::kName, {"CLIENT", "SETNAME", settings.client_name});
    }
    Add(out, Step::kHello, {"HELLO", "2"});
    Add(out, Step::kPing, {"PING"});  // HELLO is answered even while the server loads its data
  }

  // True if the connection can be used.
  bool IsComplete() const noexcept { return steps_.empty(); }
  const ServerInfo& Info() const noexcept { return info_; }

  // Takes the next answer. Returns why the server cannot be used, if it cannot.
  std::optional<std::string> OnReply(const Reply& reply) {
    const Step step = steps_.front();
    steps_.pop_front();
    if (reply.IsError() && !IsOptional(step, reply.text)) {
      return "answered " + std::string(NameOf(step)) + " with: " + reply.text;
    }
    if (reply.type == Reply::Type::kTooLarge) {
      return "gave " + std::string(NameOf(step)) + " an answer that is too long";
    }
    if (step == Step::kHello) ReadHello(reply);
    if (info_.is_replica && master_only_) return "is a replica, which takes no writes";
    return std::nullopt;
  }

 private:
  enum class Step : unsigned char { kAuth, kSelect, kName, kHello, kPing };

  static std::string_view NameOf(Step step) noexcept {
    constexpr std::string_view kNames[] = {"AUTH", "SELECT", "CLIENT SETNAME", "HELLO", "PING"};
    return kNames[static_cast<unsigned char>(step)];
  }

  void Add(std::string& out, Step step, std::initializer_list<std::string_view> words) {
    AppendCommand(out, words);
    steps_.push_back(step);
  }

  // A server, or the rights of a user, may lack what is only of use to us.
  static bool IsOptional(Step step, std::string_view error) noexcept {
    if (step == Step::kName) return true;
    if (step != Step::kHello && step != Step::kPing) return false;
    const auto says = [&](std::string_view what) { return error.find(what) != error.npos; };
    return error.starts_with("NOPERM") || says("unknown command") || says("unsupported command");
  }

  // The reply is [name, value, ...].
  void ReadHello(const Reply& reply) {
    for (std::size_t i = 0; i + 1 < reply.elements.size(); i += 2) {
      const std::string& name = reply.elements[i].text;
      const std::string& value = reply.elements[i + 1].text;
      if (name == "mode") info_.is_cluster = value == "cluster";
      if (name == "role") info_.is_replica = value == "replica" || value == "slave";
    }
  }

  const bool master_only_;
  std::deque<Step> steps_;  // whose answers have not come yet
  ServerInfo info_;
};

}  // namespace singleflight::redis::detail
