// SPDX-License-Identifier: MIT

// The library's own errors are of a category of their own, and equal to a std::errc.

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Category;
using singleflight::Group;

namespace {

template <class Ask>
std::system_error CatchFrom(Ask&& ask) {
  try {
    static_cast<void>(ask());
  } catch (const std::system_error& error) {
    return error;
  }
  throw std::logic_error("nothing was thrown");
}

}  // namespace

TEST_CASE("A caller can tell its own timeout from one that the function met") {
  Group<int, int> group;
  HeldCall held(group, 1);
  const auto own = CatchFrom([&] { return group.Do(1, [] { return 0; }, {.timeout = 1ns}); });
  CHECK(own.code() == std::errc::timed_out);
  CHECK(own.code().category() == Category());
  CHECK(own.what() ==
        std::string("singleflight: this caller's timeout passed before the call landed"));

  const auto met = CatchFrom([&] {
    return group.Do(2,
                    []() -> int { throw std::system_error(ETIMEDOUT, std::generic_category()); });
  });
  CHECK(met.code() == std::errc::timed_out);
  CHECK(met.code().category() != Category());
}

TEST_CASE("Each of the library's errors is in its category, and says what happened") {
  Group<int, int> group({.max_callers_per_call = 1});
  HeldCall held(group, 1);
  const auto refused = CatchFrom([&] { return group.Do(1, [] { return 0; }); });
  CHECK(refused.code() == std::errc::resource_unavailable_try_again);
  CHECK(refused.code().category() == Category());
  CHECK(refused.what() ==
        std::string("singleflight: max_callers_per_call reached: the group refused this caller"));

  StopSource stop;
  stop.request_stop();
  const auto canceled =
      CatchFrom([&] { return group.Do(2, [] { return 0; }, {.stop = stop.get_token()}); });
  CHECK(canceled.code() == std::errc::operation_canceled);
  CHECK(canceled.code().category() == Category());
  CHECK(canceled.what() ==
        std::string("singleflight: this caller, or its call, was asked to stop"));

  const auto deadlock =
      CatchFrom([&] { return group.Do(3, [&] { return *group.Do(3, [] { return 0; }); }); });
  CHECK(deadlock.code() == std::errc::resource_deadlock_would_occur);
  CHECK(deadlock.code().category() == Category());

  auto dropped = DoAsync(
      group, 4, [] { return 0; }, [](auto) {});
  const auto vanished = CatchFrom([&] { return dropped.Get(); });
  CHECK(vanished.code() == std::errc::owner_dead);
  CHECK(vanished.code().category() == Category());
  CHECK(vanished.what() == std::string("singleflight: the leader vanished without a result"));
}

TEST_CASE("The category has a name, and a text for every number") {
  CHECK(Category().name() == std::string("singleflight"));
  const std::error_code other(ENOMEM, Category());
  CHECK(other.message() == std::generic_category().message(ENOMEM));
  CHECK(other == std::errc::not_enough_memory);
  CHECK(other != std::make_error_code(std::errc::not_enough_memory));
}
