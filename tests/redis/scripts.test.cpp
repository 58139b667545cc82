// SPDX-License-Identifier: MIT

// Tests the scripts of the protocol by themselves: what they do if commands come late, twice, or in
// another order than they were sent. tests/model/lease.pml says why.

#include <cstdint>
#include <singleflight/detail/redis/protocol.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
namespace detail = singleflight::redis::detail;

namespace {

const std::string kBase = "t:{k}";
const std::string kLease = detail::LeaseName(kBase);

// Acts as one call of a process with this inbox.
class TestCall {
 public:
  TestCall(const RedisServer& server, const std::string& inbox, std::uint64_t order = 1)
      : server_(server), inbox_(inbox), token_(detail::NewToken(order)) {}

  const std::string& Token() const { return token_; }
  const std::string& Fence() const { return fence_; }

  // Returns what the server answers, and notes the fence.
  std::vector<RedisAnswer> Take() {
    std::vector<RedisAnswer> answer =
        server_
            .Ask("EVAL", detail::TakeScript().Text(), "3", kLease, Forgotten(), Outcome(), token_,
                 "3600000", inbox_, "h:1", "string", detail::ForgottenName(kBase, {}), "", "0",
                 "tag")
            .elements;
    if (answer.at(0).text == "lead") fence_ = answer.at(1).text;
    return answer;
  }
  long long Renew() {
    return server_
        .Ask("EVAL", detail::RenewScript().Text(), "3", kLease, Forgotten(), Outcome(), token_,
             fence_, "3600000", inbox_, "h:1", "string", "1", "tag")
        .number;
  }
  long long Publish(const std::string& may_renew_late) {
    return server_
        .Ask("EVAL", detail::PublishScript().Text(), "3", kLease, Forgotten(), Outcome(), token_,
             fence_, "payload", "3600000", "run it", "1", may_renew_late)
        .number;
  }
  std::string Forgotten() const { return detail::ForgottenName(kBase, token_); }
  std::string Outcome() const { return detail::OutcomeName(kBase, token_); }

 private:
  const RedisServer& server_;
  const std::string inbox_;
  const std::string token_;
  std::string fence_;
};

void Forget(const RedisServer& server) {
  server.Ask("EVAL", detail::ForgetScript().Text(), "1", kLease, detail::ForgottenName(kBase, {}));
}

}  // namespace

TEST_CASE("Redis scripts: a call whose answer was lost is told if it was forgotten meanwhile") {
  const RedisServer server;
  TestCall call(server, "inbox");
  CHECK(call.Take().size() == 2);
  CHECK(call.Take().size() == 2);
  const std::string fence = call.Fence();
  Forget(server);
  const std::vector<RedisAnswer> answer = call.Take();
  REQUIRE(answer.size() == 3);
  CHECK(answer[0].text == "lead");
  CHECK(answer[1].text == fence);
  CHECK(answer[2].number == 1);
}

TEST_CASE("Redis scripts: a lease is put aside by a newer call of its process, and by no other") {
  const RedisServer server;
  TestCall older(server, "inbox", 0x0fffffffffff), newer(server, "inbox", 0x100000000000),
      other(server, "another inbox", 0x200000000000);
  CHECK(older.Take()[0].text == "lead");
  CHECK(other.Take()[1].text == older.Token() + older.Fence());
  CHECK(newer.Take()[0].text == "lead");
  CHECK(server.Ask("HGET", older.Forgotten(), "token").text == older.Token());
  CHECK(server.Ask("HEXISTS", older.Forgotten(), "f:another inbox").number == 1);

  server.Ask("DEL", older.Forgotten());  // its outcome is published
  const std::vector<RedisAnswer> answer = older.Take();
  CHECK(answer[0].text == "follow");
  CHECK(answer[1].text == newer.Token() + newer.Fence());
  CHECK(newer.Renew() == 1);
}

TEST_CASE("Redis scripts: a renewal that comes after its call has landed makes no lease") {
  const RedisServer server;
  TestCall call(server, "inbox"), other(server, "another inbox");
  call.Take();
  SECTION("if another process followed") {
    other.Take();
    CHECK(call.Publish("0") == 1);
  }
  SECTION("if nobody followed") { CHECK(call.Publish("1") == 0); }
  CHECK(call.Renew() == 0);
  CHECK(server.Keys() == std::vector{call.Outcome()});
}

TEST_CASE("Redis scripts: an outcome that nobody can ask for is not kept") {
  const RedisServer server;
  TestCall call(server, "inbox");
  call.Take();
  CHECK(call.Publish("0") == 0);
  CHECK(server.Keys().empty());
}

TEST_CASE("Redis scripts: a command that comes late does nothing once its call has landed") {
  const RedisServer server;
  TestCall call(server, "inbox"), other(server, "another inbox");
  call.Take();
  other.Take();
  CHECK(call.Publish("0") == 1);
  CHECK(call.Take()[0].text == "landed");
  CHECK(call.Publish("0") == -1);
  CHECK(server.Keys() == std::vector{call.Outcome()});
}
