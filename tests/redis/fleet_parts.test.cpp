// SPDX-License-Identifier: MIT

// Tests parts that a redis::Group is made of: the thread that delivers, and what the scripts and
// messages are made of. runner_slot.test.cpp and inbox.test.cpp have other parts.

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <singleflight/detail/redis/deliverer.hpp>
#include <singleflight/detail/redis/payload.hpp>
#include <singleflight/detail/redis/protocol.hpp>
#include <singleflight/detail/redis/remote_error.hpp>
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

}  // namespace

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
  for (int i = 0; i < 1000; ++i) tokens.push_back(redis::NewToken(7));
  CHECK(std::ranges::all_of(tokens, redis::IsToken));
  std::ranges::sort(tokens);
  CHECK(std::ranges::adjacent_find(tokens) == tokens.end());
}

TEST_CASE("Redis protocol: tokens begin with their order") {
  CHECK(redis::NewToken(0).starts_with("000000000000"));
  CHECK(redis::NewToken(0x1f).starts_with("00000000001f"));
  CHECK(redis::NewToken(0xabcdef987654).starts_with("abcdef987654"));
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
