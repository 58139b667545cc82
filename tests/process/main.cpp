// SPDX-License-Identifier: MIT

// usage: process_tests [SCENARIO]
//
// Runs every scenario, each in a process of its own, and prints how many finished as they should.
// With SCENARIO, runs only that one, in this process.

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>

#include "process.hpp"
#include "support/evidence.hpp"

namespace {

constexpr std::chrono::seconds kDeadline{60};  // far more than any needs, even under a sanitizer

// Waits for the signal that a child has ended. False: it did not come in time.
bool ChildEnds() {
  using Clock = std::chrono::steady_clock;
  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  const auto deadline = Clock::now() + kDeadline;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::seconds>(deadline - Clock::now());
    if (left.count() <= 0) return false;
    const timespec timeout{.tv_sec = left.count(), .tv_nsec = 0};
    if (sigtimedwait(&child_ended, nullptr, &timeout) == SIGCHLD) return true;
    if (errno != EINTR) return false;  // a process that was frozen and continues sees EINTR
  }
}

// Prints where the threads of a process group are: the line of `syscall` begins with the number of
// the system call and ends with the program counter (proc_pid_syscall(5)).
void PrintThreads(std::ostream& out, pid_t group) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const std::string name = process.path().filename();
    if (name.find_first_not_of("0123456789") != name.npos) continue;
    if (getpgid(std::stoi(name)) != group) continue;
    out << "  process " << name << '\n';
    for (const auto& thread : fs::directory_iterator(process.path() / "task", ignored)) {
      std::string where;
      std::getline(std::ifstream(thread.path() / "syscall"), where);
      out << "    thread " << thread.path().filename().string() << ": " << where << '\n';
    }
    std::string map;
    for (std::ifstream maps(process.path() / "maps"); std::getline(maps, map);) {
      if (map.find(" r-xp ") != map.npos) out << "    " << map << '\n';
    }
  }
}

// Returns true if the scenario finished as it should. Writes to `report` if it did not.
bool Passes(std::ostream& report, const process::Scenario& scenario) {
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);  // so that its own children end with it
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execl("/proc/self/exe", "process_tests", scenario.name.c_str(), nullptr);
    _exit(98);
  }
  const bool in_time = ChildEnds();
  std::ostringstream threads;
  if (!in_time) PrintThreads(threads, child);
  kill(-child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  const bool well =
      in_time && (scenario.end.signal != 0
                      ? WIFSIGNALED(status) && WTERMSIG(status) == scenario.end.signal
                      : WIFEXITED(status) && WEXITSTATUS(status) == scenario.end.exit_code);
  std::cout << (well ? "ok: " : "FAILED: ") << scenario.name << std::endl;
  if (!well) report << "FAILED: " << scenario.name << '\n';
  if (!in_time) {
    report << "  it hangs\n" << threads.str();
  } else if (!well) {
    report << "  it finished with "
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
  std::ostringstream report;  // printed last, where a long log is read first
  for (const auto& scenario : process::Scenarios()) well += Passes(report, scenario) ? 1 : 0;
  std::cout << report.str();
  test::Evidence("process.scenarios", std::to_string(well) + '/' + std::to_string(all));
  return well == all && well > 0 ? 0 : 1;
}
