// SPDX-License-Identifier: MIT

// These tests check the scheduler itself. Every kind of search finds known faults, and the number
// of schedules is the one counted by hand.

#include "scheduler.hpp"

#include <array>
#include <atomic>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <semaphore>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "search.hpp"
#include "support/catch.hpp"

using interleave::Exhaustive;
using interleave::Explore;
using interleave::Mode;
using interleave::Pct;
using interleave::Point;
using interleave::Preemptions;
using interleave::Replay;
using interleave::Run;

namespace {

// Returns the failure that a search of the scenario finds, or nothing.
template <class Scenario>
std::string FailureOf(interleave::Search&& search, Scenario&& scenario) {
  try {
    Explore("scheduler", search, scenario);
    return {};
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

template <class Scenario>
std::size_t SchedulesOf(Scenario&& scenario) {
  Exhaustive search;
  return Explore("scheduler", search, scenario).schedules - search.repeated();
}

bool Contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Two threads add to a counter, in two steps each.
void Adders(Run& run) {
  struct World {
    std::atomic<int> sum = 0;
  };
  auto world = std::make_shared<World>();
  for (int i = 0; i < 2; ++i) {
    run.Thread([world] { world->sum.store(world->sum.load() + 1); });
  }
  run.AtEnd([world] {
    if (world->sum != 2) interleave::Fail("an addition is lost");
  });
}

}  // namespace

TEST_CASE("The scheduler finds a lost update with each search") {
  CHECK(Contains(FailureOf(Exhaustive(), Adders), "an addition is lost"));
  CHECK(Contains(FailureOf(Preemptions(1), Adders), "an addition is lost"));
  CHECK(Contains(FailureOf(Pct(1, 1000, 1), Adders), "an addition is lost"));
  CHECK(FailureOf(Preemptions(0), Adders).empty());
}

TEST_CASE("The scheduler repeats a failure from the schedule or the seed that it printed") {
  const auto after = [](const std::string& text, const std::string& label) {
    const std::size_t begin = text.find(label) + label.size();
    return text.substr(begin, text.find_first_not_of("0123456789", begin) - begin);
  };
  const std::string first = FailureOf(Pct(1, 1000, 1), Adders);
  const std::string schedule = after(first, "INTERLEAVINGS_REPLAY=scheduler:");
  const std::string seed = after(first, "INTERLEAVINGS_SEED=");
  const std::string from_schedule = FailureOf(Replay(schedule), Adders);
  const std::string from_seed = FailureOf(Pct(std::stoull(seed), 1, 1), Adders);
  CHECK(Contains(from_schedule, "an addition is lost"));
  CHECK(after(from_schedule, "INTERLEAVINGS_REPLAY=scheduler:") == schedule);
  CHECK(after(from_seed, "INTERLEAVINGS_REPLAY=scheduler:") == schedule);
}

TEST_CASE("The scheduler explores each order of steps that conflict, and no other") {
  const auto each_touches = [](int threads, auto touch) {
    return [=](Run& run) {
      auto world = std::make_shared<std::array<int, 8>>();
      for (int i = 0; i < threads; ++i) run.Thread([=] { touch(*world, i); });
    };
  };
  const auto same = [](auto& world, int) { Point(&world[0], Mode::kWrite); };
  const auto twice = [](auto& world, int) {
    Point(&world[0], Mode::kWrite);
    Point(&world[0], Mode::kWrite);
  };
  const auto own = [](auto& world, int i) {
    Point(&world[static_cast<std::size_t>(i)], Mode::kWrite);
  };
  const auto read = [](auto& world, int) { Point(&world[0], Mode::kRead); };
  const auto one_writes = [](auto& world, int i) {
    Point(&world[0], i == 0 ? Mode::kWrite : Mode::kRead);
  };
  CHECK(SchedulesOf(each_touches(2, same)) == 2);
  CHECK(SchedulesOf(each_touches(3, same)) == 6);
  CHECK(SchedulesOf(each_touches(4, same)) == 24);
  CHECK(SchedulesOf(each_touches(2, twice)) == 6);   // 4! / (2! 2!)
  CHECK(SchedulesOf(each_touches(3, twice)) == 90);  // 6! / (2! 2! 2!)
  CHECK(SchedulesOf(each_touches(4, own)) == 1);
  CHECK(SchedulesOf(each_touches(4, read)) == 1);
  CHECK(SchedulesOf(each_touches(4, one_writes)) == 8);  // before or after each of three readers
}

TEST_CASE("The scheduler explores each order in which a lock is taken") {
  const auto lockers = [](int threads) {
    return [=](Run& run) {
      auto mutex = std::make_shared<std::mutex>();
      auto sum = std::make_shared<int>(0);
      for (int i = 0; i < threads; ++i) {
        run.Thread([=] {
          const std::lock_guard lock(*mutex);
          ++*sum;
        });
      }
      run.AtEnd([=] {
        if (*sum != threads) interleave::Fail("an increment is lost");
      });
    };
  };
  CHECK(SchedulesOf(lockers(2)) == 2);
  CHECK(SchedulesOf(lockers(4)) == 24);
}

TEST_CASE("The scheduler finds a data race") {
  const auto race = [](Run& run) {
    auto number = std::make_shared<int>(0);
    for (int i = 0; i < 2; ++i) run.Thread([=] { ++*number; });
  };
  CHECK(Contains(FailureOf(Exhaustive(), race), "data race"));
}

TEST_CASE("The scheduler tells a memory order that is too weak from one that is strong enough") {
  const auto publish = [](std::memory_order store, std::memory_order load) {
    return [=](Run& run) {
      struct World {
        int value = 0;
        std::atomic<bool> ready = false;
      };
      auto world = std::make_shared<World>();
      run.Thread([=] {
        world->value = 1;
        world->ready.store(true, store);
      });
      run.Thread([=] {
        if (world->ready.load(load) && world->value != 1)
          interleave::Fail("the value was not seen");
      });
    };
  };
  using enum std::memory_order;
  CHECK(FailureOf(Exhaustive(), publish(release, acquire)).empty());
  CHECK(Contains(FailureOf(Exhaustive(), publish(relaxed, acquire)), "data race"));
  CHECK(Contains(FailureOf(Exhaustive(), publish(release, relaxed)), "data race"));
}

TEST_CASE("The scheduler finds memory that is used after it was freed") {
  const auto early = [](Run& run) {
    struct World {
      std::unique_ptr<int> number = std::make_unique<int>(1);
      std::mutex mutex;
    };
    auto world = std::make_shared<World>();
    run.Thread([=] {
      const std::lock_guard lock(world->mutex);
      world->number.reset();
    });
    run.Thread([=] {
      int* number;
      {
        const std::lock_guard lock(world->mutex);
        number = world->number.get();
      }
      const std::lock_guard lock(world->mutex);
      if (number != nullptr) *number = 2;
    });
  };
  CHECK(Contains(FailureOf(Exhaustive(), early), "memory used after its end"));
}

TEST_CASE("The scheduler finds a shared_ptr that is copied while it is destroyed") {
  const auto copied = [](Run& run) {
    auto* const pointer = new std::shared_ptr<int>(std::make_shared<int>(1));
    run.Thread([=] { const std::shared_ptr<int> copy = *pointer; });
    run.Thread([=] { delete pointer; });
  };
  CHECK(Contains(FailureOf(Exhaustive(), copied), "end of the memory"));
}

TEST_CASE("The scheduler explores which of an object's owners destroys it") {
  const auto last_is = [](std::size_t wanted) {
    return [wanted](Run& run) {
      const auto end = [wanted](int* number) {
        if (interleave::ThisThread() == wanted) interleave::Fail("this one");
        delete number;
      };
      std::shared_ptr<int> owner(new int(1), end);
      for (int i = 0; i < 3; ++i) run.Thread([owner]() mutable { owner.reset(); });
    };
  };
  for (const std::size_t thread : {0u, 1u, 2u}) {
    CHECK(Contains(FailureOf(Exhaustive(), last_is(thread)), "this one"));
  }
}

TEST_CASE("The scheduler does not mistake a loop that does something for one that waits") {
  const auto ends_many = [](Run& run) {
    run.Thread([owners = std::vector(8, std::make_shared<int>(1))]() mutable { owners.clear(); });
  };
  CHECK(FailureOf(Exhaustive(), ends_many).empty());
}

namespace {

// Runs a thread of a program that is drawn from a seed: atomic operations, a lock, and owners that
// are destroyed. Its history is what it read.
void RunDrawn(std::mt19937& random, std::array<std::atomic<int>, 2>& numbers, std::mutex& mutex,
              std::shared_ptr<int>& owner, std::string& history) {
  for (int i = 0; i < 3; ++i) {
    std::atomic<int>& number = numbers[random() % 2];
    const int drawn = static_cast<int>(random() % 3);
    int saw = -1;
    switch (random() % 6) {
      case 0:
        saw = number.load();
        break;
      case 1:
        number.store(drawn);
        break;
      case 2:
        saw = number.exchange(drawn);
        break;
      case 3: {
        int expected = drawn;
        saw = number.compare_exchange_strong(expected, drawn + 1) ? 10 : expected;
        break;
      }
      case 4: {
        const std::lock_guard lock(mutex);
        saw = number.load();
        numbers[0].store(drawn);
        break;
      }
      default:
        owner.reset();
        break;
    }
    const interleave::Untracked unseen;
    history += std::to_string(saw) + ' ';
  }
}

// Returns the histories of the program that a search shows.
std::set<std::string> HistoriesOf(unsigned seed, interleave::Search&& search) {
  std::set<std::string> histories;
  Explore("drawn", search, [&](Run& run) {
    struct World {
      std::array<std::atomic<int>, 2> numbers = {};
      std::mutex mutex;
      std::array<std::shared_ptr<int>, 2> owners;
      std::array<std::string, 2> read;
    };
    auto world = std::make_shared<World>();
    const auto ends = [world = world.get()](int* number) {
      world->numbers[0].store(5 + static_cast<int>(interleave::ThisThread()));
      delete number;
    };
    world->owners[0] = world->owners[1] = std::shared_ptr<int>(new int(1), ends);
    for (unsigned i = 0; i < 2; ++i) {
      run.Thread([=] {
        std::mt19937 random(seed * 2 + i);
        RunDrawn(random, world->numbers, world->mutex, world->owners[i], world->read[i]);
      });
    }
    run.AtEnd([=, &histories] {
      for (auto& owner : world->owners) owner.reset();
      histories.insert(world->read[0] + '|' + world->read[1]);
    });
  });
  return histories;
}

}  // namespace

TEST_CASE("The exhaustive search shows every possible history") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    CHECK(HistoriesOf(seed, Exhaustive()) == HistoriesOf(seed, Preemptions(1000)));
  }
}

