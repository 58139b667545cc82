// SPDX-License-Identifier: MIT

// Tests the inbox of a redis::Group: messages and the answers to a Take come through two
// connections, so a message may overtake the answer that says whom it is about.

#include <atomic>
#include <deque>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client_support.hpp"
#include "outages.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using detail::Inbox;
using detail::MessageKind;

namespace {

constexpr std::string_view kFence = "1234567890123456";

std::string TokenOf(char digit) { return std::string(detail::kTokenSize, digit); }
std::string IdOf(char digit) { return TokenOf(digit) += kFence; }

// Counts what it hears.
class TestListener final : public detail::Listener {
 public:
  explicit TestListener(bool holds = true) : holds_(holds) {}

  int Messages() const { return messages_; }
  int Subscriptions() const { return subscriptions_; }

 private:
  void OnMessage(const detail::Message&) noexcept override { ++messages_; }
  void OnSubscribed() noexcept override { ++subscriptions_; }
  void OnClose() noexcept override {}
  bool Holds() const noexcept override { return holds_; }

  const bool holds_;
  std::atomic<int> messages_ = 0, subscriptions_ = 0;
};

// An inbox to which a server's messages come. `witness` listens to the lease 'f'.
class TestInbox {
 public:
  explicit TestInbox(const RedisServer& server) : server_(server) {
    client_.OnLoop([&] {
      inbox_->Add(Kept(IdOf('f')), witness_);
      inbox_->Open();
    });
  }
  ~TestInbox() { client_.Destroy(); }

  void AwaitSubscribed() const {
    Await([&] { return witness_.Subscriptions() == 1; });
  }
  // Returns when the subscription has been lost, and has begun again.
  void LoseSubscription() const {
    const int before = witness_.Subscriptions();
    server_.Ask("CLIENT", "KILL", "TYPE", "pubsub");
    Await([&] { return witness_.Subscriptions() == before + 1; });
  }

  // Returns when the message has been handled.
  void Say(char digit, MessageKind kind, std::string_view text = {}) {
    Publish(digit, kind, text);
    const int before = witness_.Messages();
    Publish('f', MessageKind::kPayload, {});
    Await([&] { return witness_.Messages() == before + 1; });
  }

  Inbox::Moment TakeSent() {
    Inbox::Moment moment;
    client_.OnLoop([&] { moment = inbox_->TakeSent(); });
    return moment;
  }
  Inbox::Missed TakeAnswered(const Inbox::Moment& sent, char digit) {
    Inbox::Missed missed;
    client_.OnLoop([&] { missed = inbox_->TakeAnswered(sent, IdOf(digit)); });
    return missed;
  }
  void Add(char digit, detail::Listener& listener) {
    client_.OnLoop([&] { inbox_->Add(Kept(IdOf(digit)), listener); });
  }
  void AddWithoutFence(char digit, detail::Listener& listener) {
    client_.OnLoop([&] { inbox_->Add(Kept(TokenOf(digit)), listener); });
  }
  // The answer is that this process leads.
  void TakeLeads(const Inbox::Moment& sent, char digit, detail::Listener& holder) {
    client_.OnLoop([&] {
      inbox_->TakeAnswered(sent, {});
      inbox_->Add(Kept(IdOf(digit)), holder);
    });
  }

  // Returns when the server has answered all that the loop had to ask before.
  void Settle() {
    client_.OnLoop([] {});
    client_.Ask({"PING"});
  }

 private:
  // An id must stay while its listener is listed.
  const std::string& Kept(std::string id) { return ids_.emplace_back(std::move(id)); }

  void Publish(char digit, MessageKind kind, std::string_view text) const {
    std::string message = TokenOf(digit);
    message += static_cast<char>(kind);
    (message += kFence) += text;
    server_.Ask("PUBLISH", inbox_->Channel(), message);
  }

  const RedisServer& server_;
  std::deque<std::string> ids_;
  TestListener witness_;
  TestClient client_{ClientOptionsFor(server_)};
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>(client_.Core(), "t");
};

}  // namespace

// ---- A message before the answer

