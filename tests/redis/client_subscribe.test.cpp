// SPDX-License-Identifier: MIT

// Tests a redis::Client's subscriptions: what is published reaches it, and what is lost with a
// connection is known to be.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "client_support.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

// A channel to which a client has subscribed.
class Channel {
 public:
  Channel(TestClient& client, const std::string& name) : client_(client), name_(name) {
    client.OnLoop([&] {
      client.Core().Subscriptions().Subscribe(name, {[this](std::string_view message) {
                                                       const std::lock_guard lock(mutex_);
                                                       messages_.emplace_back(message);
                                                     },
                                                     [this] { ++subscribed_; }});
    });
  }
  void Unsubscribe() {
    client_.OnLoop([&] { client_.Core().Subscriptions().Unsubscribe(name_); });
  }

  int Subscribed() const { return subscribed_; }
  std::vector<std::string> Messages() const {
    const std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  TestClient& client_;
  const std::string name_;
  std::atomic<int> subscribed_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> messages_;  // guarded by mutex_
};

ClientOptions OptionsAt(const std::string& socket,
                        std::chrono::milliseconds command_timeout = 1min) {
  ClientOptions options;
  options.unix_socket = socket;
  options.connect_timeout = 1min;
  options.command_timeout = command_timeout;
  return options;
}

// Has the proxy forward no more replies to a subscription after some more of its signs of life. The
// place is in the future, since the next one may come at any moment.
void HoldSubscription(RedisProxy& proxy) {
  constexpr std::string_view kPong = "*2\r\n$4\r\npong\r\n$0\r\n\r\n";
  proxy.HoldAt({RedisProxy::kReplies, proxy.Bytes(1, RedisProxy::kReplies) + 5 * kPong.size(), 1});
}

}  // namespace

TEST_CASE("Redis client: after on_subscribed, each message arrives once and in order") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  const Channel first(client, "first");
  const Channel second(client, "second");
  Await([&] { return first.Subscribed() == 1 && second.Subscribed() == 1; });
  const std::string bytes = "\0\r\n*3\r\n"s;
  for (const std::string& message : {"a"s, ""s, bytes}) {
    CHECK(server.Ask("PUBLISH", "first", message).number == 1);
  }
  CHECK(server.Ask("PUBLISH", "third", "x").number == 0);
  CHECK(server.Ask("PUBLISH", "second", "b").number == 1);
  Await([&] { return second.Messages().size() == 1; });
  CHECK(first.Messages() == std::vector<std::string>{"a", "", bytes});
  CHECK(client.Ask({"PING"}).IsReply());  // commands have a connection of their own
  CHECK(server.Info("connected_clients") == 3);
}

TEST_CASE("Redis client: an acknowledgement longer than max_reply_bytes is for its own channel") {
  const RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.max_reply_bytes = 1024;
  TestClient client(options);
  const Channel first(client, "first");
  Channel long_one(client, std::string(2000, 'x'));
  const Channel last(client, "last");
  Await([&] { return last.Subscribed() == 1; });
  CHECK(first.Subscribed() == 1);
  CHECK(long_one.Subscribed() == 1);
  long_one.Unsubscribe();
  CHECK(server.Ask("PUBLISH", "last", std::string(2000, 'x')).number == 1);  // it is dropped
  CHECK(server.Ask("PUBLISH", "last", "a").number == 1);
  Await([&] { return last.Messages() == std::vector{"a"s}; });
  const Channel another(client, "another");
  Await([&] { return another.Subscribed() == 1; });
}

// The connection may be lost now and then, if this machine is busy.
TEST_CASE("Redis client: with a command_timeout of 1 or 2 ms a subscription shows signs of life") {
  const RedisServer server;
  const RedisProxy proxy(server.Socket());
  TestClient client(OptionsAt(proxy.Socket(), std::chrono::milliseconds(GENERATE(1, 2))));
  const Channel channel(client, "c");
  constexpr std::uint64_t kManyPongs = 2000;  // in bytes
  Await([&] {
    for (std::size_t i = proxy.Connections(); i-- > 0;) {
      if (proxy.Bytes(i, RedisProxy::kReplies) > kManyPongs) return true;
    }
    return false;
  });
  CHECK(channel.Subscribed() > 0);
}

TEST_CASE("Redis client: without a subscription there is no connection for one") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  REQUIRE(client.Ask({"PING"}).IsReply());
  CHECK(server.Info("connected_clients") == 2);
}

TEST_CASE("Redis client: a channel that was left delivers nothing more, and can be joined again") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  Channel channel(client, "c");
  const Channel other(client, "other");
  Await([&] { return channel.Subscribed() == 1 && other.Subscribed() == 1; });
  channel.Unsubscribe();
  Await([&] { return server.Ask("PUBLISH", "c", "lost").number == 0; });
  const std::size_t before = channel.Messages().size();
  const Channel again(client, "c");
  Await([&] { return again.Subscribed() == 1; });
  CHECK(server.Ask("PUBLISH", "c", "kept").number == 1);
  Await([&] { return again.Messages().size() == 1; });
  CHECK(channel.Messages().size() == before);
  CHECK(channel.Subscribed() == 1);
}

TEST_CASE("Redis client: a subscription that was replaced is not said to have begun") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  const Channel first(client, "first");
  Await([&] { return first.Subscribed() == 1; });
  std::string order;
  std::promise<void> done;
  client.OnLoop([&] {
    detail::Subscriber& subscriptions = client.Core().Subscriptions();
    subscriptions.Subscribe("c", {{}, [&] { order += 'a'; }});
    subscriptions.Unsubscribe("c");
    subscriptions.Subscribe("c", {{}, [&] {
                                    order += 'b';
                                    done.set_value();
                                  }});
  });
  done.get_future().wait();
  client.OnLoop([] {});  // what has come with it has been handled
  CHECK(order == "b");
}

