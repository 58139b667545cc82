// SPDX-License-Identifier: MIT

// A user's program of two source files that share a group.

#include <cstdlib>
#include <singleflight/singleflight.hpp>

#include "users.hpp"

int main() {
  auto [name, shared] = Users().Do("user:42", [] { return std::string("Ada"); });
  const bool works = name == "Ada" && !shared && CountUser() == 2 && CountBatchLetters() == 12;
  return works ? EXIT_SUCCESS : EXIT_FAILURE;
}
