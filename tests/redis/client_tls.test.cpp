// SPDX-License-Identifier: MIT

// Tests a redis::Client and a redis::Group over TLS, with a server and certificates of the test's
// own.

#ifdef SINGLEFLIGHT_REDIS_TLS

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <future>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "client_support.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/temporary_directory.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::Tls;

namespace {

// A CA, a certificate of it for each name, and another CA.
class Certificates {
 public:
  Certificates() {
    MakeCa("ca");
    MakeCa("other");
    Make("server", "DNS:localhost,IP:127.0.0.1");
    Make("elsewhere", "DNS:elsewhere.example");
    Make("client", "DNS:client.example");
  }
  std::string Certificate(const std::string& name) const { return Path(name + ".crt"); }
  std::string Key(const std::string& name) const { return Path(name + ".key"); }

 private:
  std::string Path(const std::string& name) const { return directory_.Path() + "/" + name; }

  void MakeCa(const std::string& name) const {
    Run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + name + " -keyout " + Key(name) +
        " -out " + Certificate(name));
  }
  void Make(const std::string& name, const std::string& alternative_names) const {
    const std::string request = Path(name + ".csr");
    const std::string extensions = Path(name + ".ext");
    std::ofstream(extensions) << "subjectAltName=" << alternative_names << "\n";
    Run("req -newkey rsa:2048 -nodes -subj /CN=" + name + " -keyout " + Key(name) + " -out " +
        request);
    Run("x509 -req -days 2 -CAcreateserial -in " + request + " -CA " + Certificate("ca") +
        " -CAkey " + Key("ca") + " -extfile " + extensions + " -out " + Certificate(name));
  }
  static void Run(const std::string& arguments) {
    if (std::system(("openssl " + arguments + " 2> /dev/null").c_str()) != 0) {
      throw std::runtime_error("openssl " + arguments);
    }
  }

  TemporaryDirectory directory_;
};

const Certificates& TheCertificates() {
  static const Certificates certificates;
  return certificates;
}

class TlsServer {
 public:
  explicit TlsServer(const std::string& certificate, const std::string& clients = "no")
      : server_(
            {.arguments = {"--tls-port", std::to_string(port_.Number()), "--tls-cert-file",
                           TheCertificates().Certificate(certificate), "--tls-key-file",
                           TheCertificates().Key(certificate), "--tls-ca-cert-file",
                           TheCertificates().Certificate("ca"), "--tls-auth-clients", clients}}) {}

  ClientOptions OptionsFor(const std::string& host) const {
    ClientOptions options = ClientOptionsFor(server_);
    options.unix_socket.clear();
    options.host = host;
    options.port = port_.Number();
    options.tls.emplace();
    options.tls->ca_file = TheCertificates().Certificate("ca");
    return options;
  }
  RedisServer& Server() { return server_; }
  const RedisServer& Server() const { return server_; }

 private:
  ReservedPort port_;
  RedisServer server_;
};

}  // namespace

