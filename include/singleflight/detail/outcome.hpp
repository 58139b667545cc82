// SPDX-License-Identifier: MIT
#pragma once

// How a call landed, and how a caller's Result is made from that.

#include <exception>
#include <memory>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "../result.hpp"
#include "../value_traits.hpp"
#include "errors.hpp"

namespace singleflight::detail {

// How a Value is stored: as std::monostate if it is void.
template <class Value>
using Stored = std::conditional_t<std::is_void_v<Value>, std::monostate, Value>;

// How a call landed: with a value, with an exception, or with neither, if the leader vanished.
template <class Value>
class Outcome {
 public:
  using Stored = detail::Stored<Value>;

  Outcome() noexcept = default;  // vanished
  // Null: vanished.
  explicit Outcome(std::exception_ptr error) noexcept : error_(std::move(error)) {}
  template <class... Args>
  explicit Outcome(std::in_place_t, Args&&... args)
      : slot_(std::in_place, std::in_place, std::forward<Args>(args)...) {}

  template <class... Args>
  void SetValue(Args&&... args) {
    error_ = nullptr;
    slot_.emplace(std::in_place, std::forward<Args>(args)...);
  }
  // Makes the value where it stays, without a move, if `make` returns a Value.
  template <class Make>
  void SetValueFrom(Make&& make) {
    error_ = nullptr;
    slot_.emplace(FromMake(), std::forward<Make>(make));
  }
  void SetError(std::exception_ptr error) noexcept {
    slot_.reset();
    error_ = std::move(error);
  }

  bool Threw() const noexcept { return !slot_; }

  // Null if there is none.
  const Stored* value() const noexcept { return slot_ ? std::addressof(slot_->value) : nullptr; }
  Stored* value() noexcept { return slot_ ? std::addressof(slot_->value) : nullptr; }

  // Null if there is a value. Of a leader that vanished: `owner_dead`.
  std::exception_ptr Error() const noexcept {
    if (!Threw()) return nullptr;
    return error_ != nullptr ? error_ : detail::MakeOwnerDead();
  }

  // The exception as it was set: null also if the leader vanished.
  std::exception_ptr TakeError() noexcept { return std::exchange(error_, nullptr); }

 private:
  struct FromMake {};
  struct Slot {
    template <class... Args>
    explicit Slot(std::in_place_t, Args&&... args) : value(std::forward<Args>(args)...) {}
    template <class Make>
    Slot(FromMake, Make&& make) : value(std::forward<Make>(make)()) {}

    Stored value;
  };

  // At most one of them is there. (A std::variant would make the value elsewhere and move it, and
  // compilers do not inline how it is destroyed.)
  std::optional<Slot> slot_;
  std::exception_ptr error_;
};

// Whether a call landed with an exception, or with a value that says that it is a failure. A value
// that throws when it is asked counts as one.
template <class Value>
bool Failed(const Outcome<Value>& outcome) noexcept {
  if constexpr (kCanFail<Stored<Value>>) {
    try {
      if (const auto* value = outcome.value()) return singleflight::IsFailure(*value);
    } catch (...) {
      return true;
    }
  }
  return outcome.Threw();
}

struct ResultFactory {
  // Moves the value of a result that is not shared, also one that cannot be copied.
  //
  // Errors: throws `invalid_argument` if the result is shared, because others may read its value.
  template <class Value>
  static Value TakeAlone(Result<Value>&& result) {
    if (Value* alone = std::get_if<0>(&result.value_)) return std::move(*alone);
    detail::Throw(std::errc::invalid_argument,
                  "singleflight: a result is shared, and its value cannot be copied");
  }

  template <class Value>
  static Result<Value> Alone(Stored<Value>&& value, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(false, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  template <class Value>
  static Result<Value> Shared(std::shared_ptr<const Stored<Value>> value, Role role) noexcept {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(true, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  // A placeholder beside an error: there is nothing in it to read.
  template <class Value>
  static Result<Value> Empty(Role role) noexcept {
    return Shared<Value>(nullptr, role);
  }

  template <class Value>
  static Value TakeValue(Outcome<Value>& outcome) {
    if (outcome.Threw()) std::rethrow_exception(outcome.Error());
    return std::move(*outcome.value());
  }

  // Takes the value out, for the only caller of a call. Throws if the call threw.
  template <class Value>
  static Result<Value> Take(Outcome<Value>& outcome, Role role) {
    if (outcome.Threw()) std::rethrow_exception(outcome.Error());
    return Alone<Value>(std::move(*outcome.value()), role);
  }

  // The same result, corrected by a caller that knows who else received it.
  template <class Value>
  static Result<Value> As(Result<Value>&& result, bool shared, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(shared || result.shared(), role);
    } else {
      if (Value* const alone = std::get_if<0>(&result.value_)) {
        return shared ? Shared<Value>(std::make_shared<const Value>(std::move(*alone)), role)
                      : Alone<Value>(std::move(*alone), role);
      }
      return Shared<Value>(std::move(*std::get_if<1>(&result.value_)), role);
    }
  }
};

}  // namespace singleflight::detail
