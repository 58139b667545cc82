// SPDX-License-Identifier: MIT

// Tests of how long a Future and a SharedFuture wait: any duration, any clock.

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <future>
#include <latch>
#include <limits>
#include <ratio>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::SharedFuture;
using singleflight::Stats;
using std::future_status;
using std::chrono::duration;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;
using std::chrono::time_point;

namespace {

using IntGroup = Group<std::string, int>;
using Limits = std::numeric_limits<double>;
using Attempt = std::function<future_status(const SharedFuture<int>&)>;

template <class Timeout>
Attempt WaitFor(Timeout timeout) {
  return [timeout](const SharedFuture<int>& future) { return future.WaitFor(timeout); };
}
template <class Deadline>
Attempt WaitUntil(Deadline deadline) {
  return [deadline](const SharedFuture<int>& future) { return future.WaitUntil(deadline); };
}

// What `wait` returns for a call that lands only once the wait has had time to time out.
future_status WhenLandedLater(const Attempt& wait) {
  IntGroup group;
  std::function<void()> task;
  SharedFuture<int> future = DoAsync(
      group, "key", [] { return 7; }, [&task](auto its_task) { task = its_task; });
  std::latch waits(1);
  std::atomic<bool> timed_out = false;
  future_status status = future_status::deferred;
  JoiningThread waiting([&] {
    waits.count_down();
    status = wait(future);
    timed_out = status == future_status::timeout;
  });
  waits.wait();
  for (int i = 0; i < 1000 && !timed_out; ++i) std::this_thread::yield();
  task();
  waiting.join();
  return status;
}

// What `wait` returns for a call that has not landed, and for one that has.
struct Statuses {
  future_status pending;
  future_status landed;
};
Statuses WhenPendingAndLanded(const Attempt& wait) {
  IntGroup group;
  std::function<void()> task;
  const SharedFuture<int> future = DoAsync(
      group, "key", [] { return 7; }, [&task](auto its_task) { task = its_task; });
  Statuses statuses{};
  statuses.pending = wait(future);
  task();
  statuses.landed = wait(future);
  return statuses;
}

// A clock of the user's own. `now` is in its own unit.
template <class Length, int kTag = 0>
struct UserClock {
  using duration = Length;
  using rep = typename Length::rep;
  using period = typename Length::period;
  using time_point = std::chrono::time_point<UserClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() {
    ++times_read;
    return time_point(Length(current));
  }
  static inline std::atomic<rep> current = 0;
  static inline std::atomic<int> times_read = 0;
};

struct BrokenClock {
  using duration = nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<BrokenClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() { throw std::runtime_error("no clock"); }
};

template <class Clock, class Length>
constexpr auto kLast = time_point<Clock, Length>::max();
template <class Clock, class Length>
constexpr auto kFirst = time_point<Clock, Length>::min();

using Pico = duration<std::int64_t, std::pico>;
using Years = duration<int, std::ratio<31'556'952>>;

}  // namespace

TEST_CASE("Future: a timeout that no clock can represent is not over at once") {
  const Attempt long_timeouts[] = {
      WaitFor(std::chrono::hours::max()),
      WaitFor(std::chrono::seconds::max()),
      WaitFor(std::chrono::milliseconds::max()),
      WaitFor(std::chrono::microseconds::max()),
      WaitFor(nanoseconds::max()),
      WaitFor(nanoseconds::max() / 2),
      WaitFor(Pico::max()),  // 106 days
      WaitFor(duration<std::uint64_t, std::pico>::max()),
      WaitFor(duration<std::uint64_t>::max()),
      WaitFor(duration<std::int64_t, std::ratio<1, 30>>::max()),
      WaitFor(Years::max()),
      WaitFor(duration<int, std::exa>(1)),
      WaitFor(duration<float>::max()),
      WaitFor(duration<double>::max()),
      WaitFor(duration<double>(Limits::infinity())),
      WaitFor(duration<long double, std::exa>::max()),
  };
  for (const Attempt& wait : long_timeouts) CHECK(WhenLandedLater(wait) == future_status::ready);
}

