// SPDX-License-Identifier: MIT

// Compiled with SINGLEFLIGHT_OWN_STOP_TOKEN: every way of waiting takes the library's own tokens,
// even where the standard library has some.

#include <singleflight/singleflight.hpp>
#include <type_traits>

using singleflight::StopToken;

static_assert(std::is_same_v<StopToken, singleflight::detail::portable::StopToken>);

int Ask(singleflight::Group<int, int>& group, const StopToken& stop);
int Ask(singleflight::Group<int, int>& group, const StopToken& stop) {
  const auto fn = [](const StopToken& asked) { return asked.stop_requested() ? 0 : 1; };
  return *group.Do(1, fn, {.stop = stop}) + *singleflight::DoAsync(group, 2, fn).Get();
}