TEST_CASE("Redis inbox: a message that comes before the answer is known when the answer comes") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  const auto kind = GENERATE(MessageKind::kPayload, MessageKind::kAsk);
  const Inbox::Moment sent = inbox.TakeSent();
  const Inbox::Moment beside = inbox.TakeSent();
  inbox.Say('1', kind);
  const Inbox::Missed missed = inbox.TakeAnswered(sent, '1');
  CHECK(missed.message);
  CHECK_FALSE(missed.forgotten);
  CHECK_FALSE(inbox.TakeAnswered(beside, '2').message);
}

TEST_CASE("Redis inbox: a Forget before the answer is known, and is no reason to ask again") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  const Inbox::Moment first = inbox.TakeSent();
  const Inbox::Moment second = inbox.TakeSent();
  inbox.Say('1', MessageKind::kForgotten);
  const Inbox::Missed forgotten = inbox.TakeAnswered(first, '1');
  CHECK(forgotten.forgotten);
  CHECK_FALSE(forgotten.message);
  inbox.Say('1', MessageKind::kPayload);
  const Inbox::Missed both = inbox.TakeAnswered(second, '1');
  CHECK(both.forgotten);
  CHECK(both.message);
}

TEST_CASE("Redis inbox: a message that came before a Take was sent is not one that it missed") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  inbox.Say('1', MessageKind::kPayload);
  CHECK_FALSE(inbox.TakeAnswered(inbox.TakeSent(), '1').message);
}

TEST_CASE("Redis inbox: a message is remembered for each Take that was sent before it") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  std::vector<Inbox::Moment> slow;
  for (int i = 0; i < 5; ++i) slow.push_back(inbox.TakeSent());
  for (char digit = '0'; digit < '5'; ++digit) {  // other Takes are sent and answered meanwhile
    const Inbox::Moment sent = inbox.TakeSent();
    inbox.Say(digit, digit % 2 == 0 ? MessageKind::kPayload : MessageKind::kForgotten);
    inbox.TakeAnswered(sent, '9');
  }
  for (char digit = '0'; digit < '5'; ++digit) {
    const Inbox::Missed missed =
        inbox.TakeAnswered(slow[static_cast<std::size_t>(digit - '0')], digit);
    CHECK(missed.message == (digit % 2 == 0));
    CHECK(missed.forgotten == (digit % 2 == 1));
  }
}

TEST_CASE("Redis inbox: a message is remembered while Takes of several periods are in flight") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  const Inbox::Moment first = inbox.TakeSent();
  const Inbox::Moment second = inbox.TakeSent();
  inbox.Say('1', MessageKind::kPayload);
  CHECK(inbox.TakeAnswered(first, '1').message);  // a new period begins
  const Inbox::Moment third = inbox.TakeSent();
  inbox.Say('2', MessageKind::kPayload);
  CHECK(inbox.TakeAnswered(second, '2').message);  // another one
  const Inbox::Moment fourth = inbox.TakeSent();
  inbox.Say('3', MessageKind::kPayload);
  CHECK(inbox.TakeAnswered(third, '3').message);
  CHECK(inbox.TakeAnswered(fourth, '3').message);
}

TEST_CASE("Redis inbox: a message is not remembered once all Takes before it are answered") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  const Inbox::Moment sent = inbox.TakeSent();
  inbox.Say('1', MessageKind::kPayload);
  CHECK(inbox.TakeAnswered(sent, '1').message);
  Inbox::Moment last = inbox.TakeSent();
  for (int i = 0; i < 3; ++i) {  // there is always one in flight
    inbox.TakeAnswered(std::exchange(last, inbox.TakeSent()), '9');
  }
  CHECK_FALSE(inbox.TakeAnswered(last, '1').message);
}

TEST_CASE("Redis inbox: a Take that was in flight while messages could be lost has missed one") {
  RedisServer server;
  server.Stop();
  TestInbox inbox(server);
  const Inbox::Moment before_all = inbox.TakeSent();
  server.Continue();
  inbox.AwaitSubscribed();
  CHECK(inbox.TakeAnswered(before_all, '1').message);
  const Inbox::Moment before = inbox.TakeSent();
  inbox.LoseSubscription();
  const Inbox::Moment after = inbox.TakeSent();
  const Inbox::Missed missed = inbox.TakeAnswered(before, '1');
  CHECK(missed.message);
  CHECK_FALSE(missed.forgotten);
  CHECK_FALSE(inbox.TakeAnswered(after, '1').message);
}