TEST_CASE("Redis client: each channel is subscribed again after its connection was lost") {
  RedisServer server;
  TestClient client(ClientOptionsFor(server));
  const Channel first(client, "first");
  const Channel second(client, "second");
  Await([&] { return first.Subscribed() == 1 && second.Subscribed() == 1; });
  server.Ask("CLIENT KILL TYPE pubsub");
  Await([&] { return first.Subscribed() == 2 && second.Subscribed() == 2; });
  CHECK(server.Ask("PUBLISH", "first", "a").number == 1);
  server.Restart();
  Await([&] { return first.Subscribed() == 3 && second.Subscribed() == 3; });
  CHECK(server.Ask("PUBLISH", "second", "b").number == 1);
  Await([&] { return first.Messages().size() == 1 && second.Messages().size() == 1; });
}

TEST_CASE(
    "Redis client: a dead subscription is noticed within command_timeout, also if it is idle") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  TestClient client(OptionsAt(proxy.Socket(), 300ms));
  const Channel channel(client, "c");
  Await([&] { return channel.Subscribed() == 1; });
  const auto begin = std::chrono::steady_clock::now();
  HoldSubscription(proxy);
  std::string why;
  Await([&] {
    client.OnLoop([&] { why = client.Core().Subscriptions().Why(); });
    return !why.empty();
  });
  CHECK(std::chrono::steady_clock::now() - begin >= 100ms);
  Await([&] { return channel.Subscribed() == 2; });
  CHECK(proxy.Connections() == 3);
  CHECK(why == proxy.Socket() + ": has sent nothing for 100 ms while a command waits");
}

TEST_CASE(
    "Redis client: if its subscription is dead, an idle connection for commands is tried, too") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  TestClient client(OptionsAt(proxy.Socket(), 150ms));
  const Channel channel(client, "c");
  Await([&] { return channel.Subscribed() == 1; });
  const auto up_since = client.Node(proxy.Socket())->since;
  proxy.HoldAt({RedisProxy::kReplies, proxy.Bytes(0, RedisProxy::kReplies), 0});
  HoldSubscription(proxy);
  Await([&] { return client.Node(proxy.Socket())->since != up_since; });  // nothing was sent
  Await([&] { return client.Ask({"PING"}).IsReply() && channel.Subscribed() >= 2; });
}

TEST_CASE("Redis client: an idle subscription that works is kept") {
  const RedisServer server;
  TestClient client(OptionsAt(server.Socket(), 900ms));  // an answer may take a third of that
  const Channel channel(client, "c");
  Await([&] { return channel.Subscribed() == 1; });
  const auto pings = [&] {
    const std::string stats = server.Ask("INFO", "commandstats").text;
    return std::stoi(stats.substr(stats.find("cmdstat_ping:calls=") + 19));
  };
  const int before = pings();
  Await([&] { return pings() >= before + 3; });
  CHECK(channel.Subscribed() == 1);
}

TEST_CASE("Redis client: a channel that the user may not subscribe to says so") {
  const RedisServer server;
  server.Ask("ACL SETUSER few on >secret ~* &mine +@all");
  ClientOptions options = ClientOptionsFor(server);
  options.user = "few";
  options.password = "secret";
  TestClient client(options);
  const Channel theirs(client, "theirs");
  std::string why;
  Await([&] {
    client.OnLoop([&] { why = client.Core().Subscriptions().Why(); });
    return !why.empty();
  });
  CHECK(why.starts_with(server.Socket() + ": answered SUBSCRIBE with: NOPERM"));
  CHECK(client.Node(server.Socket())->state == NodeState::kUp);
  CHECK(client.Node(server.Socket())->why ==
        "no messages: " + why.substr(server.Socket().size() + 2));
  server.Ask("ACL SETUSER few &theirs");
  Await([&] { return theirs.Subscribed() == 1; });
  Await([&] { return client.Node(server.Socket())->why.empty(); });
}

TEST_CASE("Redis client: a message that is too long is left out, and the subscription stays") {
  const RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.max_reply_bytes = 10'000;
  TestClient client(options);
  const Channel channel(client, "c");
  Await([&] { return channel.Subscribed() == 1; });
  server.Ask("PUBLISH", "c", std::string(20'000, 'x'));
  server.Ask("PUBLISH", "c", "after");
  Await([&] { return channel.Messages().size() == 1; });
  CHECK(channel.Messages()[0] == "after");
  CHECK(channel.Subscribed() == 1);
}

TEST_CASE("Redis client: a callback may subscribe, unsubscribe and send commands") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  std::atomic<int> done = 0;
  client.OnLoop([&] {
    detail::Subscriber& subscriptions = client.Core().Subscriptions();
    subscriptions.Subscribe(
        "first",
        {[&](std::string_view) {
           subscriptions.Unsubscribe("first");
           subscriptions.Subscribe("second", {[&](std::string_view) { ++done; }, [&] { ++done; }});
         },
         [&] {
           const std::array<std::string_view, 3> words = {"PUBLISH", "first", "x"};
           client.Core().Commands().Run({}, words, [&](const Answer&) { ++done; });
         }});
  });
  Await([&] { return done == 2; });
  CHECK(server.Ask("PUBLISH", "second", "x").number == 1);
  Await([&] { return done == 3; });
}
