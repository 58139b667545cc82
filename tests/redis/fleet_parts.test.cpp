// SPDX-License-Identifier: MIT

// Tests the parts that a redis::Group is made of: who does a call's work, the thread that delivers,
// and what the scripts and messages are made of.

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/detail/redis/deliverer.hpp>
#include <singleflight/detail/redis/payload.hpp>
#include <singleflight/detail/redis/protocol.hpp>
#include <singleflight/detail/redis/remote_error.hpp>
#include <singleflight/detail/redis/runner_slot.hpp>
#include <singleflight/detail/redis/slots.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
namespace redis = singleflight::redis::detail;

namespace {

const std::string kToken = "0123456789abcdef0123456789abcdef";
const std::string kFence = "1234567890123456";

struct TestGrant final : redis::Grant {};
class TestRunner final : public redis::Runner {
 public:
  explicit TestRunner(std::atomic<int>* destroyed = nullptr) : destroyed_(destroyed) {}
  ~TestRunner() override {
    if (destroyed_ != nullptr) ++*destroyed_;
  }
  void OnFollows() noexcept override { ++follows; }
  int follows = 0;

 private:
  std::atomic<int>* destroyed_;
};

}  // namespace

// ---- RunnerSlot

TEST_CASE("Runner slot: the first runner that is still there is taken") {
  TestRunner first, second;
  TestGrant grant;
  redis::RunnerSlot slot;
  CHECK(slot.Offer(first) == nullptr);
  CHECK(slot.Offer(second) == nullptr);
  CHECK(slot.Withdraw(first));
  CHECK(slot.TakeFirst(grant).runner == &second);
  CHECK_FALSE(slot.Withdraw(second));
  CHECK(slot.Withdraw(first));
}

TEST_CASE("Runner slot: a grant without a runner waits for the next one that is offered") {
  TestRunner runner, other;
  TestGrant grant;
  redis::RunnerSlot slot;
  CHECK(slot.TakeFirst(grant).runner == nullptr);
  CHECK(slot.Offer(runner) == &grant);
  CHECK_FALSE(slot.Withdraw(runner));
  CHECK(slot.Offer(other) == nullptr);
  CHECK_FALSE(slot.StopWaiting());
}

TEST_CASE("Runner slot: a grant that stops waiting is given to nobody") {
  TestRunner runner;
  TestGrant grant;
  redis::RunnerSlot slot;
  CHECK(slot.TakeFirst(grant).runner == nullptr);
  CHECK(slot.StopWaiting());
  CHECK_FALSE(slot.StopWaiting());
  CHECK(slot.Offer(runner) == nullptr);
  CHECK(slot.Withdraw(runner));
}

TEST_CASE("Runner slot: it keeps one runner of its own, which belongs to whoever takes it") {
  std::atomic<int> destroyed = 0;
  TestGrant grant;
  {
    redis::RunnerSlot slot;
    CHECK(slot.NeedsOwned());
    std::unique_ptr<redis::Runner> first = std::make_unique<TestRunner>(&destroyed);
    std::unique_ptr<redis::Runner> second = std::make_unique<TestRunner>(&destroyed);
    const redis::Runner* const kept = first.get();
    CHECK(slot.Offer(first) == nullptr);
    CHECK(first == nullptr);
    CHECK_FALSE(slot.NeedsOwned());
    CHECK(slot.Offer(second) == nullptr);
    CHECK(second != nullptr);
    const redis::RunnerSlot::Taken taken = slot.TakeFirst(grant);
    CHECK(taken.runner == kept);
    CHECK(taken.owned.get() == kept);
    CHECK(destroyed == 0);
  }
  CHECK(destroyed == 2);
}