TEST_CASE("Redis inbox: what was remembered is not lost with the subscription") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  const Inbox::Moment sent = inbox.TakeSent();
  inbox.Say('1', MessageKind::kForgotten);
  inbox.LoseSubscription();
  CHECK(inbox.TakeAnswered(sent, '1').forgotten);
}

// ---- Questions

TEST_CASE("Redis inbox: a lease that nobody here holds is ended, and one that is held is not") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  for (const char digit : {'1', '2'}) {
    server.Ask("HSET", LeaseName("t", {digit}), "token", TokenOf(digit), "fence", kFence);
  }
  TestListener holder;
  inbox.Add('1', holder);
  for (const char digit : {'1', '2'}) {
    inbox.Say(digit, MessageKind::kHeld, LeaseName("t", {digit}));
  }
  inbox.Settle();
  CHECK(server.Keys() == std::vector<std::string>{LeaseName("t", "1")});
  CHECK(holder.Messages() == 0);  // the inbox itself has answered
}

TEST_CASE("Redis inbox: who follows a lease does not hold it") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  server.Ask("HSET", LeaseName("t", "k"), "token", TokenOf('1'), "fence", kFence);
  TestListener follower(/*holds=*/false), holder;
  inbox.Add('1', follower);
  SECTION("so its process ends a lease that nobody holds") {
    inbox.Say('1', MessageKind::kHeld, LeaseName("t", "k"));
    inbox.Settle();
    CHECK(server.Keys().empty());
  }
  SECTION("but another listener may") {
    inbox.Add('1', holder);
    inbox.Say('1', MessageKind::kHeld, LeaseName("t", "k"));
    inbox.Settle();
    CHECK(server.Keys().size() == 1);
  }
}

TEST_CASE("Redis inbox: a holder that has not heard of its fence hears of a Forget, and no more") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  TestListener holder;
  inbox.AddWithoutFence('1', holder);
  inbox.Say('1', MessageKind::kPayload);
  CHECK(holder.Messages() == 0);
  inbox.Say('1', MessageKind::kForgotten);
  CHECK(holder.Messages() == 1);
}

TEST_CASE("Redis inbox: a question about a lease waits for the Takes that may have it") {
  const RedisServer server;
  TestInbox inbox(server);
  inbox.AwaitSubscribed();
  server.Ask("HSET", LeaseName("t", "k"), "token", TokenOf('1'), "fence", kFence);
  const Inbox::Moment sent = inbox.TakeSent();
  inbox.Say('1', MessageKind::kHeld, LeaseName("t", "k"));
  inbox.Settle();
  CHECK(server.Keys().size() == 1);
  SECTION("one of them has it") {
    TestListener holder;
    inbox.TakeLeads(sent, '1', holder);
    inbox.Settle();
    CHECK(server.Keys().size() == 1);
  }
  SECTION("none of them has it") {
    inbox.TakeAnswered(sent, '9');
    inbox.Settle();
    CHECK(server.Keys().empty());
  }
  SECTION("others are in flight, too, but were sent later") {
    const Inbox::Moment other = inbox.TakeSent();
    inbox.TakeAnswered(sent, '9');
    inbox.Settle();
    CHECK(server.Keys().size() == 1);
    inbox.TakeAnswered(other, '9');
    inbox.Settle();
    CHECK(server.Keys().empty());
  }
}

// ---- As callers see it

namespace {

// A process that follows the calls for "a" and for "b", and has the answer about "b" only.
class Overtaken {
 public:
  explicit Overtaken(const RedisServer& server, std::function<std::string()> fn_of_a = NeverRun)
      : server_(server) {
    AwaitSubscribed(server, there);
    b_ = there.Join("b", Follows{&follows_});
    Await([&] { return follows_ > 0; });
    AwaitAnswers(there);
    // The first connection is the one for commands.
    proxy_.HoldAt({RedisProxy::kReplies, proxy_.Bytes(0, RedisProxy::kReplies), 0});
    a_.emplace([this, fn_of_a] { return there.Do("a", fn_of_a, {.timeout = 20s}); });
    AwaitFollowers(server, "a", 1);
  }

