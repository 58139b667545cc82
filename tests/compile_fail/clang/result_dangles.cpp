// SPDX-License-Identifier: MIT
// error: will be destroyed at the end of the full-expression

#include <singleflight/group.hpp>
#include <string>

#pragma clang diagnostic error "-Wdangling"

std::size_t Use(singleflight::Group<int, std::string>& group) {
  const std::string& value = *group.Do(1, [] { return std::string("a value"); });
  return value.size();
}
