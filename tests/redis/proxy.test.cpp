// SPDX-License-Identifier: MIT

// Tests that the proxy harms the other tests' connections where it should, and nowhere else. Also
// tests the servers that they use.

#include "proxy.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <latch>
#include <optional>
#include <string>

#include "cluster.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

// A Peer is one end of a connection. Its operations block.
class Peer {
 public:
  explicit Peer(UniqueFd socket) : socket_(std::move(socket)) { REQUIRE(*socket_ >= 0); }

  void Send(const std::string& text) {
    REQUIRE(::send(*socket_, text.data(), text.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(text.size()));
  }
  // Returns the next `size` bytes from the other side, or fewer if it closes before.
  std::string Receive(std::size_t size) {
    std::string heard(size, '\0');
    std::size_t so_far = 0;
    while (so_far < size) {
      const ssize_t more = ::read(*socket_, heard.data() + so_far, size - so_far);
      if (more <= 0) break;
      so_far += static_cast<std::size_t>(more);
    }
    heard.resize(so_far);
    return heard;
  }
  // Returns all that the other side sends until it closes.
  std::string ReceiveAll() { return Receive(1'000'000); }
  // Returns whether the other side has sent something that was not read yet, or has closed.
  bool CanReceive() {
    char byte;
    return ::recv(*socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
  }

 private:
  UniqueFd socket_;
};

// A Fixture is a server behind a proxy. The test plays the server.
class Fixture {
 public:
  Peer Connect() { return Peer(ConnectTo(proxy.Socket())); }
  // Returns the server's end of the oldest connection that was not accepted yet.
  Peer Accept() {
    Await([&] {
      accepted_.emplace(::accept4(*listener_, nullptr, nullptr, SOCK_CLOEXEC));
      return **accepted_ >= 0;
    });
    return Peer(std::move(*accepted_));
  }

 private:
  TemporaryDirectory directory_;
  UniqueFd listener_ = ListenAt(directory_.Path() + "/server");
  std::optional<UniqueFd> accepted_;

 public:
  RedisProxy proxy{directory_.Path() + "/server"};
};

}  // namespace

TEST_CASE("The tests' proxy forwards both ways, and counts the bytes of each connection") {
  Fixture scene;
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  client.Send("a\0\n"s);
  CHECK(server.Receive(3) == "a\0\n"s);
  server.Send("reply");
  CHECK(client.Receive(5) == "reply");
  Peer other = scene.Connect();
  other.Send("x");
  CHECK(scene.Accept().Receive(1) == "x");
  CHECK(scene.proxy.Connections() == 2);
  CHECK(scene.proxy.Bytes(0, RedisProxy::kRequests) == 3);
  CHECK(scene.proxy.Bytes(0, RedisProxy::kReplies) == 5);
  CHECK(scene.proxy.Bytes(1, RedisProxy::kRequests) == 1);
  CHECK(scene.proxy.Bytes(1, RedisProxy::kReplies) == 0);
  CHECK(scene.proxy.Actions() == 0);
}

TEST_CASE(
    "The tests' proxy closes each side after the other has closed, and forwards what came before") {
  Fixture scene;
  {
    Peer client = scene.Connect();
    client.Send("bye");
  }
  CHECK(scene.Accept().ReceiveAll() == "bye");
  Peer client = scene.Connect();
  {
    Peer server = scene.Accept();
    server.Send("bye");
  }
  CHECK(client.ReceiveAll() == "bye");
  Await([&] { return scene.proxy.OpenConnections() == 0; });
}

TEST_CASE("The tests' proxy closes a connection whose server is not there") {
  TemporaryDirectory directory;
  RedisProxy proxy(directory.Path() + "/nobody");
  CHECK(Peer(ConnectTo(proxy.Socket())).ReceiveAll().empty());
  CHECK(proxy.Connections() == 1);
}

TEST_CASE("The tests' proxy cuts the replies after exactly as many bytes as it should") {
  for (std::size_t bytes = 0; bytes <= 5; ++bytes) {
    Fixture scene;
    scene.proxy.CutAt({RedisProxy::kReplies, bytes});
    Peer client = scene.Connect();
    Peer server = scene.Accept();
    if (bytes > 0) server.Send("reply");
    CHECK(client.ReceiveAll() == "reply"s.substr(0, bytes));
    CHECK(server.ReceiveAll().empty());
    CHECK(scene.proxy.Bytes(0, RedisProxy::kReplies) == bytes);
    CHECK(scene.proxy.Actions() == 1);
  }
}

TEST_CASE("The tests' proxy cuts the requests after exactly as many bytes as it should") {
  for (std::size_t bytes = 0; bytes <= 5; ++bytes) {
    Fixture scene;
    scene.proxy.CutAt({RedisProxy::kRequests, bytes});
    Peer client = scene.Connect();
    if (bytes > 0) client.Send("query");
    CHECK(scene.Accept().ReceiveAll() == "query"s.substr(0, bytes));
    CHECK(client.ReceiveAll().empty());
    CHECK(scene.proxy.Bytes(0, RedisProxy::kRequests) == bytes);
    CHECK(scene.proxy.Actions() == 1);
  }
}

TEST_CASE("The tests' proxy cuts the given connection, and no other") {
  Fixture scene;
  scene.proxy.CutAt({RedisProxy::kRequests, 2, 1});
  for (const std::string expected : {"query", "qu", "query"}) {
    Peer client = scene.Connect();
    Peer server = scene.Accept();
    client.Send("query");
    CHECK(server.Receive(5) == expected);
  }
  CHECK(scene.proxy.Actions() == 1);
}

TEST_CASE("The tests' proxy cuts every connection if none is given") {
  Fixture scene;
  scene.proxy.CutAt({RedisProxy::kRequests, 2});
  for (int i = 0; i < 3; ++i) {
    Peer client = scene.Connect();
    Peer server = scene.Accept();
    client.Send("query");
    CHECK(server.ReceiveAll() == "qu");
  }
  CHECK(scene.proxy.Actions() == 3);
}

TEST_CASE("The tests' proxy leaves alone a connection that has passed the place") {
  Fixture scene;
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  client.Send("query");
  CHECK(server.Receive(5) == "query");
  scene.proxy.CutAt({RedisProxy::kRequests, 4});
  client.Send("more");
  CHECK(server.Receive(4) == "more");
  CHECK(scene.proxy.Actions() == 0);
}

TEST_CASE("The tests' proxy cuts a connection that is already at the place") {
  Fixture scene;
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  client.Send("query");
  CHECK(server.Receive(5) == "query");
  scene.proxy.CutAt({RedisProxy::kRequests, 5});
  CHECK(server.ReceiveAll().empty());
  CHECK(client.ReceiveAll().empty());
}

TEST_CASE("The tests' proxy holds replies from the given byte on, and still forwards requests") {
  Fixture scene;
  scene.proxy.HoldAt({RedisProxy::kReplies, 2});
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  server.Send("reply");
  CHECK(client.Receive(2) == "re");
  client.Send("query");
  CHECK(server.Receive(5) == "query");
  CHECK_FALSE(client.CanReceive());
  CHECK(scene.proxy.Bytes(0, RedisProxy::kReplies) == 2);
  scene.proxy.Release();
  CHECK(client.Receive(3) == "ply");
}

TEST_CASE("The tests' proxy can be destroyed while it holds something") {
  Fixture scene;
  scene.proxy.HoldAt({RedisProxy::kRequests, 0});
  Peer client = scene.Connect();
  client.Send("query");
  Await([&] { return scene.proxy.Actions() == 1; });
}

TEST_CASE("The tests' proxy corrupts the given byte, and no other") {
  for (std::size_t bytes = 0; bytes < 5; ++bytes) {
    Fixture scene;
    scene.proxy.CorruptAt({RedisProxy::kReplies, bytes}, 0x20);
    Peer client = scene.Connect();
    Peer server = scene.Accept();
    server.Send("reply");
    std::string expected = "reply";
    expected[bytes] = static_cast<char>(expected[bytes] ^ 0x20);
    CHECK(client.Receive(5) == expected);
    CHECK(scene.proxy.Actions() == 1);
  }
}

TEST_CASE(
    "The tests' proxy calls a hook between two bytes, and forwards the second one afterwards") {
  Fixture scene;
  std::latch called{1}, go_on{1};
  scene.proxy.CallAt({RedisProxy::kRequests, 2}, [&] {
    called.count_down();
    go_on.wait();
  });
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  client.Send("query");
  called.wait();
  CHECK(server.Receive(2) == "qu");
  CHECK_FALSE(server.CanReceive());
  go_on.count_down();
  CHECK(server.Receive(3) == "ery");
}

TEST_CASE("The tests' proxy does no harm any more once its rules are forgotten") {
  Fixture scene;
  scene.proxy.CutAt({RedisProxy::kRequests, 2});
  scene.proxy.ForgetRules();
  Peer client = scene.Connect();
  Peer server = scene.Accept();
  client.Send("query");
  CHECK(server.Receive(5) == "query");
}

TEST_CASE("The tests' proxy forwards values that are larger than any buffer") {
  const RedisServer server;
  const RedisProxy proxy(server.Socket());
  const std::string value(3'000'000, 'x');
  redisContext* const connection = redisConnectUnix(proxy.Socket().c_str());
  const auto ask = [&](const char* format, auto... args) {
    auto* const reply = static_cast<redisReply*>(redisCommand(connection, format, args...));
    REQUIRE(reply != nullptr);
    std::string text(reply->str, reply->len);
    freeReplyObject(reply);
    return text;
  };
  CHECK(ask("SET a %b", value.data(), value.size()) == "OK");
  CHECK((ask("GET a") == value));
  redisFree(connection);
}

TEST_CASE("The tests' Redis server takes commands of any bytes") {
  const RedisServer server;
  const std::string bytes = "\0 %b\r\n\xff\""s;
  CHECK(server.Get(bytes) == std::nullopt);
  CHECK(server.Ask("SET", bytes, bytes + "value").text == "OK");
  CHECK(server.Get(bytes) == bytes + "value");
  CHECK(server.Keys() == std::vector{bytes});
  CHECK(server.Keys("a*").empty());
  CHECK_THROWS_WITH(server.Ask("LPUSH", bytes, "1"), Catch::Matchers::StartsWith("WRONGTYPE"));
}

TEST_CASE("The tests' Redis server comes back on its TCP port, with nothing in memory") {
  RedisServer server({.tcp = true});
  server.Ask("SET a 1");
  const auto connects = [&] {
    redisContext* const connection = redisConnect("127.0.0.1", server.Port());
    const bool connected = connection->err == 0;
    redisFree(connection);
    return connected;
  };
  CHECK(connects());
  server.Kill();
  CHECK_FALSE(connects());
  server.Start();
  CHECK(connects());
  CHECK(server.Keys().empty());
}

TEST_CASE("The tests' Redis server admits only its user, if it has one") {
  const RedisServer server({.user = "alice", .password = "s p"});
  CHECK(server.Ask("ACL WHOAMI").text == "alice");
  redisContext* const connection = server.Connect();
  auto* const reply = static_cast<redisReply*>(redisCommand(connection, "PING"));
  CHECK(std::string(reply->str).starts_with("NOAUTH"));
  freeReplyObject(reply);
  redisFree(connection);
}

TEST_CASE("The tests' Redis server counts the clients that are blocked") {
  RedisServer server;
  CHECK(server.BlockedClients() == 0);
  JoiningThread blocked([&] { server.Ask("BLPOP list 0"); });
  Await([&] { return server.BlockedClients() == 1; });
  server.Ask("RPUSH list 1");
  blocked.join();
  CHECK(server.BlockedClients() == 0);
}

TEST_CASE("The tests' Redis cluster has each key on the node that NodeOf says, and only there") {
  const RedisCluster cluster;
  std::array<int, RedisCluster::kNodes> keys = {};
  for (int i = 0; i < 30; ++i) {
    const std::string key = std::to_string(i);
    const std::size_t owner = cluster.NodeOf(key);
    ++keys[owner];
    for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
      if (node == owner) {
        CHECK(cluster.Node(node).Ask("SET", key, key).text == "OK");
      } else {
        CHECK_THROWS_WITH(
            cluster.Node(node).Ask("SET", key, key),
            Catch::Matchers::StartsWith("MOVED") &&
                Catch::Matchers::EndsWith(std::to_string(cluster.Node(owner).Port())));
      }
    }
  }
  CHECK(std::ranges::count(keys, 0) == 0);
}
