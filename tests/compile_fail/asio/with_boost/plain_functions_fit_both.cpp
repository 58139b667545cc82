// SPDX-License-Identifier: MIT
// says: ambiguous

#include <singleflight/asio.hpp>
#include <singleflight/boost_asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  AsyncDo(
      group, 1, [] { return 1; },
      [](const std::exception_ptr&, const singleflight::Result<int>&) {});
}
