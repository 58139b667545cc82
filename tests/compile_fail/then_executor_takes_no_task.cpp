// SPDX-License-Identifier: MIT
// error: executor must be callable as executor(task)

#include <singleflight/async.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto callback = [](const singleflight::KeyResult<int>&) {};
  const auto executor = [](int) {};
  const auto caller = singleflight::DoThen(
      group, 1, [] { return 1; }, executor, callback);
}
