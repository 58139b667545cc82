// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests of what redis::Client is made of: its loop, its connections and its
// view of the servers.

#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <singleflight/redis_client.hpp>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "client_options.hpp"
#include "server.hpp"
#include "support/support.hpp"

namespace test {

namespace detail = singleflight::redis::detail;
using detail::Answer;
using detail::Reply;
using singleflight::redis::ClientOptions;
using singleflight::redis::NodeInfo;
using singleflight::redis::NodeState;

inline std::ostream& operator<<(std::ostream& out, Answer::Kind kind) {
  constexpr const char* kNames[] = {"kReply", "kRefused", "kNotSent", "kUnknown"};
  return out << kNames[static_cast<unsigned char>(kind)];
}

// Returns its key and its argument. Fails for the argument "fail".
inline const detail::Script& EchoScript() {
  static const auto& script = *new detail::Script(
      "if ARGV[1] == 'fail' then return redis.error_reply('ERR as you wish') end "
      "return {KEYS[1], ARGV[1]}");
  return script;
}
// Adds 1 to its key, and returns the new value.
inline const detail::Script& CountScript() {
  static const auto& script = *new detail::Script("return redis.call('INCR', KEYS[1])");
  return script;
}

// A ClientCore whose commands any thread may send.
class TestClient {
 public:
  explicit TestClient(const ClientOptions& options, detail::LookUp look_up = detail::SystemLookUp())
      : core_(std::make_unique<detail::ClientCore>(options, std::move(look_up))) {
    core_->Start();
  }

  detail::ClientCore& Core() { return *core_; }

  // Runs `fn` on the loop, and waits until it has returned.
  void OnLoop(const std::function<void()>& fn) {
    std::promise<void> done;
    core_->Loop().Post([&] {
      fn();
      done.set_value();
    });
    done.get_future().wait();
  }

  std::future<Answer> Send(std::vector<std::string> words, std::optional<std::string> key = {}) {
    auto promise = std::make_shared<std::promise<Answer>>();
    std::future<Answer> answer = promise->get_future();
    core_->Loop().Post([this, promise, words = std::move(words), key = std::move(key)] {
      const std::vector<std::string_view> views(words.begin(), words.end());
      core_->Commands().Run(key, views,
                            [promise](Answer its) { promise->set_value(std::move(its)); });
    });
    return answer;
  }
  Answer Ask(std::vector<std::string> words, std::optional<std::string> key = {}) {
    return Send(std::move(words), std::move(key)).get();
  }

  std::future<Answer> SendScript(const detail::Script& script, std::string key,
                                 std::string argument = {}) {
    auto promise = std::make_shared<std::promise<Answer>>();
    std::future<Answer> answer = promise->get_future();
    core_->Loop().Post([this, promise, &script, key = std::move(key),
                        argument = std::move(argument)] {
      core_->Commands().RunScript(script, std::array<std::string_view, 1>{key},
                                  std::array<std::string_view, 1>{argument},
                                  [promise](Answer its) { promise->set_value(std::move(its)); });
    });
    return answer;
  }
  Answer Run(const detail::Script& script, std::string key, std::string argument = {}) {
    return SendScript(script, std::move(key), std::move(argument)).get();
  }

  // Returns the state of the server with that address, if the client knows it.
  std::optional<NodeInfo> Node(const std::string& address) const {
    for (const NodeInfo& node : core_->Nodes()) {
      if (node.address == address) return node;
    }
    return std::nullopt;
  }
  void AwaitState(const std::string& address, NodeState state) const {
    Await([&] {
      const std::optional<NodeInfo> node = Node(address);
      return node && node->state == state;
    });
  }

  // Destroys the client. What was sent has been answered when this returns.
  void Destroy() { core_ = nullptr; }

 private:
  std::unique_ptr<detail::ClientCore> core_;
};

// Returns how many threads this process has. The first thread that starts makes a sanitizer start
// one of its own, which counts from the beginning here.
inline std::size_t CountThreads() {
  std::thread([] {}).join();
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "Threads:") {
      std::size_t count = 0;
      status >> count;
      return count;
    }
  }
  return 0;
}

}  // namespace test
