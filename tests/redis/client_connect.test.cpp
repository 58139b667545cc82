// SPDX-License-Identifier: MIT

// Tests how a redis::Client connects: over what, as whom, and what it says if it may not.

#include <optional>
#include <string>
#include <vector>

#include "client_support.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

ClientOptions TcpOptions(const RedisServer& server, const std::string& host = "127.0.0.1") {
  ClientOptions options = ClientOptionsFor(server);
  options.unix_socket.clear();
  options.host = host;
  options.port = server.Port();
  return options;
}

std::string Port(const RedisServer& server) { return std::to_string(server.Port()); }

}  // namespace

TEST_CASE("Redis client: TCP, IPv6 and a name that is looked up work like a Unix socket") {
  const RedisServer server({.tcp = true, .arguments = {"--bind", "127.0.0.1", "::1"}});
  for (const char* host : {"127.0.0.1", "::1", "localhost"}) {
    INFO(host);
    TestClient client(TcpOptions(server, host));
    CHECK(client.Ask({"ECHO", host}).reply.text == host);
    const std::string where = host == "::1"s ? "[::1]" : host;
    client.AwaitState(where + ":" + Port(server), NodeState::kUp);
  }
}

TEST_CASE("Redis client: the user, the database and the client's name are those of the options") {
  const RedisServer server({.user = "shop", .password = "secret"});
  ClientOptions options = ClientOptionsFor(server);
  options.user = "shop";
  options.password = "secret";
  options.database = 3;
  options.client_name = "web-7";
  TestClient client(options);
  CHECK(client.Ask({"ACL", "WHOAMI"}).reply.text == "shop");
  CHECK(client.Ask({"CLIENT", "GETNAME"}).reply.text == "web-7");
  CHECK(client.Ask({"CLIENT", "INFO"}).reply.text.find(" db=3 ") != std::string::npos);
}

TEST_CASE("Redis client: a password without a user is that of the default user") {
  const RedisServer server({.password = "secret"});
  ClientOptions options = ClientOptionsFor(server);
  options.password = "secret";
  TestClient client(options);
  CHECK(client.Ask({"PING"}).reply.text == "PONG");
}

TEST_CASE("Redis client: a user without rights to HELLO, PING and CLIENT can be used") {
  const RedisServer server;
  server.Ask("ACL SETUSER few on >secret ~* &* -@all +auth +get +set");
  ClientOptions options = ClientOptionsFor(server);
  options.user = "few";
  options.password = "secret";
  options.client_name = "web-7";
  TestClient client(options);
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  CHECK(client.Ask({"GET", "k"}).reply.text == "v");
}

TEST_CASE("Redis client: a server that lets nobody in is away, and its state says why") {
  struct Case {
    RedisServerOptions server;
    std::string password;
    int database;
    std::string why;
  };
  const Case cases[] = {
      {{.password = "secret"}, "wrong", 0, "answered AUTH with: WRONGPASS"},
      {{.password = "secret"}, "", 0, "answered HELLO with: NOAUTH"},
      {{}, "", 99, "answered SELECT with: ERR DB index is out of range"},
  };
  for (const Case& each : cases) {
    INFO(each.why);
    const RedisServer server(each.server);
    ClientOptions options = ClientOptionsFor(server);
    options.password = each.password;
    options.database = each.database;
    TestClient client(options);
    const Answer answer = client.Ask({"GET", "k"});
    CHECK(answer.kind == Answer::Kind::kNotSent);
    CHECK(answer.why.starts_with(server.Socket() + ": " + each.why));
    const std::optional<NodeInfo> node = client.Node(server.Socket());
    REQUIRE(node.has_value());
    CHECK(node->state == NodeState::kAway);
    CHECK(server.Socket() + ": " + node->why == answer.why);
    CHECK(Describe(*node).find(": away since 2") != std::string::npos);
    CHECK(Describe(*node).ends_with(node->why));
  }
}

