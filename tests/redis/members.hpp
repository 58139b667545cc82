// SPDX-License-Identifier: MIT
#pragma once

// A RedisMember is a process with a redis::Group of its own (member.cpp). A test starts it, gives
// it orders, suspends it and kills it.
//
//   RedisMember leader("leader", server.Socket());
//   leader.Ask("key");
//   const MemberRun run = leader.AwaitRun("key");  // its `fn` has begun and waits
//   leader.Order("key", "return");
//   CHECK(leader.AwaitOutcome("key").value == "leader:key");
//   CHECK(leader.End() == "exit 0");

#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <list>
#include <ostream>
#include <singleflight/redis_options.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "proxy.hpp"
#include "support/support.hpp"

namespace test {

// Whatever takes longer hangs: nothing takes nearly as long, even on a busy machine.
inline constexpr std::chrono::seconds kRedisMemberWatch{60};

// Works like Await, but throws std::runtime_error for a hang.
template <class Condition>
void AwaitInTime(Condition&& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kRedisMemberWatch;
  Await([&] {
    if (condition()) return true;
    if (std::chrono::steady_clock::now() > deadline)
      throw std::runtime_error("the awaited condition does not become true");
    return false;
  });
}

struct RedisMemberOptions {
  std::chrono::milliseconds lease = 1h;  // outlasts any test, so it is never renewed
  std::chrono::milliseconds linger = 1h;
};

// A MemberRun reports that `fn` has begun in a member.
struct MemberRun {
  std::string token;
  std::uint64_t fence = 0;
};

// A MemberOutcome is what a caller in a member got.
struct MemberOutcome {
  std::string value;
  singleflight::Role role = singleflight::Role::kFollower;
  bool shared = false;
  std::string error;  // the exception's type and message; empty: none

  bool operator==(const MemberOutcome&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, const MemberOutcome& outcome) {
  return out << "{value " << outcome.value << ", " << outcome.role
             << (outcome.shared ? ", shared" : ", alone") << ", error " << outcome.error << "}";
}

// Only the thread that makes a RedisMember may use it. The process is killed when that thread
// exits. Functions that await a report throw std::runtime_error after kRedisMemberWatch, or at once
// if the process has finished.
class RedisMember {
 public:
  RedisMember(std::string name, const std::string& socket, RedisMemberOptions options = {})
      : RedisMember(std::move(name), socket, options, MakeSocketPair()) {}
  ~RedisMember() {
    if (pid_ > 0) Kill();
  }
  RedisMember(const RedisMember&) = delete;
  RedisMember& operator=(const RedisMember&) = delete;

  pid_t Pid() const { return pid_; }

  // Makes so many threads ask for the keys, which are separated by spaces, one after the other.
  void Ask(std::string_view keys, std::size_t threads = 1) {
    Send("ask " + std::to_string(threads) + ' ' + std::string(keys));
  }
  // Says what `fn` does for `key`, or for all keys without an order of their own if it is "*": see
  // member.cpp. Until then `fn` waits. Does nothing if the process has finished.
  void Order(std::string_view key, std::string_view what) {
    Send("order " + std::string(key) + ' ' + std::string(what));
  }

  // ---- The cache: see member.cpp

  void MakeCache(std::chrono::milliseconds ttl, std::chrono::milliseconds local = {}) {
    Send("cache " + std::to_string(ttl.count()) + ' ' + std::to_string(local.count()));
  }
  void Command(std::string_view line) { Send(std::string(line)); }
  // Returns what a report says after its kind and key.
  std::string AwaitReport(std::string_view kind, std::string_view key = "-") {
    return Await(kind, key);
  }
  // Returns the next report of that kind: its key, and what it says.
  std::pair<std::string, std::string> AwaitAny(std::string_view kind) {
    Line line = AwaitLine([&](const Line& each) { return each.kind == kind; });
    return {std::move(line.key), std::move(line.rest)};
  }

  // Each report is returned once.
  MemberRun AwaitRun(std::string_view key) {
    std::istringstream words(Await("running", key));
    MemberRun run;
    words >> run.token >> run.fence;
    return run;
  }
  MemberOutcome AwaitOutcome(std::string_view key) {
    const auto line = AwaitLine([&](const Line& report) {
      return (report.kind == "landed" || report.kind == "failed") && report.key == key;
    });
    if (line.kind == "failed") return {.value = {}, .error = line.rest};
    std::istringstream words(line.rest);
    std::string role, shared, value;
    words >> role >> shared >> value;
    return {.value = value,
            .role = role == "leader" ? singleflight::Role::kLeader : singleflight::Role::kFollower,
            .shared = shared == "shared",
            .error = {}};
  }
  // Returns what Do and Forget throw in a forked child, and the child's exit status.
  std::string AwaitFork(std::string_view key) {
    Send("fork " + std::string(key));
    const std::string errors = Await("child", key);
    return errors + ", status " + Await("forked", key);
  }

