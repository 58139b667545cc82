// SPDX-License-Identifier: MIT
#pragma once

// Category: the error category of the library's own errors. It tells them from those of `fn`:
//
//   try {
//     Render(*users.Do(id, load, {.timeout = 50ms}));
//   } catch (const std::system_error& error) {
//     if (error.code() != std::errc::timed_out) throw;
//     if (error.code().category() == singleflight::Category()) {
//       ServeBusy();          // this caller's timeout passed
//     } else {
//       ServeDatabaseDown();  // `load` met a timeout of its own
//     }
//   }
//
// Each code is equivalent to a std::errc, and has its number. group.hpp lists them. So code that
// only compares with a std::errc need not know the category.

#include <string>
#include <system_error>

#include "detail/requirements.hpp"

namespace singleflight {

namespace detail {

class ErrorCategory final : public std::error_category {
 public:
  constexpr ErrorCategory() noexcept = default;

  const char* name() const noexcept override { return "singleflight"; }
  std::error_condition default_error_condition(int code) const noexcept override {
    return std::error_condition(code, std::generic_category());
  }
  std::string message(int code) const override {
    switch (static_cast<std::errc>(code)) {
      case std::errc::resource_deadlock_would_occur:
        return "the call waits, directly or through other calls, for this thread";
      case std::errc::timed_out:
        return "this caller's timeout passed before the call landed";
      case std::errc::operation_canceled:
        return "this caller, or its call, was asked to stop";
      case std::errc::resource_unavailable_try_again:
        return "the group refused this caller";
      case std::errc::owner_dead:
        return "the leader vanished without a result";
      default:
        return std::generic_category().message(code);
    }
  }
};

// Never destroyed, because an error may be read while the program exits.
union ImmortalCategory {
  constexpr ImmortalCategory() noexcept : category() {}
  ~ImmortalCategory() {}
  ErrorCategory category;
};

inline constinit ImmortalCategory error_category;

}  // namespace detail

// Returns the category of the library's own errors.
//
// Warning: shared libraries that do not share this header's variables have a category each. Errors
// from another one still compare equal to their std::errc.
inline const std::error_category& Category() noexcept { return detail::error_category.category; }

}  // namespace singleflight