TEST_CASE("Runner slot: once it is closed it keeps nobody and releases those it had") {
  std::atomic<int> destroyed = 0;
  TestRunner stack, late;
  redis::RunnerSlot slot;
  std::unique_ptr<redis::Runner> owned = std::make_unique<TestRunner>(&destroyed);
  CHECK(slot.Offer(stack) == nullptr);
  CHECK(slot.Offer(owned) == nullptr);
  owned = slot.Close();
  CHECK(owned != nullptr);
  CHECK(slot.Offer(late) == nullptr);
  CHECK(slot.Offer(owned) == nullptr);
  CHECK(owned != nullptr);
  CHECK_FALSE(slot.NeedsOwned());
  CHECK(slot.Withdraw(stack));
  CHECK(slot.Withdraw(late));
}

TEST_CASE("Runner slot: a runner that is offered again can be withdrawn again") {
  TestRunner runner;
  TestGrant grant;
  redis::RunnerSlot first, second;
  CHECK(first.Offer(runner) == nullptr);
  CHECK(first.TakeFirst(grant).runner == &runner);
  CHECK(second.Offer(runner) == nullptr);
  CHECK(second.Withdraw(runner));
}

TEST_CASE("Runner slot: of threads that offer and withdraw, a grant goes to exactly one") {
  constexpr int kThreads = 4;
  for (int round = 0; round < 300; ++round) {
    redis::RunnerSlot slot;
    TestGrant grant;
    std::atomic<int> granted = 0;
    std::latch ready(kThreads + 1);
    std::vector<JoiningThread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        TestRunner runner;
        ready.arrive_and_wait();
        if (slot.Offer(runner) == &grant) ++granted;
        if (!slot.Withdraw(runner) && granted == 0) ++granted;
      });
    }
    ready.arrive_and_wait();
    const bool taken = slot.TakeFirst(grant).runner != nullptr;
    threads.clear();
    const bool waits = slot.StopWaiting();
    REQUIRE(granted == (waits ? 0 : 1));
    REQUIRE_FALSE((taken && waits));
  }
}

// ---- Deliverer

TEST_CASE("Deliverer: tasks run one after the other, in the order in which they were posted") {
  std::vector<int> order;
  std::atomic<int> inside = 0;
  bool alone = true;
  {
    redis::Deliverer deliverer;
    for (int i = 0; i < 1000; ++i) {
      deliverer.Post([&, i] {
        alone = alone && inside.fetch_add(1) == 0;
        order.push_back(i);
        --inside;
      });
    }
  }
  CHECK(order.size() == 1000);
  CHECK(std::ranges::is_sorted(order));
  CHECK(alone);
}

TEST_CASE("Deliverer: all that many threads have posted has run when it is destroyed") {
  std::atomic<int> count = 0;
  {
    redis::Deliverer deliverer;
    std::vector<JoiningThread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 500; ++k) {
          deliverer.Post([&] { ++count; });
        }
      });
    }
  }
  CHECK(count == 2000);
}

TEST_CASE("Deliverer: a task may post another one, and its captures are destroyed on the thread") {
  std::thread::id ran, destroyed;
  struct OnEnd {
    ~OnEnd() { *on = std::this_thread::get_id(); }
    std::thread::id* on = nullptr;
  };
  std::promise<void> done;
  redis::Deliverer deliverer;
  deliverer.Post([&] {
    auto held = std::make_shared<OnEnd>();
    held->on = &destroyed;
    deliverer.Post([&, held = std::move(held)] { ran = std::this_thread::get_id(); });
    deliverer.Post([&] { done.set_value(); });
  });
  done.get_future().wait();
  CHECK(ran != std::this_thread::get_id());
  CHECK(destroyed == ran);
}

// ---- Payload