  std::size_t Callers(std::string_view key) {
    Send("callers " + std::string(key));
    return std::stoul(Await("callers", key));
  }
  singleflight::redis::Stats GetStats() {
    Send("stats");
    std::istringstream words(Await("stats", "-"));
    singleflight::redis::Stats stats;
    words >> stats.executions >> stats.remote >> stats.takeovers >> stats.unpublished >>
        stats.untold >> stats.told_to_run >> stats.failed_renewals >> stats.lost_leases >>
        stats.undecodable >> stats.outages >> stats.calls.executions >> stats.calls.followers >>
        stats.calls.failures >> stats.calls.left >> stats.calls.refused >> stats.calls.in_flight;
    return stats;
  }

  // Suspends the process. Returns when none of its threads runs any more.
  void Stop() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void Continue() { ::kill(pid_, SIGCONT); }
  void Kill() {
    ::kill(pid_, SIGKILL);
    AwaitEnd();
  }

  // Makes the process exit when all its callers have their results. Returns what AwaitEnd does.
  std::string End() {
    Send("end");
    return AwaitEnd();
  }
  // Waits until the process finishes, and returns "exit CODE" or "signal NUMBER". Its earlier
  // reports can still be read.
  std::string AwaitEnd() {
    while (ReadMore()) {
    }
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? "exit " + std::to_string(WEXITSTATUS(status))
                             : "signal " + std::to_string(WTERMSIG(status));
  }
  // Returns true if the process reports an outcome, and false if it finishes before that.
  bool AwaitOutcomeOrEnd() {
    do {
      if (std::ranges::any_of(lines_, [](const Line& line) { return line.kind == "landed"; })) {
        return true;
      }
    } while (ReadMore());
    return false;
  }
  // Returns how many reports of a kind have been read but not returned yet.
  std::size_t Unread(std::string_view kind) const {
    return static_cast<std::size_t>(
        std::ranges::count(lines_, kind, [](const Line& line) { return line.kind; }));
  }

 private:
  struct Line {
    std::string kind, key, rest;
  };

  // Returns the two ends of a connection between the test and the process.
  static std::array<int, 2> MakeSocketPair() {
    std::array<int, 2> ends;
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw std::system_error(errno, std::generic_category(), "socketpair");
    }
    return ends;
  }

  RedisMember(std::string name, const std::string& socket, RedisMemberOptions options,
              const std::array<int, 2>& ends)
      : name_(std::move(name)), file_(ends[0]) {
    const UniqueFd theirs(ends[1]);
    std::vector<std::string> words = {TEST_REDIS_MEMBER, name_, socket,
                                      std::to_string(options.lease.count()),
                                      std::to_string(options.linger.count())};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, *theirs, STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, *theirs, STDOUT_FILENO);
    ::posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    const int error = ::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::system_error(error, std::generic_category(), TEST_REDIS_MEMBER);
  }

  void Send(std::string line) {
    line += '\n';
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t sent = ::send(*file_, rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent < 0) return;  // the process has finished, as the next awaited report will show
      rest.remove_prefix(static_cast<std::size_t>(sent));
    }
  }

  std::string Await(std::string_view kind, std::string_view key) {
    return AwaitLine([&](const Line& line) { return line.kind == kind && line.key == key; }).rest;
  }

  template <class Predicate>
  Line AwaitLine(Predicate predicate) {
    for (auto line = lines_.begin();;) {
      const auto found = std::find_if(line, lines_.end(), predicate);
      if (found != lines_.end()) {
        Line given = std::move(*found);
        lines_.erase(found);
        return given;
      }
      if (!ReadMore()) throw std::runtime_error(name_ + " has finished");
      line = lines_.begin();
    }
  }

  // Returns false if there is nothing more to read.
  bool ReadMore() {
    pollfd file{*file_, POLLIN, 0};
    const std::chrono::milliseconds watch = kRedisMemberWatch;
    if (::poll(&file, 1, static_cast<int>(watch.count())) <= 0)
      throw std::runtime_error(name_ + " hangs");
    char buffer[65536];
    const ssize_t size = ::read(*file_, buffer, sizeof(buffer));
    if (size <= 0) return false;
    input_.append(buffer, static_cast<std::size_t>(size));
    std::size_t begin = 0;
    for (std::size_t end; (end = input_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::istringstream words(input_.substr(begin, end - begin));
      Line line;
      words >> line.kind >> line.key >> std::ws;
      std::getline(words, line.rest);
      lines_.push_back(std::move(line));
    }
    input_.erase(0, begin);
    return true;
  }

  const std::string name_;
  const UniqueFd file_;
  pid_t pid_ = 0;
  std::string input_;      // an incomplete line
  std::list<Line> lines_;  // reports that were not returned yet
};

}  // namespace test
