// SPDX-License-Identifier: MIT
#pragma once

// FutureSource: what a Future waits for, if that is more than one call.

#include <future>
#include <memory>

#include "../result.hpp"
#include "event.hpp"

namespace singleflight::detail {

template <class Value>
class FutureSource {
 public:
  // Waits until the outcome is known. Throws if that would never be.
  virtual std::future_status Block(const Deadline& deadline) = 0;
  // Both are called once it is known. TakeShared may be called repeatedly.
  virtual Result<Value> Take() = 0;
  virtual Result<Value> TakeShared() = 0;
  // Leaves, and destroys this.
  virtual void Abandon() noexcept = 0;

  struct Abandons {
    void operator()(FutureSource* source) const noexcept { source->Abandon(); }
  };
  using Pointer = std::unique_ptr<FutureSource, Abandons>;

 protected:
  ~FutureSource() = default;
};

}  // namespace singleflight::detail