TEST_CASE("Redis client: a password that is put right lets the client in without a new one") {
  const RedisServer server({.password = "secret"});
  ClientOptions options = ClientOptionsFor(server);
  options.password = "later";
  TestClient client(options);
  CHECK(client.Ask({"PING"}).kind == Answer::Kind::kNotSent);
  server.Ask("ACL SETUSER default >later");
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: a server without room for another client is away until it has some") {
  const RedisServer server({.arguments = {"--maxclients", "1"}});
  std::optional<UniqueFd> only(ConnectTo(server.Socket()));
  Await([&] {  // until the server has accepted it, it accepts others
    try {
      server.Ask("PING");
    } catch (const std::runtime_error&) {
      return true;
    }
    return false;
  });
  TestClient client(ClientOptionsFor(server));
  const Answer answer = client.Ask({"PING"});
  CHECK(answer.kind == Answer::Kind::kNotSent);
  CHECK(answer.why.find("ERR max number of clients reached") != std::string::npos);
  only.reset();
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: a replica is away, since it takes no writes, until it is a master") {
  const RedisServer master({.tcp = true});
  const RedisServer server;
  server.Ask("REPLICAOF", "127.0.0.1", Port(master));
  TestClient client(ClientOptionsFor(server));
  const Answer answer = client.Ask({"PING"});
  CHECK(answer.kind == Answer::Kind::kNotSent);
  CHECK(answer.why.find("is a replica, which takes no writes") != std::string::npos);
  server.Ask("REPLICAOF NO ONE");
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
}

TEST_CASE("Redis client: a full backlog of a Unix socket is waited for") {
  RedisServer server({.arguments = {"--tcp-backlog", "1"}});
  server.Stop();
  std::vector<UniqueFd> queued;
  for (;;) {
    UniqueFd next = ConnectTo(server.Socket(), SOCK_NONBLOCK);
    if (*next < 0) break;
    queued.push_back(std::move(next));
  }
  REQUIRE(errno == EAGAIN);
  TestClient client(ClientOptionsFor(server));
  std::future<Answer> answer = client.Send({"PING"});
  client.AwaitState(server.Socket(), NodeState::kConnecting);
  queued.clear();
  server.Continue();
  CHECK(answer.get().IsReply());
}

TEST_CASE("Redis client: Describe says in a line what is known of each server") {
  const RedisServer server;
  singleflight::redis::Client client({.unix_socket = server.Socket()});
  CHECK(client.Describe().empty());
  detail::ClientCore& core = detail::ClientAccess::Core(client);
  core.Start();
  Await([&] { return client.Nodes().size() == 1 && client.Nodes()[0].state == NodeState::kUp; });
  const std::string text = client.Describe();
  CHECK(text.starts_with(server.Socket() + ": up since 2"));
  CHECK(text.ends_with("Z\n"));
  CHECK(text.size() == server.Socket().size() + 32);
}

TEST_CASE("Redis client: an option that makes no sense is refused in a sentence") {
  const auto message = [](auto change) -> std::string {
    ClientOptions options;
    change(options);
    try {
      const singleflight::redis::Client client(options);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(message([](auto&) {}) == "accepted");
  const std::string start = "singleflight::redis: ";
  CHECK(message([](auto& o) { o.port = 0; }) ==
        start + "set host and port, unix_socket, seeds or sentinels");
  CHECK(message([](auto& o) {
          o.seeds = {{"a", 70000}};
        }) == start + "each of seeds and sentinels needs a host and a port");
  CHECK(message([](auto& o) {
          o.seeds = {{}};
          o.unix_socket = "/s";
        }) == start + "set only one of unix_socket, seeds and sentinels");
  CHECK(message([](auto& o) { o.sentinels = {{}}; }) ==
        start + "sentinels need the name of their master, and a master needs sentinels");
  CHECK(message([](auto& o) { o.unix_socket = std::string(200, 'x'); }) ==
        start + "unix_socket is too long");
  CHECK(message([](auto& o) { o.user = "u"; }) == start + "user needs a password");
  CHECK(message([](auto& o) { o.sentinel_user = "u"; }) ==
        start + "sentinel_user needs a password");
  CHECK(message([](auto& o) { o.client_name = "a b"; }) ==
        start + "client_name must have no spaces, and only ASCII characters");
  CHECK(message([](auto& o) { o.command_timeout = 0ms; }) ==
        start + "connect_timeout and command_timeout must be between 1 ms and one year");
  CHECK(message([](auto& o) { o.database = -1; }) == start + "database must not be negative");
  CHECK(message([](auto& o) { o.max_queued_bytes = 0; }) ==
        start + "max_queued_bytes must be positive");
  CHECK(message([](auto& o) { o.max_reply_bytes = 1; }) ==
        start + "max_reply_bytes must be at least 1024");
}
