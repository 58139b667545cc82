// SPDX-License-Identifier: MIT
// error: a StopCallback needs something that can be called without arguments

#include <singleflight/detail/stop_token.hpp>

int main() {
  singleflight::detail::portable::StopSource source;
  const singleflight::detail::portable::StopCallback callback(source.get_token(), [](int) {});
}
