// SPDX-License-Identifier: MIT

// An exception that escapes a callback of DoThen or of a StopCallback terminates the program:
// nobody could catch it.

#include <exception>
#include <singleflight/detail/stop_token.hpp>
#include <stdexcept>

#include "process.hpp"

using singleflight::DoThen;
using singleflight::Group;
using singleflight::KeyResult;

namespace {

const process::Add throws("a callback of DoThen that throws terminates the program",
                          [] {
                            std::set_terminate([] { _exit(12); });
                            Group<int, int> group;
                            try {
                              const auto caller = DoThen(
                                  group, 1, [] { return 1; }, [](const auto& task) { task(); },
                                  [](const KeyResult<int>&) {
                                    throw std::runtime_error("nobody catches this");
                                  });
                            } catch (...) {
                              _exit(13);
                            }
                          },
                          {.exit_code = 12});

// Throws in a callback, when the stop is requested or while the callback is constructed.
template <class Source, template <class> class Callback>
void ThrowInCallback(bool requested_before) {
  std::set_terminate([] { _exit(12); });
  Source source;
  if (requested_before) source.request_stop();
  try {
    const Callback callback(source.get_token(), [] { throw std::runtime_error("not caught"); });
    source.request_stop();
  } catch (...) {
    _exit(13);
  }
}

const process::Add requested(
    "a StopCallback that throws terminates the program",
    [] { ThrowInCallback<singleflight::StopSource, singleflight::StopCallback>(false); },
    {.exit_code = 12});
const process::Add constructed(
    "a StopCallback that throws in its constructor terminates the program",
    [] { ThrowInCallback<singleflight::StopSource, singleflight::StopCallback>(true); },
    {.exit_code = 12});

namespace own = singleflight::detail::portable;
const process::Add own_requested(
    "a StopCallback of the library's own that throws terminates the program",
    [] { ThrowInCallback<own::StopSource, own::StopCallback>(false); }, {.exit_code = 12});
const process::Add own_constructed(
    "a StopCallback of the library's own that throws in its constructor terminates the program",
    [] { ThrowInCallback<own::StopSource, own::StopCallback>(true); }, {.exit_code = 12});

}  // namespace
