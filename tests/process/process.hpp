// SPDX-License-Identifier: MIT
#pragma once

// Scenarios that need a process of their own: one that forks, exits with calls in flight, is
// flooded with signals or runs out of memory. main.cpp runs each in a fresh process, with a
// deadline, and looks at how that ended.

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <singleflight/singleflight.hpp>
#include <string>
#include <utility>
#include <vector>

#include "sanitizers/sanitizers.hpp"
#include "support/support.hpp"

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

// Runs `body` in a forked child; true if it came to its end, in time.
template <class Body>
bool InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace process
