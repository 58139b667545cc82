// SPDX-License-Identifier: MIT
#pragma once

// Timeout and Duration: how long, or until when, from whatever you have.
//
//   users.Do(id, load, {.timeout = 50ms});
//   users.Do(id, load, {.timeout = 0.5s});
//   users.Do(id, load, {.timeout = request.deadline});  // a time_point of any clock
//   Group<int, User> users({.max_age = std::chrono::minutes(5)});
//
// Any std::chrono type converts, and none wraps: what lies more than about 146 years after the
// steady clock's epoch never passes, and what is too far in the past has passed.
//
// Errors: nothing here throws, unless a clock or a Rep of your own does. What it throws reaches
// you.

#include <chrono>
#include <compare>
#include <concepts>
#include <optional>
#include <type_traits>

#include "detail/requirements.hpp"
#include "detail/saturate.hpp"

namespace singleflight {

// A length of time: any duration, rounded up to whole nanoseconds. At most about 292 years: longer
// ones count as that. A floating-point NaN counts as zero.
class Duration {
  using Nanoseconds = std::chrono::nanoseconds;

 public:
  constexpr Duration() noexcept = default;
  template <class Rep, class Period>
  constexpr Duration(const std::chrono::duration<Rep, Period>& length) noexcept(
      std::is_arithmetic_v<Rep>)
      : length_(detail::Saturate(length)) {}

  constexpr operator Nanoseconds() const noexcept { return length_; }
  constexpr Nanoseconds::rep count() const noexcept { return length_.count(); }

  friend constexpr bool operator==(Duration, Duration) noexcept = default;
  // Not defaulted, because libc++ 14 has no <=> for durations.
  friend constexpr std::strong_ordering operator<=>(Duration one, Duration other) noexcept {
    return one.count() <=> other.count();
  }

 private:
  Nanoseconds length_{};
};

// How long a caller waits: for a duration, until a time_point, or for ever.
class Timeout {
  using Clock = std::chrono::steady_clock;

 public:
  // For ever.
  constexpr Timeout() noexcept = default;
  constexpr Timeout(std::nullopt_t) noexcept {}

  // For this long. Zero or less: not at all.
  template <class Rep, class Period>
  constexpr Timeout(const std::chrono::duration<Rep, Period>& length) noexcept(
      std::is_arithmetic_v<Rep>)
      : kind_(Kind::kLength), nanoseconds_(Duration(length).count()) {}

  // Until then. That moment of another clock is looked up on the steady clock here, once: if the
  // other clock is set later, that has no effect.
  template <class AnyClock, class Length>
  Timeout(const std::chrono::time_point<AnyClock, Length>& moment) noexcept(
      detail::kIsNothrowUntil<AnyClock, Length>) requires requires {
    AnyClock::now();
  } : kind_(Kind::kMoment), nanoseconds_(Duration(moment.time_since_epoch()).count()) {
    if constexpr (!std::same_as<AnyClock, Clock>) {
      nanoseconds_ = Sum(Now(), detail::TimeUntil(moment).count());
    }
  }

  template <class Length>
  Timeout(const std::optional<Length>& timeout) noexcept(
      std::is_nothrow_constructible_v<Timeout, const Length&>) requires
      std::constructible_from<Timeout, const Length&> {
    if (timeout) *this = Timeout(*timeout);
  }

  // Whether there is a limit at all.
  constexpr explicit operator bool() const noexcept { return kind_ != Kind::kNone; }

  // Returns when a wait that begins now is over. Empty: never. Standard libraries that cannot wait
  // for the steady clock convert this moment to another clock's, without a check. So it does not
  // lie so far away that this would overflow.
  std::optional<Clock::time_point> Deadline() const noexcept {
    using Nanoseconds = std::chrono::nanoseconds;
    if (kind_ == Kind::kNone) return std::nullopt;
    Rep end = kind_ == Kind::kMoment ? nanoseconds_ : Sum(Now(), nanoseconds_);
    if (end > (Nanoseconds::max)().count() / 2) return std::nullopt;
    if (end < 0) {  // it has passed, unless the clock's epoch is yet to come
      const Rep now = Now();
      if (end < now) end = now;
    }
    return Clock::time_point(std::chrono::duration_cast<Clock::duration>(Nanoseconds(end)));
  }

 private:
  using Rep = std::chrono::nanoseconds::rep;
  enum class Kind : unsigned char { kNone, kLength, kMoment };

  static Rep Now() noexcept { return Duration(Clock::now().time_since_epoch()).count(); }
  static constexpr Rep Sum(Rep a, Rep b) noexcept {
    constexpr Rep kMax = (std::chrono::nanoseconds::max)().count();
    constexpr Rep kMin = (std::chrono::nanoseconds::min)().count();
    if (b > 0 ? a > kMax - b : a < kMin - b) return b > 0 ? kMax : kMin;
    return a + b;
  }
  Kind kind_ = Kind::kNone;
  Rep nanoseconds_ = 0;  // kLength: a length. kMoment: since the steady clock's epoch
};

}  // namespace singleflight
