// SPDX-License-Identifier: MIT
#pragma once

// The errors that the library itself reports.

#include <exception>
#include <system_error>

namespace singleflight::detail {

// Makes a std::system_error, or a std::bad_alloc if there is no memory for the text.
inline std::exception_ptr MakeError(std::errc code, const char* what) noexcept {
  try {
    return std::make_exception_ptr(std::system_error(std::make_error_code(code), what));
  } catch (...) {
    return std::current_exception();
  }
}
inline std::exception_ptr MakeCanceled() {
  return MakeError(std::errc::operation_canceled, "singleflight: this caller was asked to stop");
}
inline std::exception_ptr MakeTimedOut() {
  return MakeError(std::errc::timed_out,
                   "singleflight: the call took longer than this caller would wait");
}
inline std::exception_ptr MakeDeadlock() {
  return MakeError(std::errc::resource_deadlock_would_occur,
                   "singleflight: the call for this key waits for this thread");
}
inline std::exception_ptr MakeOwnerDead() {
  return MakeError(std::errc::owner_dead, "singleflight: the leader vanished without a result");
}

[[noreturn]] inline void Throw(std::errc code, const char* what) {
  throw std::system_error(std::make_error_code(code), what);
}

// Returns what was thrown. Call it in a catch (...) only. A forced unwind (the thread is being
// cancelled) cannot be kept as an exception_ptr, so it is thrown on.
inline std::exception_ptr Caught() {
  std::exception_ptr error = std::current_exception();
  if (error == nullptr) throw;
  return error;
}

}  // namespace singleflight::detail
