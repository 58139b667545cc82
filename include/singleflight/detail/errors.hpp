// SPDX-License-Identifier: MIT
#pragma once

#include <exception>
#include <system_error>

namespace singleflight::detail {

// The library's own errors. Where there is no memory for the text, a std::bad_alloc instead.
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
// In a catch (...): what was thrown. A forced unwind (the thread is cancelled) cannot be kept: it
// goes on.
inline std::exception_ptr Caught() {
  std::exception_ptr error = std::current_exception();
  if (error == nullptr) throw;
  return error;
}
[[noreturn]] inline void Throw(std::errc code, const char* what) {
  throw std::system_error(std::make_error_code(code), what);
}

}  // namespace singleflight::detail
