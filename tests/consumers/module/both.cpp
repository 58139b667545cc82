// SPDX-License-Identifier: MIT

// The headers are included by users.hpp, before the import. What the module has is the same.

#include <string>

#include "../app/users.hpp"

import singleflight;

std::string AskBoth(UserGroup& users);

std::string AskBoth(UserGroup& users) {
  return *singleflight::DoAsync(users, "user:1", [] { return "Edsger"; }).Get();
}
