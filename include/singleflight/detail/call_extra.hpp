// SPDX-License-Identifier: MIT
#pragma once

namespace singleflight::detail {

// What each call that is led asynchronously carries besides, for the class that a group is part of.
struct NoCallExtra {};
template <class Traits>
struct CallExtraOf {
  using Type = NoCallExtra;
};
template <class Traits>
requires requires { typename Traits::CallExtra; }
struct CallExtraOf<Traits> {
  using Type = typename Traits::CallExtra;
};

}  // namespace singleflight::detail
