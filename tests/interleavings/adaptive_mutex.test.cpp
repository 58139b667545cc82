// SPDX-License-Identifier: MIT

// Explores AdaptiveMutex: one thread at a time has it, what one writes the next one sees, and
// whoever locks it next may destroy it.

#include <cstddef>
#include <memory>
#include <mutex>
#include <singleflight/detail/adaptive_mutex.hpp>

#include "support/catch.hpp"
#include "world.hpp"

using interleave::Run;
using interleave::World;
using singleflight::detail::AdaptiveMutex;

namespace {

// Is destroyed by its last user, who has only just unlocked it.
struct Shared {
  explicit Shared(std::size_t threads) : users(threads) {}
  AdaptiveMutex mutex;
  // Guarded by the mutex, and no atomics: the scheduler reports a race.
  std::size_t users;
  std::size_t inside = 0;
  std::size_t sections = 0;
};

void Use(Shared* shared, std::size_t sections) {
  bool is_last = false;
  for (std::size_t i = 1; i <= sections; ++i) {
    const std::lock_guard lock(shared->mutex);
    World::Expect(++shared->inside == 1, "two threads have the mutex");
    ++shared->sections;
    --shared->inside;
    is_last = i == sections && --shared->users == 0;
  }
  if (is_last) delete shared;
}

auto ThreadsThatUse(std::size_t threads, std::size_t sections) {
  return [=](Run& run) {
    auto* const shared = new Shared(threads);
    for (std::size_t i = 0; i < threads; ++i) {
      run.Thread([=] { Use(shared, sections); });
    }
  };
}

// All keys meet in one shard, with the mutex that groups have by default.
struct DefaultMutex : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 1;
};

}  // namespace

TEST_CASE(
    "Interleavings: one thread at a time has an adaptive mutex, and its last user destroys it") {
  interleave::ExploreAll("adaptive_mutex_of_two", ThreadsThatUse(2, 2));
  interleave::ExploreAll("adaptive_mutex_of_three", ThreadsThatUse(3, 1));
}

TEST_CASE("Interleavings: callers of a group with the mutex that groups have by default") {
  using Group = singleflight::Group<int, int, singleflight::DefaultHash<int>,
                                    singleflight::DefaultEqual<int>, DefaultMutex>;
  struct Tally {
    Group group;
    int executions = 0;  // guarded by the call: a race is reported
    std::size_t followers = 0;
    std::mutex mutex;  // guards `followers`
  };
  std::size_t joined = 0;
  interleave::ExploreAll("default_mutex", [&joined](Run& run) {
    const auto tally = std::make_shared<Tally>();
    for (int i = 0; i < 2; ++i) {
      run.Thread([tally] {
        const auto result = tally->group.Do(1, [&] { return ++tally->executions; });
        const std::lock_guard lock(tally->mutex);
        tally->followers += result.role() == singleflight::Role::kFollower;
      });
    }
    run.AtEnd([tally, &joined] {
      const auto executions = static_cast<std::size_t>(tally->executions);
      World::Expect(executions + tally->followers == 2, "each caller leads or follows");
      joined += tally->followers;
    });
  });
  CHECK(joined > 0);
}
