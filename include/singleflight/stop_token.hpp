// SPDX-License-Identifier: MIT
#pragma once

// StopToken, StopSource and StopCallback: how a caller is asked to leave, and work to stop.
//
//   singleflight::StopSource shutdown;
//   const auto load = [](singleflight::StopToken stop) { return LoadUnless(stop); };
//   users.Do(id, load, {.stop = shutdown.get_token()});
//   ...
//   shutdown.request_stop();  // on another thread: the caller leaves, and `load` is asked to stop
//
// StopToken and StopSource are std::stop_token and std::stop_source wherever the standard library
// has them, so use either name there. libstdc++ and Microsoft's library have them. libc++ has them
// since version 20, and in versions 18 and 19 only with -fexperimental-library. Elsewhere they are
// the library's own, with the same members and the same behaviour.
//
// **Warning:** with libc++ 18 or 19, compile either all files of a program with
// -fexperimental-library or none. Otherwise the same name means different types in two files.
//
// **Warning:** with MinGW's libstdc++ before GCC 16, the destructor of a std::stop_callback can
// hang if a stop is requested at that moment: the standard library loses a wake-up where it has no
// futex. So can a caller that leaves by its stop token. Define SINGLEFLIGHT_OWN_STOP_TOKEN there,
// in all files of a program. Then the three types are the library's own, which do not hang.

#include <version>

#include "detail/requirements.hpp"
#if defined(__cpp_lib_jthread) && !defined(SINGLEFLIGHT_OWN_STOP_TOKEN)
#include <stop_token>
#else
#include "detail/stop_token.hpp"
#endif

namespace singleflight {

#if defined(__cpp_lib_jthread) && !defined(SINGLEFLIGHT_OWN_STOP_TOKEN)

using StopToken = std::stop_token;
using StopSource = std::stop_source;

// The type of kNoStopState.
using NoStopState = std::nostopstate_t;

// A std::stop_callback. It is no alias, because Clang deduces Callback for aliases only since
// version 19.
template <class Callback>
class [[nodiscard]] StopCallback : public std::stop_callback<Callback> {
 public:
  using std::stop_callback<Callback>::stop_callback;
};
template <class Callback>
StopCallback(StopToken, Callback) -> StopCallback<Callback>;

#else

using detail::portable::NoStopState;
using detail::portable::StopCallback;
using detail::portable::StopSource;
using detail::portable::StopToken;

#endif

// Makes a StopSource that cannot request a stop and allocates nothing: StopSource(kNoStopState).
inline constexpr NoStopState kNoStopState{};

}  // namespace singleflight
