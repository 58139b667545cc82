// SPDX-License-Identifier: MIT
#pragma once

// Scenarios that need a process of their own: one that forks, exits with calls in flight, is
// flooded with signals or runs out of memory. main.cpp runs each in a fresh process, with a
// deadline, and looks at how that ended.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <singleflight/singleflight.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support.hpp"

#if defined(__SANITIZE_THREAD__)
#define UNDER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_THREAD_SANITIZER 1
#endif
#endif
#if defined(UNDER_THREAD_SANITIZER) || defined(__SANITIZE_ADDRESS__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif

namespace process {

// How the process is to end.
struct End {
  int exit_code = 0;
  int signal = 0;  // if not 0: killed by it
};

struct Scenario {
  std::string name;  // a sentence
  std::function<void()> run;
  End end;
};

// Of all files here.
inline std::vector<Scenario>& Scenarios() {
  static std::vector<Scenario> scenarios;
  return scenarios;
}

struct Add {
  Add(std::string name, std::function<void()> run, End end = {}) {
    Scenarios().push_back({std::move(name), std::move(run), end});
  }
};

// Ends the process at once if something does not hold.
#define MUST(condition)                                                                   \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      _exit(99);                                                                          \
    }                                                                                     \
  } while (false)

}  // namespace process
