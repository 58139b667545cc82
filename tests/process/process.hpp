// SPDX-License-Identifier: MIT
#pragma once

// These scenarios need a process of their own: they fork, exit with calls in flight, are flooded
// with signals or run out of memory. main.cpp runs each in a new process, with a deadline, and
// checks how that process finished.

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

// How the process should finish.
struct End {
  int exit_code = 0;
  int signal = 0;  // not 0: the signal that kills it
};

struct Scenario {
  std::string name;  // a sentence
  std::function<void()> run;
  End end;
};

// Returns the scenarios of all files in this folder.
inline std::vector<Scenario>& Scenarios() {
  static std::vector<Scenario> scenarios;
  return scenarios;
}

struct Add {
  Add(std::string name, std::function<void()> run, End end = {}) {
    Scenarios().push_back({std::move(name), std::move(run), end});
  }
};

// Exits at once if `condition` does not hold.
#define MUST(condition)                                                                   \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      _exit(99);                                                                          \
    }                                                                                     \
  } while (false)

// Runs `body` in a forked child. Returns true if it finished well, and prints how it finished
// otherwise. If it hangs, so does the scenario, and main.cpp shows where.
template <class Body>
bool InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  const bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!well) std::fprintf(stderr, "a child finished with wait status %#x\n", status);
  return well;
}

}  // namespace process
