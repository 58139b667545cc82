// SPDX-License-Identifier: MIT

// Promise 5 (exceptions): whatever `fn` throws reaches all callers unchanged.

#include <atomic>
#include <latch>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

namespace {

struct NotAnException {  // deliberately not derived from std::exception
  int code;
  const void* self;
};

}  // namespace

TEST_CASE("Promise 5: a lone caller gets what its function throws, unchanged") {
  Group<int, int> group;
  try {
    static_cast<void>(group.Do(1, []() -> int { throw std::out_of_range("too far"); }));
    FAIL("nothing was thrown");
  } catch (const std::out_of_range& error) {
    CHECK(std::string(error.what()) == "too far");
  }
}

TEST_CASE("Promise 5: every caller of a failed call gets the very same exception object") {
  constexpr std::size_t kCallers = 5;
  Group<std::string, int> group;
  std::atomic<int> runs = 0;
  std::vector<const NotAnException*> objects(kCallers);
  std::vector<int> codes(kCallers);
  std::latch all_have_it(kCallers);
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < kCallers; ++i) {
    threads.emplace_back([&, i] {
      try {
        static_cast<void>(group.Do("key", [&]() -> int {
          AwaitCallers(group, "key", kCallers);
          throw NotAnException{++runs, nullptr};
        }));
      } catch (const NotAnException& error) {
        objects[i] = &error;
        codes[i] = error.code;
        all_have_it.arrive_and_wait();  // all are alive here, so equal addresses mean one object
      }
    });
  }
  threads.clear();
  CHECK(runs == 1);
  for (std::size_t i = 0; i < kCallers; ++i) {
    CHECK(codes[i] == 1);
    CHECK(objects[i] == objects[0]);
  }
}

TEST_CASE("Promise 5: the key is free again at once after a failure") {
  Group<std::string, int> group;
  for (int i = 0; i < 3; ++i) {
    CHECK(Keep([&] {
            return group.Do("key", []() -> int { throw std::runtime_error("down"); });
          }).message == "down");
    CHECK(group.Callers("key") == 0);
    CHECK(*group.Do("key", [] { return 7; }) == 7);
  }
  CHECK(group.GetStats() == singleflight::Stats{.executions = 6, .failures = 3});
}

TEST_CASE(
    "Promise 5: a value that cannot be converted or moved fails the call for all its callers") {
  struct Fragile {
    explicit Fragile(int* moves_left) : left(moves_left) {}
    Fragile(const Fragile& other) : left(other.left) { Count(); }
    void Count() const {
      if (left != nullptr && (*left)-- == 0) throw std::runtime_error("broke on the way");
    }
    int* left;
  };
  for (int moves = 0; moves < 4; ++moves) {
    Group<int, Fragile> group;
    int left = moves;
    std::vector<std::string> messages(2);
    std::vector<std::jthread> threads;
    for (auto& message : messages) {
      threads.emplace_back([&] {
        try {
          const auto result = group.Do(1, [&] {
            AwaitCallers(group, 1, 2);
            return Fragile(&left);
          });
          message = result.shared() ? "shared" : "alone";
        } catch (const std::runtime_error& error) {
          message = error.what();
        }
      });
    }
    threads.clear();
    CHECK(messages[0] == messages[1]);
    const bool broke = messages[0] == "broke on the way";
    CHECK((broke || messages[0] == "shared"));
    CHECK(group.GetStats() ==
          singleflight::Stats{.executions = 1, .followers = 1, .failures = broke ? 1u : 0u});
    CHECK(group.Callers(1) == 0);
    if (moves == 0) CHECK(broke);
    if (moves == 3) CHECK_FALSE(broke);
  }
}