TEST_CASE("Future: a timeout of zero or less, or of no number, is over at once") {
  const Attempt short_timeouts[] = {
      WaitFor(0s),
      WaitFor(-1ns),
      WaitFor(std::chrono::hours::min()),
      WaitFor(nanoseconds::min()),
      WaitFor(Pico::min()),
      WaitFor(Years::min()),
      WaitFor(duration<float>(-1)),
      WaitFor(duration<double>::min()),
      WaitFor(duration<double>(-Limits::infinity())),
      WaitFor(duration<double>(Limits::quiet_NaN())),
  };
  for (const Attempt& wait : short_timeouts) {
    const Statuses statuses = WhenPendingAndLanded(wait);
    CHECK(statuses.pending == future_status::timeout);
    CHECK(statuses.landed == future_status::ready);
  }
}

TEST_CASE("Future: a timeout lasts as long as it says") {
  const auto waits = [](auto timeout, nanoseconds at_least) {
    const auto before = steady_clock::now();
    const Statuses statuses = WhenPendingAndLanded(WaitFor(timeout));
    return statuses.pending == future_status::timeout && statuses.landed == future_status::ready &&
           steady_clock::now() - before >= at_least;
  };
  CHECK(waits(5ms, 5ms));
  CHECK(waits(0.0055s, 5500us));
  CHECK(waits(duration<float, std::milli>(2.5F), 2500us));
  CHECK(waits(Pico(3'000'000'001), 3'000'001ns));
  CHECK(waits(duration<int, std::ratio<1, 300>>(2), 6'666'667ns));
  CHECK(waits(0.5ns, 1ns));
}

TEST_CASE("Future: a deadline near the end of any clock is not over at once") {
  using Hours = UserClock<std::chrono::hours>;
  using Seconds = UserClock<duration<double>>;
  using Ticks = UserClock<duration<std::uint32_t, std::ratio<1, 100>>>;
  using Ages = UserClock<duration<std::int64_t, std::pico>>;
  Hours::current = 24 * 365 * 2026L;  // counts from the year 0: too many nanoseconds
  const Attempt late[] = {
      WaitUntil(kLast<steady_clock, nanoseconds>),
      WaitUntil(kLast<steady_clock, std::chrono::hours>),
      WaitUntil(kLast<steady_clock, Pico>),
      WaitUntil(kLast<steady_clock, duration<double>>),
      WaitUntil(steady_clock::now() + std::chrono::hours(1)),
      WaitUntil(kLast<system_clock, nanoseconds>),
      WaitUntil(kLast<system_clock, std::chrono::hours>),
      WaitUntil(kLast<system_clock, duration<float>>),
      WaitUntil(system_clock::now() + std::chrono::hours(1)),
      WaitUntil(kLast<Hours, std::chrono::hours>),
      WaitUntil(kLast<Hours, duration<double>>),
      WaitUntil(Hours::now() + std::chrono::hours(1)),
      WaitUntil(kLast<Seconds, duration<double>>),
      WaitUntil(time_point<Seconds>(duration<double>(Limits::infinity()))),
      WaitUntil(Seconds::now() + duration<double>(3600)),
      WaitUntil(kLast<Ticks, Ticks::duration>),
      WaitUntil(kLast<Ages, Pico>),
  };
  for (const Attempt& wait : late) CHECK(WhenLandedLater(wait) == future_status::ready);

  using AtItsStart = UserClock<nanoseconds, 1>;
  using AtItsEnd = UserClock<nanoseconds, 2>;
  AtItsStart::current = nanoseconds::min().count();
  AtItsEnd::current = nanoseconds::max().count() - nanoseconds(1h).count();
  CHECK(WhenLandedLater(WaitUntil(kLast<AtItsStart, nanoseconds>)) == future_status::ready);
  CHECK(WhenLandedLater(WaitUntil(AtItsStart::now() + 1h)) == future_status::ready);
  CHECK(WhenLandedLater(WaitUntil(kLast<AtItsEnd, nanoseconds>)) == future_status::ready);
}

TEST_CASE("Future: a deadline that has passed, on any clock, is over at once") {
  using Hours = UserClock<std::chrono::hours, 3>;
  using Seconds = UserClock<duration<double>, 3>;
  using Ticks = UserClock<duration<std::uint32_t, std::ratio<1, 100>>, 3>;
  using AtItsStart = UserClock<nanoseconds, 4>;
  using AtItsEnd = UserClock<nanoseconds, 5>;
  Hours::current = 24 * 365 * 2026L;
  Ticks::current = 7;
  AtItsStart::current = nanoseconds::min().count() + 1;
  AtItsEnd::current = nanoseconds::max().count();
  const Attempt passed[] = {
      WaitUntil(steady_clock::now()),
      WaitUntil(kFirst<steady_clock, nanoseconds>),
      WaitUntil(kFirst<steady_clock, std::chrono::hours>),
      WaitUntil(kFirst<steady_clock, Pico>),
      WaitUntil(time_point<steady_clock, nanoseconds>()),
      WaitUntil(system_clock::now()),
      WaitUntil(kFirst<system_clock, nanoseconds>),
      WaitUntil(kFirst<system_clock, std::chrono::hours>),
      WaitUntil(time_point<system_clock, duration<double>>(duration<double>(Limits::quiet_NaN()))),
      WaitUntil(kFirst<Hours, std::chrono::hours>),
      WaitUntil(Hours::now()),
      WaitUntil(Hours::now() - std::chrono::hours(1)),
      WaitUntil(kFirst<Seconds, duration<double>>),
      WaitUntil(time_point<Seconds>(duration<double>(-Limits::infinity()))),
      WaitUntil(time_point<Seconds>(duration<double>(Limits::quiet_NaN()))),
      WaitUntil(kFirst<Ticks, Ticks::duration>),
      WaitUntil(kFirst<AtItsStart, nanoseconds>),
      WaitUntil(kFirst<AtItsEnd, nanoseconds>),
      WaitUntil(kLast<AtItsEnd, nanoseconds>),
  };
  for (const Attempt& wait : passed) {
    const Statuses statuses = WhenPendingAndLanded(wait);
    CHECK(statuses.pending == future_status::timeout);
    CHECK(statuses.landed == future_status::ready);
  }
}

TEST_CASE("Future: a deadline on a clock of one's own is over once that clock says so") {
  using Clock = UserClock<std::chrono::milliseconds, 6>;
  IntGroup group;
  std::function<void()> task;
  const Future<int> future = DoAsync(
      group, "key", [] { return 7; }, [&task](auto its_task) { task = its_task; });
  std::latch waits(1);
  std::atomic<bool> over = false;
  future_status status = future_status::deferred;
  JoiningThread waiting([&] {
    waits.count_down();
    status = future.WaitUntil(Clock::time_point(2ms));
    over = true;
  });
  waits.wait();
  // However often the time that is left has passed on other clocks, this one stands still.
  Await([] { return Clock::times_read >= 5; });
  const bool over_too_soon = over;
  Clock::current = 2;
  waiting.join();
  CHECK_FALSE(over_too_soon);
  CHECK(status == future_status::timeout);
  CHECK(group.Callers("key") == 1);
  task();
}

TEST_CASE("Future: what a user's clock throws reaches the caller, which stays on its call") {
  IntGroup group;
  std::function<void()> task;
  Future<int> future = DoAsync(
      group, "key", [] { return 7; }, [&task](auto its_task) { task = its_task; });
  CHECK_THROWS_WITH(future.WaitUntil(BrokenClock::time_point()), "no clock");
  CHECK(group.Callers("key") == 1);
  task();
  CHECK(*future.Get() == 7);
}
