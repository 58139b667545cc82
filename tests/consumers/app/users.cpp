// SPDX-License-Identifier: MIT

#include "users.hpp"

#include <singleflight/singleflight.hpp>

UserGroup& Users() {
  static UserGroup users;
  return users;
}

std::uint64_t CountUser() {
  static_cast<void>(Users().Do("user:1", [] { return "Grace"; }));
  return Users().GetStats().executions;
}
