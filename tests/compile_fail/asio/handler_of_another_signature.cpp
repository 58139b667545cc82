// SPDX-License-Identifier: MIT
// error: the token must be a completion token for the signature

#include <singleflight/asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  AsyncDo(
      group, 1, [] { return 1; }, [](const singleflight::Result<int>&) {});
}
