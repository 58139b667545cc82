// SPDX-License-Identifier: MIT
#pragma once

// FakeNames stands for a name server that answers as the test says, or not at all.

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <singleflight/redis.hpp>
#include <string>
#include <utility>
#include <vector>

#include "client_support.hpp"
#include "server.hpp"
#include "support/support.hpp"

namespace test {

// Answers a look-up with what the test says. It may outlive the test's client.
class FakeNames {
 public:
  detail::LookUp LookUp() {
    return [state = state_](const std::string&, int) {
      std::unique_lock lock(state->mutex);
      ++state->asked;
      state->changed.wait(lock, [&] { return state->answers; });
      return state->result;
    };
  }

  void AnswerWith(const std::vector<const RedisServer*>& servers) {
    detail::LookUpResult result;
    for (const RedisServer* server : servers) {
      const auto address = detail::LookUpNow("127.0.0.1", server->Port());
      result.addresses.push_back(address.addresses.at(0));
    }
    Set(std::move(result), true);
  }
  void FailWith(const std::string& error) { Set({{}, error}, true); }
  void Hang() { Set({}, false); }
  int Asked() const {
    const std::lock_guard lock(state_->mutex);
    return state_->asked;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool answers = false;
    int asked = 0;
    detail::LookUpResult result;
  };
  void Set(detail::LookUpResult result, bool answers) {
    const std::lock_guard lock(state_->mutex);
    state_->result = std::move(result);
    state_->answers = answers;
    state_->changed.notify_all();
  }

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline ClientOptions NamedOptions(std::chrono::milliseconds connect_timeout = 1min) {
  ClientOptions options;
  options.host = "redis.example";
  options.port = 6379;
  options.connect_timeout = connect_timeout;
  options.command_timeout = 1min;
  return options;
}
inline constexpr auto kName = "redis.example:6379";

// A process whose name server answers as the test says.
class NamedProcess {
 public:
  NamedProcess(FakeNames& names, std::chrono::milliseconds connect_timeout,
               const singleflight::redis::Options& options = {})
      : client(detail::ClientAccess::Make(NamedOptions(connect_timeout), names.LookUp())),
        pages(client, "t", options) {}

  singleflight::redis::Client client;
  singleflight::redis::Group<std::string> pages;
};

}  // namespace test
