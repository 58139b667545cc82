// SPDX-License-Identifier: MIT
#pragma once

// CallInfo: what Group::Inspect and ReadThrough::Inspect say about one call in flight.
//
//   for (const auto& call : users.Inspect()) {
//     page << call.key << ": " << call.callers << (call.forgotten ? " (forgotten)\n" : "\n");
//   }

#include <chrono>
#include <cstddef>
#include <optional>

#include "detail/requirements.hpp"

namespace singleflight {

template <class Key>
struct CallInfo {
  Key key;
  std::size_t callers;  // as Group::Callers: those that have not left, the leader included
  bool forgotten;       // no newcomer joins it: it was forgotten, cancelled, or asked to stop
  // When it began. Empty unless the group has GroupOptions::timed or a max_age.
  std::optional<std::chrono::steady_clock::time_point> since;
};

}  // namespace singleflight
