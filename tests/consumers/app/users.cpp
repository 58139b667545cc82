// SPDX-License-Identifier: MIT

#include "users.hpp"

#include <singleflight/singleflight.hpp>
#include <span>
#include <vector>

UserGroup& Users() {
  static UserGroup users;
  return users;
}

std::uint64_t CountUser() {
  static_cast<void>(Users().Do("user:1", [] { return "Grace"; }));
  return Users().GetStats().executions;
}

std::size_t CountBatchLetters() {
  std::size_t letters = 0;
  const auto load = [](std::span<const std::string> keys) {
    return std::vector<std::string>(keys.begin(), keys.end());
  };
  for (const auto& user : singleflight::DoMany(Users(), {"Ada", "Grace"}, load)) {
    if (user) letters += user->size();
  }
  for (const auto& user : singleflight::DoMany(Users(), std::vector{"Alan"}, [](auto keys) {
         return std::vector<std::string>(keys.begin(), keys.end());
       })) {
    letters += user->size();
  }
  return letters;
}
