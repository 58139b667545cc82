// SPDX-License-Identifier: MIT
#pragma once

// FunctionRef: a reference to something that can be called, without its type, like the
// std::function_ref of C++26. A function that takes one is compiled once, and not again for each
// lambda that it is given.
//
// Lifetime: it does not keep what it refers to. Take one as a parameter only.

#include <utility>

namespace singleflight::detail {

template <class Signature>
class FunctionRef;

template <class Returned, class... Args>
class FunctionRef<Returned(Args...)> {
 public:
  template <class F>
  FunctionRef(const F& function) noexcept  // NOLINT(google-explicit-constructor)
      : function_(&function), call_([](const void* its_function, Args... args) -> Returned {
          return (*static_cast<const F*>(its_function))(std::forward<Args>(args)...);
        }) {}

  Returned operator()(Args... args) const { return call_(function_, std::forward<Args>(args)...); }

 private:
  const void* function_;
  Returned (*call_)(const void*, Args...);
};

}  // namespace singleflight::detail