TEST_CASE("The scheduler finds a stack frame that is used after its function has returned") {
  const auto early = [](Run& run) {
    auto shared = std::make_shared<std::atomic<std::atomic<int>*>>(nullptr);
    run.Thread([=] {
      std::atomic<int> number = 0;
      shared->store(&number);
    });
    run.Thread([=] {
      if (const std::atomic<int>* const number = shared->load()) static_cast<void>(number->load());
    });
  };
  CHECK(Contains(FailureOf(Exhaustive(), early), "has ended"));
}

TEST_CASE("The scheduler finds memory that is leaked") {
  const auto leak = [](Run& run) {
    auto escaped = std::make_shared<int*>();
    run.Thread([=] { *escaped = new int(1); });
  };
  CHECK(Contains(FailureOf(Exhaustive(), leak), "leaked: 1 blocks"));
}

TEST_CASE(
    "The scheduler lets threads meet at the first use of a static that belongs to a function") {
  const auto meet = [](Run& run) {
    for (int i = 0; i < 2; ++i) {
      run.Thread([] {
        static const std::string made_once(100, 'x');
        if (made_once.size() != 100) interleave::Fail("the static is not initialized");
      });
    }
  };
  CHECK(FailureOf(Exhaustive(), meet).empty());
}

TEST_CASE("The scheduler wakes threads that wait, and lets deadlines pass") {
  struct World {
    std::mutex mutex;
    std::condition_variable changed;
    bool ready = false;
    std::promise<int> promise;
    std::shared_future<int> future = promise.get_future().share();
    std::binary_semaphore semaphore{0};
  };
  std::size_t in_time = 0;
  std::size_t too_late = 0;
  Exhaustive search;
  Explore("scheduler", search, [&](Run& run) {
    auto world = std::make_shared<World>();
    run.Thread([=] {
      {
        const std::lock_guard lock(world->mutex);
        world->ready = true;
      }
      world->changed.notify_one();
      world->semaphore.release();
      world->promise.set_value(7);
    });
    run.Thread([=] {
      std::unique_lock lock(world->mutex);
      world->changed.wait(lock, [&] { return world->ready; });
      world->semaphore.acquire();
      if (world->future.get() != 7) interleave::Fail("the future has the wrong value");
    });
    run.Thread([=, &in_time, &too_late] {
      using namespace std::chrono_literals;
      const auto begin = std::chrono::steady_clock::now();
      const bool ready = world->future.wait_for(50ms) == std::future_status::ready;
      const bool late = std::chrono::steady_clock::now() - begin >= 50ms;
      const interleave::Untracked unseen;
      if (!ready && !late) interleave::Fail("the wait timed out too early");
      ++(ready ? in_time : too_late);
    });
  });
  CHECK(in_time > 0);
  CHECK(too_late > 0);
}

TEST_CASE("The scheduler resumes a thread that spins when there is something new to see") {
  const auto spin = [](Run& run) {
    auto flag = std::make_shared<std::atomic<bool>>(false);
    run.Thread([=] { flag->store(true); });
    run.Thread([=] {
      while (!flag->load()) std::this_thread::yield();
    });
  };
  CHECK(SchedulesOf(spin) == 2);
}
