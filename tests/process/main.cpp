// SPDX-License-Identifier: MIT

// usage: process_tests [SCENARIO]
//
// Runs every scenario, each in a process of its own, and prints how many finished as they should.
// With SCENARIO, runs only that one, in this process.

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <iostream>
#include <string>
#include <string_view>

#include "process.hpp"
#include "support/evidence.hpp"

namespace {

constexpr int kDeadlineSeconds = 30;  // far more than any needs, even under a sanitizer

// Returns true if the scenario finished as it should. Prints what happened.
bool Passes(const process::Scenario& scenario) {
  const pid_t child = fork();
  if (child == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execl("/proc/self/exe", "process_tests", scenario.name.c_str(), nullptr);
    _exit(98);
  }
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  const timespec deadline{.tv_sec = kDeadlineSeconds, .tv_nsec = 0};
  const bool in_time = sigtimedwait(&child_ended, nullptr, &deadline) == SIGCHLD;
  if (!in_time) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  const bool well =
      in_time && (scenario.end.signal != 0
                      ? WIFSIGNALED(status) && WTERMSIG(status) == scenario.end.signal
                      : WIFEXITED(status) && WEXITSTATUS(status) == scenario.end.exit_code);
  std::cout << (well ? "ok: " : "FAILED: ") << scenario.name << std::endl;
  if (!in_time) {
    std::cout << "  it hangs\n";
  } else if (!well) {
    std::cout << "  it finished with "
              << (WIFEXITED(status) ? "exit code " + std::to_string(WEXITSTATUS(status))
                                    : "signal " + std::to_string(WTERMSIG(status)))
              << '\n';
  }
  return well;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2) {
    for (const auto& scenario : process::Scenarios()) {
      if (scenario.name == std::string_view(argv[1])) {
        scenario.run();
        return 0;
      }
    }
    return 97;
  }
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_ended, nullptr);
  const std::size_t all = process::Scenarios().size();
  std::size_t well = 0;
  for (const auto& scenario : process::Scenarios()) well += Passes(scenario) ? 1 : 0;
  test::Evidence("process.scenarios", std::to_string(well) + '/' + std::to_string(all));
  return well == all && well > 0 ? 0 : 1;
}