  // Returns when `there` has heard of all that `here` has done.
  void AwaitMessages() {
    leader_of_b_.Finish();
    CHECK(*b_.Get() == "b's");
  }
  void LetAnswerCome() { proxy_.Release(); }
  Caller<std::string>& CallerOfA() { return *a_; }

 private:
  struct Follows {
    std::atomic<int>* times;
    template <class Lead>
    void operator()(Lead lead) const {
      lead.Run(NeverRun);
    }
    void OnFollows() const noexcept { ++*times; }
  };

  const RedisServer& server_;
  RedisProxy proxy_{server_.Socket()};

 public:
  RedisPages here{server_, LongLease()};
  RedisPages there{LongTimeouts(proxy_.Socket()), LongLease()};
  singleflight::StopSource stop_of_a;
  RedisLeader<> leader_of_a{here,
                            "a",
                            RedisLeader<>::Fn([](const auto&) { return "a's"s; }),
                            {.stop = stop_of_a.get_token()}};

 private:
  RedisLeader<> leader_of_b_{here, "b", "b's"s};
  std::atomic<int> follows_ = 0;
  singleflight::Future<std::string> b_;
  std::optional<Caller<std::string>> a_;
};

}  // namespace

TEST_CASE("redis: an outcome that overtakes the answer to a follower reaches it all the same") {
  const RedisServer server;
  Overtaken process(server);
  process.leader_of_a.Finish();
  process.AwaitMessages();
  process.LetAnswerCome();
  CHECK(process.CallerOfA().Join().value == "a's");
  CHECK(process.there.GetStats().remote == 2);
}

TEST_CASE("redis: a Forget that overtakes the answer to a follower is heard of all the same") {
  const RedisServer server;
  Overtaken process(server);
  CHECK(process.here.Forget("a"));
  process.AwaitMessages();
  const long long scripts = Calls(server, "evalsha");
  process.LetAnswerCome();
  Await([&] { return process.there.Callers("a") == 0; });
  AwaitAnswers(process.there);
  CHECK(Calls(server, "evalsha") == scripts);  // it did not ask again
  CHECK(*process.there.Do("a", [] { return "new"s; }) == "new");
  process.leader_of_a.Finish();
  CHECK(process.CallerOfA().Join().value == "a's");
}

TEST_CASE("redis: a Forget that overtakes the answer to a leader is heard of all the same") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  RedisPages here(server, LongLease()), there(LongTimeouts(proxy.Socket()), LongLease());
  AwaitSubscribed(server, there);
  RedisLeader leader_of_b(here, "b", "b's"s);
  test::Caller follower_of_b([&] { return there.Do("b", NeverRun); });
  AwaitFollowers(server, "b", 1);
  AwaitAnswers(there);
  // The first connection is the one for commands.
  proxy.HoldAt({RedisProxy::kReplies, proxy.Bytes(0, RedisProxy::kReplies), 0});
  std::latch finish(1);
  test::Caller leader([&] {
    return there.Do("a", [&] {
      finish.wait();
      return "old"s;
    });
  });
  Await([&] { return server.Ask("EXISTS", LeaseName("t", "a")).number; });
  here.Forget("a");
  Await([&] { return !server.Ask("EXISTS", LeaseName("t", "a")).number; });
  leader_of_b.Finish();
  CHECK(follower_of_b.Join().value == "b's");  // so `there` has the message about "a", too
  proxy.Release();
  AwaitCallers(there, "a", 0);
  CHECK(*there.Do("a", [] { return "new"s; }) == "new");
  finish.count_down();
  CHECK(leader.Join().value == "old");
}

TEST_CASE("redis: a lease that is given back before a follower has its answer is taken over") {
  const RedisServer server;
  Overtaken process(server, [] { return "taken over"s; });
  process.stop_of_a.request_stop();
  process.AwaitMessages();
  process.LetAnswerCome();
  CHECK(process.CallerOfA().Join().value == "taken over");
  CHECK(process.there.GetStats().takeovers == 1);
}
