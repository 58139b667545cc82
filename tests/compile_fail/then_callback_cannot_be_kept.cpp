// SPDX-License-Identifier: MIT
// error: DoThen keeps callback: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/async.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto callback = [one = std::make_unique<int>(1)](const singleflight::KeyResult<int>&) {};
  const auto caller = singleflight::DoThen(
      group, 1, [] { return 1; }, callback);
}
