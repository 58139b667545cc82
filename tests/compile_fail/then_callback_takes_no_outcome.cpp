// SPDX-License-Identifier: MIT
// error: callback must be callable as callback(KeyResult<Value>)

#include <singleflight/async.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto callback = [](const singleflight::Result<int>&) {};
  const auto caller = singleflight::DoThen(
      group, 1, [] { return 1; }, callback);
}
