// SPDX-License-Identifier: MIT

// Promise 5 (exceptions): whatever `fn` throws reaches all callers unchanged.

#include <atomic>
#include <latch>
#include <span>
#include <typeinfo>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Group;

namespace {

struct NotAnException {  // deliberately not derived from std::exception
  int code;
  const void* self;
};

// An exception to which its catchers may add, as to a boost::exception. It knows where it was made,
// and counts its copies.
class Failure : public std::runtime_error {
 public:
  Failure(const char* what, const Failure*& made) : std::runtime_error(what) { made = this; }
  Failure(const Failure& other) : std::runtime_error(other) { ++copies; }

  mutable std::vector<std::string> notes;
  static inline int copies = 0;
};

// A caller's own exception, in which it nests what it caught.
struct WhileLoading : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Calls `ask`, and returns what it throws.
template <class Ask>
std::exception_ptr ThrownBy(Ask&& ask) {
  try {
    static_cast<void>(ask());
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

// Each way to wait for key 1. Returns what that caller caught, once for each time that it asked.
using Fn = std::function<int()>;
using Caught = std::vector<std::exception_ptr>;
using Way = Caught (*)(Group<int, int>&, const Fn&);
constexpr Way kWays[] = {
    [](auto& group, auto& fn) -> Caught { return {ThrownBy([&] { return group.Do(1, fn); })}; },
    [](auto& group, auto& fn) -> Caught {
      return {ThrownBy([&] { return group.Do(1, fn, {.timeout = 1h}); })};
    },
    [](auto& group, auto& fn) -> Caught {
      auto future = DoAsync(group, 1, fn);
      return {ThrownBy([&] { return future.Get(); })};
    },
    [](auto& group, auto& fn) -> Caught {
      const singleflight::SharedFuture<int> future = DoAsync(group, 1, fn);
      return {ThrownBy([&] { return future.Get(); }), ThrownBy([&] { return future.Get(); })};
    },
    [](auto& group, auto& fn) -> Caught {
      Caught caught;
      std::latch done(1);
      const auto ask = [&]() -> FireAndForget {
        try {
          static_cast<void>(co_await CoDo(group, 1, fn));
        } catch (...) {
          caught.push_back(std::current_exception());
        }
        done.count_down();
      };
      ask();
      done.wait();
      return caught;
    },
    [](auto& group, auto& fn) -> Caught {
      Caught caught;
      std::latch done(1);
      const auto task = [fn]() -> Task<int> { co_return fn(); };
      const auto ask = [&]() -> FireAndForget {
        try {
          static_cast<void>(co_await CoDo(group, 1, task, singleflight::NewThread()));
        } catch (...) {
          caught.push_back(std::current_exception());
        }
        done.count_down();
      };
      ask();
      done.wait();
      return caught;
    },
    [](auto& group, auto& fn) -> Caught {
      const auto results =
          DoMany(group, {1, 1}, [&](std::span<const int>) { return std::vector<int>{fn()}; });
      return {results[0].error(), ThrownBy([&] { return results[1].value(); })};
    },
};
constexpr std::size_t kAllWays = std::size(kWays);

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
  std::vector<JoiningThread> threads;
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

TEST_CASE("Promise 5: whoever leads, callers of every kind catch the object that was thrown") {
  for (std::size_t leader = 0; leader < kAllWays; ++leader) {
    Group<int, int> group;
    const Failure* made = nullptr;
    const Fn fn = [&]() -> int {
      AwaitCallers(group, 1, kAllWays);
      throw Failure("down", made);
    };
    Caught caught[kAllWays];
    std::vector<JoiningThread> threads;
    const auto ask = [&](std::size_t way) {
      threads.emplace_back([&, way] { caught[way] = kWays[way](group, fn); });
    };
    Failure::copies = 0;
    ask(leader);
    AwaitCallers(group, 1, 1);
    for (std::size_t way = 0; way < kAllWays; ++way) {
      if (way != leader) ask(way);
    }
    threads.clear();
    for (std::size_t way = 0; way < kAllWays; ++way) {
      CAPTURE(leader, way);
      CHECK_FALSE(caught[way].empty());
      for (const std::exception_ptr& error : caught[way]) {
        try {
          REQUIRE(error != nullptr);
          std::rethrow_exception(error);
        } catch (const std::exception& object) {
          CHECK(&object == made);
          CHECK(std::string(object.what()) == "down");
#if TEST_HAS_RTTI
          CHECK(typeid(object) == typeid(Failure));
          CHECK(dynamic_cast<const std::nested_exception*>(&object) == nullptr);
#endif
        }
      }
    }
    CHECK(Failure::copies == 0);
    CHECK(group.GetStats() ==
          singleflight::Stats{.executions = 1, .followers = kAllWays - 1, .failures = 1});
  }
}

TEST_CASE("Promise 5: what one caller adds to the exception object, the others find in it") {
  Group<int, int> group;
  const Failure* made = nullptr;
  std::function<void()> run;
  const auto ask = [&] {
    return DoAsync(
        group, 1, [&]() -> int { throw Failure("down", made); }, [&](auto task) { run = task; });
  };
  auto first = ask();
  auto second = ask();
  run();
  const auto notes_after = [](auto& future, const char* note) {
    try {
      static_cast<void>(future.Get());
    } catch (const Failure& error) {
      error.notes.emplace_back(note);
      return error.notes;
    }
    return std::vector<std::string>{"nothing was thrown"};
  };
  CHECK(notes_after(first, "asked by A") == std::vector<std::string>{"asked by A"});
  CHECK(notes_after(second, "asked by B") == std::vector<std::string>{"asked by A", "asked by B"});
}

#if TEST_HAS_RTTI
TEST_CASE(
    "Promise 5: each caller may nest the exception in one of its own, and the rest see none") {
  Group<int, int> group;
  const Failure* made = nullptr;
  std::function<void()> run;
  const auto ask = [&] {
    return DoAsync(
        group, 1, [&]() -> int { throw Failure("down", made); }, [&](auto task) { run = task; });
  };
  singleflight::Future<int> futures[] = {ask(), ask(), ask()};
  run();
  const auto nest = [](singleflight::Future<int>& future, const char* page) {
    return ThrownBy([&] {
      try {
        return *future.Get();
      } catch (...) {
        std::throw_with_nested(WhileLoading(page));
      }
    });
  };
  const std::exception_ptr nested[] = {nest(futures[0], "page 1"), nest(futures[1], "page 2")};
  const char* const pages[] = {"page 1", "page 2"};
  for (int i = 0; i < 2; ++i) {
    try {
      std::rethrow_exception(nested[i]);
    } catch (const WhileLoading& outer) {
      CHECK(std::string(outer.what()) == pages[i]);
      const auto inner = ThrownBy([&]() -> int {
        std::rethrow_if_nested(outer);
        return 0;
      });
      try {
        std::rethrow_exception(inner);
      } catch (const std::exception& object) {
        CHECK(&object == made);
      }
    }
  }
  try {
    static_cast<void>(futures[2].Get());
    FAIL("nothing was thrown");
  } catch (const std::exception& object) {
    CHECK(&object == made);
    CHECK(typeid(object) == typeid(Failure));
  }
}
#endif

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
    std::vector<JoiningThread> threads;
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
