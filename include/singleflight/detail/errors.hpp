// SPDX-License-Identifier: MIT
#pragma once

// How the errors that the library itself reports are made.

#include <exception>
#include <system_error>

#include "../errors.hpp"

namespace singleflight::detail {

inline std::error_code CodeOf(std::errc code) noexcept {
  return std::error_code(static_cast<int>(code), Category());
}

// Makes a std::system_error, or a std::bad_alloc if there is no memory for the text.
inline std::exception_ptr MakeError(std::errc code, const char* what = "singleflight") noexcept {
  try {
    return std::make_exception_ptr(std::system_error(detail::CodeOf(code), what));
  } catch (...) {
    return std::current_exception();
  }
}
inline std::exception_ptr MakeCanceled() noexcept {
  return detail::MakeError(std::errc::operation_canceled);
}
inline std::exception_ptr MakeCallCanceled() noexcept {
  return detail::MakeError(std::errc::operation_canceled, "singleflight: the call was cancelled");
}
inline std::exception_ptr MakeTimedOut() noexcept {
  return detail::MakeError(std::errc::timed_out);
}
inline std::exception_ptr MakeDeadlock() noexcept {
  return detail::MakeError(std::errc::resource_deadlock_would_occur);
}
inline std::exception_ptr MakeOwnerDead() noexcept {
  return detail::MakeError(std::errc::owner_dead);
}

[[noreturn]] inline void Throw(std::errc code, const char* what) {
  throw std::system_error(detail::CodeOf(code), what);
}

// Returns what was thrown. Call it in a catch (...) only. A forced unwind (the thread is being
// cancelled) cannot be kept as an exception_ptr, so it is thrown on.
inline std::exception_ptr Caught() {
  std::exception_ptr error = std::current_exception();
  if (error == nullptr) throw;
  return error;
}

}  // namespace singleflight::detail