TEST_CASE("Payload: what was packed is unpacked with the same tag and token only") {
  using redis::PayloadKind;
  for (const std::string& body : {""s, "v"s, "\0\xff"s, std::string(100'000, 'x')}) {
    const std::string packed = redis::Pack({PayloadKind::kOwnError, body}, 7, kToken);
    CHECK(packed.size() == redis::kPayloadHeader + body.size());
    const auto payload = redis::Unpack(packed, 7, kToken);
    REQUIRE(payload);
    CHECK(payload->kind == PayloadKind::kOwnError);
    CHECK((payload->body == body));
    CHECK_FALSE(redis::Unpack(packed, 8, kToken));
    CHECK_FALSE(redis::Unpack(packed, 7, std::string(32, 'a')));
    CHECK_FALSE(redis::Unpack(packed + "x", 7, kToken));
  }
}

TEST_CASE("Payload: every bit that is wrong is detected") {
  const std::string packed = redis::Pack({redis::PayloadKind::kValue, "value"}, 7, kToken);
  for (std::size_t i = 0; i < packed.size() * 8; ++i) {
    std::string changed = packed;
    changed[i / 8] = static_cast<char>(changed[i / 8] ^ (1 << i % 8));
    CHECK_FALSE(redis::Unpack(changed, 7, kToken));
  }
  for (std::size_t size = 0; size < packed.size(); ++size) {
    CHECK_FALSE(redis::Unpack(packed.substr(0, size), 7, kToken));
  }
}

TEST_CASE("Payload: a payload of the first version is refused") {
  std::string packed = redis::Pack({redis::PayloadKind::kValue, "v"}, 7, kToken);
  packed[0] = 1;
  CHECK_FALSE(redis::Unpack(packed, 7, kToken));
}

// ---- Names, tokens and messages

TEST_CASE("Redis protocol: tokens are well formed and do not repeat") {
  std::vector<std::string> tokens;
  for (int i = 0; i < 1000; ++i) tokens.push_back(redis::NewToken());
  CHECK(std::ranges::all_of(tokens, redis::IsToken));
  std::ranges::sort(tokens);
  CHECK(std::ranges::adjacent_find(tokens) == tokens.end());
}

TEST_CASE("Redis protocol: what is no token is not taken for one") {
  for (const std::string& text :
       {""s, kToken.substr(1), kToken + "0", kToken.substr(1) + "g", kToken.substr(1) + "A",
        kToken.substr(1) + "\n", std::string(32, '\0')}) {
    CHECK_FALSE(redis::IsToken(text));
  }
}

TEST_CASE("Redis protocol: all names of a key are in one slot, and keys have names of their own") {
  std::vector<std::string> names;
  for (const std::string key : {"", "}", "}x", "a}b", "{", "{}", "a", ".", ".{.}", "a}:lease"}) {
    const std::string base = redis::BaseOf("p", key);
    names.push_back(redis::LeaseName(base));
    CHECK(redis::HashSlot(redis::LeaseName(base)) ==
          redis::HashSlot(redis::OutcomeName(base, kToken)));
    CHECK(redis::HashSlot(redis::LeaseName(base)) ==
          redis::HashSlot(redis::ForgottenName(base, kToken)));
  }
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());
}

TEST_CASE("Redis protocol: a message is read, and what is none is not") {
  const std::string whole = kToken + "p" + kFence + "payload";
  const auto message = redis::ReadMessage(whole);
  REQUIRE(message);
  CHECK(message->id == kToken + kFence);
  CHECK(message->kind == redis::MessageKind::kPayload);
  CHECK(message->payload == "payload");
  CHECK(redis::ReadMessage(kToken + "f" + kFence));
  for (const std::string& bytes :
       {""s, kToken, kToken + "p", kToken + "p" + kFence.substr(1),
        "x" + kToken.substr(1) + "p" + kFence, kToken + "p" + kFence.substr(1) + "x"}) {
    CHECK_FALSE(redis::ReadMessage(bytes));
  }
}

TEST_CASE("Redis protocol: a name in a message is one line of bounded length") {
  CHECK(redis::Printable("a b{}~") == "a b{}~");
  CHECK(redis::Printable("a\r\n\x1b\0\x7f\xff"s) == "a\\x0d\\x0a\\x1b\\x00\\x7f\\xff");
  CHECK(redis::Printable(std::string(200, 'a')) == std::string(200, 'a'));
  CHECK(redis::Printable(std::string(100'000, 'a')) == std::string(200, 'a') + "...");
}
