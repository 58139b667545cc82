// SPDX-License-Identifier: MIT

// An exception that escapes a callback of DoThen terminates the program: nobody could catch it.

#include <exception>
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

}  // namespace
