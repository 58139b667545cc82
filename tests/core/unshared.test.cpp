// SPDX-License-Identifier: MIT

// Promise 16 (fast when alone): an unshared Do allocates nothing and copies neither key nor value.

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

namespace {

struct Counted {
  explicit Counted(int n) : number(n) {}
  Counted(const Counted& other) : number(other.number) { ++copies; }
  Counted(Counted&& other) noexcept : number(other.number) {}
  bool operator==(const Counted& other) const { return number == other.number; }
  int number;
  static inline int copies = 0;
};

struct HashCounted {
  std::size_t operator()(const Counted& key) const { return static_cast<std::size_t>(key.number); }
};

// Returns how many allocations `work` makes on this thread.
template <class Work>
std::size_t AllocationsOf(Work&& work) {
  const std::size_t before = allocations;
  work();
  return allocations - before;
}

}  // namespace

TEST_CASE("Promise 16: an unshared Do allocates nothing") {
  Group<std::string, int> group;
  const std::string key = "a key that is too long for the small-string buffer";
  StopSource stop;
  CHECK(AllocationsOf([&] { static_cast<void>(group.Do(key, [] { return 1; })); }) == 0);
  CHECK(AllocationsOf(
            [&] { static_cast<void>(group.Do(key, [] { return 1; }, {.timeout = 1s})); }) == 0);
  CHECK(AllocationsOf([&] {
          static_cast<void>(group.Do(key, [] { return 1; }, {.stop = stop.get_token()}));
        }) == 0);
}

TEST_CASE("Promise 16: an unshared Do whose function takes a stop token allocates only the stop") {
  Group<std::string, int> group;
  const std::string key = "a key that is too long for the small-string buffer";
  CHECK(AllocationsOf([] { static_cast<void>(StopSource()); }) == 1);
  CHECK(AllocationsOf([&] { static_cast<void>(group.Do(key, [](StopToken) { return 1; })); }) == 1);
  CHECK(AllocationsOf([&] {
          static_cast<void>(group.Do(key, [](StopToken) { return 1; }, {.timeout = 1s}));
        }) == 1);
}

TEST_CASE("Promise 16: looking up a string key by a pointer or a view allocates nothing") {
  Group<std::string, int> group;
  const char* pointer = "a key that is too long for the small-string buffer";
  const std::string_view view = pointer;
  CHECK(AllocationsOf([&] {
          static_cast<void>(group.Do(pointer, [] { return 1; }));
          static_cast<void>(group.Do(view, [] { return 1; }));
          static_cast<void>(group.Callers(view));
          static_cast<void>(group.Forget(pointer));
          static_cast<void>(group.ForgetUnshared(view));
          static_cast<void>(group.GetStats());
        }) == 0);
}

TEST_CASE("Promise 16: constructing a group allocates nothing") {
  CHECK(AllocationsOf([] { Group<std::string, std::string> group; }) == 0);
}

TEST_CASE("Promise 16: an unshared Do copies neither key nor value") {
  Group<Counted, Counted, HashCounted> group;
  const Counted key(1);
  Counted::copies = 0;
  const auto result = group.Do(key, [] { return Counted(2); });
  CHECK(result->number == 2);
  CHECK(Counted::copies == 0);
}

TEST_CASE("Promise 16: the function is neither copied nor moved") {
  struct Pinned {
    Pinned() = default;
    Pinned(const Pinned&) = delete;
    int operator()() { return 3; }
  };
  Group<int, int> group;
  Pinned function;
  CHECK(*group.Do(1, function) == 3);
}