TEST_CASE("Redis client over TLS: commands of any size, and messages, arrive") {
  const TlsServer server("server");
  for (const char* host : {"localhost", "127.0.0.1"}) {
    INFO(host);
    TestClient client(server.OptionsFor(host));
    std::vector<std::future<Answer>> answers;
    for (std::size_t size : {0UL, 1UL, 16'384UL, 3'000'000UL}) {
      const std::string key = "k" + std::to_string(size);
      answers.push_back(client.Send({"SET", key, std::string(size, 'x')}));
      answers.push_back(client.Send({"GET", key}));
    }
    for (std::size_t i = 0; i < answers.size(); i += 2) {
      CHECK(answers[i].get().reply.text == "OK");
      const std::size_t sizes[] = {0, 1, 16'384, 3'000'000};
      CHECK(answers[i + 1].get().reply.text == std::string(sizes[i / 2], 'x'));
    }
    std::promise<std::string> message;
    std::promise<void> subscribed;
    client.OnLoop([&] {
      client.Core().Subscriptions().Subscribe(
          "c", {[&](std::string_view its) { message.set_value(std::string(its)); },
                [&] { subscribed.set_value(); }});
    });
    subscribed.get_future().wait();
    CHECK(client.Ask({"PUBLISH", "c", "hello"}).reply.integer == 1);
    CHECK(message.get_future().get() == "hello");
  }
}

TEST_CASE(
    "Redis client over TLS: a certificate of another server is refused, and the state says so") {
  const TlsServer server("elsewhere");
  for (const char* host : {"localhost", "127.0.0.1"}) {
    INFO(host);
    TestClient client(server.OptionsFor(host));
    const Answer answer = client.Ask({"SET", "k", "v"});
    CHECK(answer.kind == Answer::Kind::kNotSent);
    const std::string mismatch = host == "localhost"s ? "hostname mismatch" : "IP address mismatch";
    CHECK(answer.why.ends_with(": the server's certificate was refused: " + mismatch));
  }
  ClientOptions options = server.OptionsFor("127.0.0.1");
  options.tls->server_name = "elsewhere.example";  // whom to expect there
  TestClient client(options);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client over TLS: a certificate of a CA that is not trusted is refused") {
  const TlsServer server("server");
  ClientOptions options = server.OptionsFor("localhost");
  options.tls->ca_file = TheCertificates().Certificate("other");
  TestClient client(options);
  const std::string why = client.Ask({"PING"}).why;
  CHECK(why.find("the server's certificate was refused: ") != std::string::npos);
}

TEST_CASE("Redis client over TLS: a server that asks for a certificate gets the client's") {
  const TlsServer server("server", "yes");
  ClientOptions options = server.OptionsFor("localhost");
  {
    TestClient client(options);
    CHECK(client.Ask({"PING"}).kind == Answer::Kind::kNotSent);
  }
  options.tls->certificate_file = TheCertificates().Certificate("client");
  options.tls->key_file = TheCertificates().Key("client");
  TestClient client(options);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client over TLS: files that cannot be used are refused by the constructor") {
  const TlsServer server("server");
  const auto message = [&](auto change) -> std::string {
    ClientOptions options = server.OptionsFor("localhost");
    change(*options.tls);
    try {
      const singleflight::redis::Client client(options);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(message([](Tls&) {}) == "accepted");
  CHECK(message([](Tls& tls) {
          tls.ca_file = "/none";
        }).starts_with("singleflight::redis: cannot use tls.ca_file: "));
  CHECK(message([](Tls& tls) {
          tls.certificate_file = "/none";
        }).starts_with("singleflight::redis: cannot use tls.certificate_file: "));
  CHECK(message([](Tls& tls) {
          tls.certificate_file = TheCertificates().Certificate("client");
          tls.key_file = TheCertificates().Key("server");
        }).starts_with("singleflight::redis: cannot use tls.key_file: "));
}

TEST_CASE("Redis client over TLS: a server that hangs or restarts is noticed and used again") {
  TlsServer server("server");
  ClientOptions options = server.OptionsFor("localhost");
  options.command_timeout = 200ms;
  TestClient client(options);
  REQUIRE(client.Ask({"PING"}).IsReply());
  server.Server().Stop();
  CHECK(client.Ask({"INCR", "k"}).kind == Answer::Kind::kUnknown);
  server.Server().Continue();
  Await([&] { return client.Ask({"PING"}).IsReply(); });
  server.Server().Restart();
  Await([&] { return client.Ask({"PING"}).IsReply(); });
}

// ---- As callers see it

TEST_CASE("redis over TLS: processes share a call") {
  const TlsServer server("server");
  RedisPages here(server.OptionsFor("localhost"));
  RedisPages there(server.OptionsFor("127.0.0.1"));
  RedisLeader leader(here, "k", std::string(100'000, 'x'));
  Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server.Server(), "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == std::string(100'000, 'x'));
  CHECK(here.GetStats().outages + there.GetStats().outages == 0);
}

TEST_CASE("redis over TLS: callers run their functions if the certificate is another server's") {
  const TlsServer server("elsewhere");
  RedisPages pages(server.OptionsFor("localhost"));
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const auto result = pages.Do("k", [] { return "own"s; });
    CHECK(*result == "own");
    CHECK(result.role() == singleflight::Role::kLeader);
    CHECK(pages.GetStats().outages == i);
  }
  CHECK(pages.LastOutage().ends_with(": the server's certificate was refused: hostname mismatch"));
  const std::string state = pages.GetClient().Describe();
  CHECK(state.find(": away since ") != std::string::npos);
  CHECK(state.ends_with(": the server's certificate was refused: hostname mismatch\n"));
  CHECK(server.Server().Keys().empty());  // it was told nothing
}

TEST_CASE("redis over TLS: callers fail with the reason if the certificate is another server's") {
  const TlsServer server("elsewhere");
  RedisPages pages(server.OptionsFor("127.0.0.1"),
                   {.on_outage = singleflight::redis::OnOutage::kFail});
  std::string message;
  try {
    static_cast<void>(pages.Do("k", NeverRun));
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::not_connected);
    message = error.what();
  }
  const std::string reason = "the server's certificate was refused: IP address mismatch";
  CHECK(message.find(reason) != std::string::npos);
}

#endif
