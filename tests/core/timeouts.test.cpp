// SPDX-License-Identifier: MIT

// Timeout and Duration: any std::chrono type, without wrapping.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <latch>
#include <limits>
#include <optional>
#include <ratio>
#include <stdexcept>
#include <type_traits>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::chrono;
using singleflight::Duration;
using singleflight::Group;
using singleflight::Timeout;

namespace {

// Whether a caller with this timeout waits until the call has landed.
bool Waits(const Timeout& timeout) {
  Group<int, int> group;
  std::latch finish(1);
  Caller leader([&] {
    return group.Do(1, [&] {
      finish.wait();
      return 7;
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] { return group.Do(1, [] { return 0; }, {.timeout = timeout}); });
  Await([&] { return group.Callers(1) == 2 || group.GetStats().left == 1; });
  finish.count_down();
  const bool served = follower.Join().value == 7;
  REQUIRE((served || follower.Join().error == std::errc::timed_out));
  return served;
}

// A clock whose epoch is not that of the steady clock, and that counts tenths of seconds.
struct OtherClock {
  using rep = std::int64_t;
  using period = std::deci;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<OtherClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() { return time_point(duration(-1'000'000)); }
};

// A clock that counts hours since the year 0. That is too long ago for nanoseconds.
struct OldClock {
  using rep = std::int64_t;
  using period = std::chrono::hours::period;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<OldClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() { return time_point(duration(2026 * 365 * 24)); }
};

// A clock that fails, as one does that asks a server.
struct BrokenClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<BrokenClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() { throw std::runtime_error("no time"); }
};

// A whole number that throws if it is invalid. Only an explicit conversion gets it out.
struct CheckedNumber {
  std::int64_t number = 0;
  explicit operator long double() const {
    if (number < 0) throw std::range_error("invalid");
    return static_cast<long double>(number);
  }
};

// A clock that counts in such numbers, but has lost count.
struct LostClock {
  using rep = CheckedNumber;
  using period = std::ratio<1>;
  using duration = std::chrono::duration<rep, period>;
  using time_point = std::chrono::time_point<LostClock>;
  [[maybe_unused]] static constexpr bool is_steady = false;
  static time_point now() noexcept { return time_point(duration(CheckedNumber{-1})); }
};

template <class Rep, class Period>
std::int64_t Count(std::chrono::duration<Rep, Period> length) {
  return Duration(length).count();
}

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

}  // namespace

TEST_CASE("Timeout: the longest duration of any unit never passes") {
  CHECK(Waits(hours::max()));
  CHECK(Waits(minutes::max()));
  CHECK(Waits(seconds::max()));
  CHECK(Waits(milliseconds::max()));
  CHECK(Waits(microseconds::max()));
  CHECK(Waits(nanoseconds::max()));
  CHECK(Waits(duration<int, std::ratio<365 * 24 * 3600>>::max()));
  CHECK(Waits(duration<int, std::exa>(1)));
  CHECK(Waits(duration<double>::max()));
  CHECK(Waits(duration<float, std::milli>(INFINITY)));
  CHECK(Waits({}));
  CHECK(Waits(std::nullopt));
}

TEST_CASE("Timeout: zero, and less by however much, does not wait") {
  CHECK_FALSE(Waits(0s));
  CHECK_FALSE(Waits(-1ns));
  CHECK_FALSE(Waits(hours::min()));
  CHECK_FALSE(Waits(milliseconds::min()));
  CHECK_FALSE(Waits(nanoseconds::min()));
  CHECK_FALSE(Waits(0.0s));
  CHECK_FALSE(Waits(duration<double>::min()));
  CHECK_FALSE(Waits(duration<double>(-INFINITY)));
  CHECK_FALSE(Waits(duration<double>(NAN)));
}

TEST_CASE("Timeout: a deadline is as good as a duration, on any clock") {
  CHECK(Waits(steady_clock::now() + 1h));
  CHECK(Waits(system_clock::now() + 1h));
  CHECK(Waits(OtherClock::now() + hours(1)));
  CHECK(Waits(OldClock::now() + hours(1)));
  CHECK(Waits(steady_clock::time_point::max()));
  CHECK(Waits(system_clock::time_point::max()));
  CHECK(Waits(OtherClock::time_point::max()));
  CHECK(Waits(time_point<system_clock, hours>::max()));
  CHECK(Waits(time_point<steady_clock, duration<double>>(duration<double>::max())));
  CHECK_FALSE(Waits(steady_clock::now()));
  CHECK_FALSE(Waits(system_clock::now() - 1h));
  CHECK_FALSE(Waits(OtherClock::now() - seconds(1)));
  CHECK_FALSE(Waits(OldClock::now()));
  CHECK_FALSE(Waits(steady_clock::time_point::min()));
  CHECK_FALSE(Waits(system_clock::time_point::min()));
  CHECK_FALSE(Waits(OtherClock::time_point::min()));
  CHECK_FALSE(Waits(time_point<system_clock, hours>::min()));
}

// Where a condition variable waits for the system clock only, the standard library adds the time
// that is left to the system clock's. It does not check whether that overflows.
TEST_CASE("Timeout: the system clock can hold every deadline that ever passes") {
  const auto count = [](const Timeout& timeout) {
    return timeout.Deadline().value().time_since_epoch().count();
  };
  for (const Timeout& passed :
       {Timeout(hours::min()), Timeout(nanoseconds::min()), Timeout(nanoseconds::min() + 1ns),
        Timeout(-hours(24 * 365 * 200)), Timeout(steady_clock::time_point::min()),
        Timeout(steady_clock::time_point(-1ns)), Timeout(system_clock::time_point::min())}) {
    const auto end = count(passed);
    CHECK(end >= 0);
    CHECK(end <= steady_clock::now().time_since_epoch().count());
  }
  CHECK(count(hours(24 * 365 * 100)) <= kMax / 2);
  CHECK(count(steady_clock::time_point(nanoseconds(kMax / 2))) == kMax / 2);
  CHECK_FALSE(Timeout(steady_clock::time_point(nanoseconds(kMax / 2 + 1))).Deadline());
  CHECK_FALSE(Timeout(nanoseconds::max() - 1ns).Deadline());
  CHECK_FALSE(Timeout(hours(24 * 365 * 200)).Deadline());
}

TEST_CASE("Timeout: a fraction of a second, and an optional duration, are durations") {
  CHECK(Waits(3600.5s));
  CHECK_FALSE(Waits(-0.5s));
  CHECK(Waits(std::optional<nanoseconds>(1h)));
  CHECK(Waits(std::optional<seconds>()));
  CHECK_FALSE(Waits(std::optional<steady_clock::time_point>(steady_clock::now())));
}

TEST_CASE("Timeout: what a clock of the user's throws reaches the caller, who may ask again") {
  const BrokenClock::time_point deadline(seconds(5));
  CHECK_THROWS_AS(Timeout(deadline), std::runtime_error);
  CHECK_THROWS_AS(Timeout(std::optional(deadline)), std::runtime_error);
  Group<int, int> group;
  const auto load = [] { return 7; };
  CHECK_THROWS_AS(group.Do(1, load, {.timeout = deadline}), std::runtime_error);
  CHECK(group.GetStats().executions == 0);
  CHECK(group.Do(1, load, {.timeout = 1h}).value() == 7);
}

TEST_CASE("Timeout: what the conversion of a user's number throws reaches the caller") {
  using Length = duration<CheckedNumber>;
  CHECK(Count(Length(CheckedNumber{5})) == 5'000'000'000);
  CHECK_THROWS_AS(Timeout(Length(CheckedNumber{-1})), std::range_error);
  CHECK_THROWS_AS(Duration(Length(CheckedNumber{-1})), std::range_error);
  CHECK_THROWS_AS(Timeout(std::optional(Length(CheckedNumber{-1}))), std::range_error);
  CHECK_THROWS_AS(Timeout(time_point<LostClock, seconds>(5s)), std::range_error);
}

TEST_CASE("Timeout: nothing throws for numbers and the clocks of the standard library") {
  STATIC_REQUIRE(std::is_nothrow_constructible_v<Timeout, duration<double>>);
  STATIC_REQUIRE(std::is_nothrow_constructible_v<Timeout, std::optional<milliseconds>>);
  STATIC_REQUIRE(std::is_nothrow_constructible_v<Timeout, steady_clock::time_point>);
  STATIC_REQUIRE(std::is_nothrow_constructible_v<Timeout, time_point<system_clock, hours>>);
  STATIC_REQUIRE(std::is_nothrow_constructible_v<Duration, hours>);
}

TEST_CASE("Duration: converts exactly where it can, rounds up, and saturates") {
  CHECK(Count(1h) == 3'600'000'000'000);
  CHECK(Count(-1h) == -3'600'000'000'000);
  CHECK(Count(0.25s) == 250'000'000);
  CHECK(Count(duration<std::int64_t, std::pico>(1)) == 1);
  CHECK(Count(duration<std::int64_t, std::pico>(-1)) == 0);
  CHECK(Count(duration<std::int64_t, std::pico>::max()) == 9'223'372'036'854'776);
  CHECK(Count(duration<std::int64_t, std::ratio<1, 3>>(1)) == 333'333'334);
  CHECK(Count(duration<std::int64_t, std::ratio<1, 3>>(10'000'000'000)) ==
        3'333'333'333'333'333'334);
  CHECK(Count(duration<std::uint64_t>(std::numeric_limits<std::uint64_t>::max())) == kMax);
  CHECK(Count(hours::max()) == kMax);
  CHECK(Count(hours::min()) == kMin);
  CHECK(Count(nanoseconds::max()) == kMax);
  CHECK(Count(nanoseconds::min()) == kMin);
  CHECK(Count(seconds(9'223'372'036)) == 9'223'372'036'000'000'000);
  CHECK(Count(seconds(9'223'372'037)) == kMax);
  CHECK(Count(duration<double>(1e300)) == kMax);
}

TEST_CASE("max_age: the longest duration of any unit is accepted, and no call is too old for it") {
  for (const Duration max_age :
       {Duration(hours::max()), Duration(milliseconds::max()), Duration(duration<double>(1e300))}) {
    Group<int, int> group({.max_age = max_age});
    HeldCall held(group, 1);
    Caller follower([&] { return group.Do(1, [] { return 0; }); });
    AwaitCallers(group, 1, 2);
    held.Finish();
    CHECK(follower.Join().value == 1);
  }
  CHECK_THROWS_AS((Group<int, int>({.max_age = 0s})), std::invalid_argument);
  CHECK_THROWS_AS((Group<int, int>({.max_age = hours::min()})), std::invalid_argument);
}
