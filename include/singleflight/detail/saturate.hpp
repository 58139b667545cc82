// SPDX-License-Identifier: MIT
#pragma once

// Any std::chrono duration or time_point in nanoseconds, without overflow.

#include <chrono>
#include <cstdint>
#include <numeric>
#include <ratio>
#include <type_traits>

namespace singleflight::detail {

// In nanoseconds. A long double overflows at no duration, and holds each whole number of
// nanoseconds that std::chrono::nanoseconds holds, except where it is a double.
//
// Errors: what the conversion of a user's Rep throws.
template <class Rep, class Period>
constexpr long double WideNanoseconds(const std::chrono::duration<Rep, Period>& length) noexcept(
    std::is_arithmetic_v<Rep>) {
  static_assert(
      requires { static_cast<long double>(length.count()); },
      "the Rep of this duration does not convert to a long double: give it an operator "
      "long double, or pass a duration of a number");
  constexpr std::intmax_t kCommon = std::gcd(Period::den, std::nano::den);
  constexpr std::intmax_t kTimes = std::nano::den / kCommon;
  constexpr std::intmax_t kOver = Period::den / kCommon;
  const auto wide = static_cast<long double>(length.count()) *
                    static_cast<long double>(Period::num) * static_cast<long double>(kTimes);
  return wide / static_cast<long double>(kOver);
}

// Rounds up. What is too long, or too far below zero, becomes the longest or the lowest. A NaN
// becomes zero.
constexpr std::chrono::nanoseconds Saturate(long double nanoseconds) noexcept {
  using Nanoseconds = std::chrono::nanoseconds;
  constexpr long double kLimit = 9'223'372'036'854'775'808.0L;  // 2^63
  if (nanoseconds >= kLimit - 1) return (Nanoseconds::max)();
  if (nanoseconds <= -kLimit) return (Nanoseconds::min)();
  if (nanoseconds != nanoseconds) return Nanoseconds::zero();
  const auto whole = static_cast<Nanoseconds::rep>(nanoseconds);  // rounded towards zero
  return Nanoseconds(whole + (static_cast<long double>(whole) < nanoseconds ? 1 : 0));
}

template <class Rep, class Period>
constexpr std::chrono::nanoseconds Saturate(
    const std::chrono::duration<Rep, Period>& length) noexcept(std::is_arithmetic_v<Rep>) {
  return Saturate(WideNanoseconds(length));
}

// Whether TimeUntil cannot throw.
template <class Clock, class Length>
inline constexpr bool kIsNothrowUntil =
    std::is_arithmetic_v<typename Length::rep>&& noexcept(Clock::now()) &&
    std::is_arithmetic_v<typename decltype(Clock::now().time_since_epoch())::rep>;

// How far away `moment` is on its clock. The difference is what is rounded, because a clock may
// count from long ago.
//
// Errors: what a user's clock, or the conversion of a user's Rep, throws.
template <class Clock, class Length>
std::chrono::nanoseconds TimeUntil(const std::chrono::time_point<Clock, Length>& moment) noexcept(
    kIsNothrowUntil<Clock, Length>) {
  return Saturate(WideNanoseconds(moment.time_since_epoch()) -
                  WideNanoseconds(Clock::now().time_since_epoch()));
}

}  // namespace singleflight::detail
