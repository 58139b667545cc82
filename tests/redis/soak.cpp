// SPDX-License-Identifier: MIT

// Eight processes ask for the same few keys by every way of waiting, for SOAK_SECONDS (default:
// 30). A proxy delays and cuts their connections, and the server stops, goes on and restarts
// without its memory, at random. SOAK_SEED repeats a run's mishaps. In between, all is left in
// peace for a while. Then the history is checked: see soak_history.hpp.
//
// If a caller waits for 20 seconds, this prints who waits for what, and what each process's client
// says about its server.

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <latch>
#include <new>
#include <random>
#include <singleflight/async.hpp>
#include <singleflight/coro.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "proxy.hpp"
#include "server.hpp"
#include "soak_history.hpp"
#include "support/threads.hpp"

namespace {

using namespace soak;
using namespace std::chrono_literals;
using test::JoiningThread;
namespace redis = singleflight::redis;

constexpr std::size_t kProcesses = 8, kCoroutines = 10;
constexpr std::uint8_t kKeys = 4, kForgottenKey = 3;
constexpr auto kLease = 1000ms, kLinger = 400ms;
constexpr Time kHang = 20'000'000'000;

// In shared memory.
struct Shared {
  explicit Shared(std::size_t seconds) : history(seconds) {}

  History history;
  char socket[200] = "";
  std::atomic<bool> begins = false, ends = false, hangs = false;
  std::atomic<std::uint64_t> remote = 0, takeovers = 0, outages = 0, lost = 0, unpublished = 0;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  int Below(int end) { return std::uniform_int_distribution(0, end - 1)(engine_); }

 private:
  std::mt19937_64 engine_;
};

void Sleep(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

// A value says which execution has made it, for which key: text for a page, a number for a number.
std::string TextFor(Type type, std::uint8_t key, std::size_t execution) {
  return (type == Type::kPage ? "page " : "number ") + std::to_string(key) + ' ' +
         std::to_string(execution);
}
template <class Value>
Value ValueFor(std::uint8_t key, std::size_t execution) {
  if constexpr (std::is_same_v<Value, std::string>) {
    return TextFor(Type::kPage, key, execution);
  } else {
    return static_cast<Value>(execution * 2 * kKeys + 2U * key + 1);
  }
}

// Notes what has come of an ask.
class Outcomes {
 public:
  Outcomes(Shared& shared, std::size_t process) : shared_(shared), process_(process) {}

  Ask* Begin(Type type, std::uint8_t key, Way way) {
    Ask* const ask = shared_.history.asks.Add();
    if (ask == nullptr) return nullptr;
    ask->process = static_cast<std::uint8_t>(process_);
    ask->type = type;
    ask->key = key;
    ask->way = way;
    ask->asked = Now();
    return ask;
  }
  // `get()` asks, or returns or throws what the caller has got.
  template <class Get>
  void End(Ask& ask, const Get& get) noexcept {
    Outcome outcome = Outcome::kWrong;
    try {
      const auto value = get();
      ask.answered = Now();
      outcome = Parse(value, ask) ? Outcome::kValue : Outcome::kWrong;
    } catch (const std::system_error& error) {
      ask.answered = Now();
      const bool has_left =
          error.code() == std::errc::timed_out || error.code() == std::errc::operation_canceled;
      outcome = has_left ? Outcome::kLeft : Outcome::kWrong;
      if (!has_left) std::cout << "an ask failed: " << error.what() << std::endl;
    } catch (const std::exception& error) {
      ask.answered = Now();
      outcome = Parse(std::string(error.what()), ask) ? Outcome::kFailure : Outcome::kWrong;
    }
    if (outcome == Outcome::kValue || outcome == Outcome::kFailure) NoteReturn(ask);
    ask.outcome = outcome;
  }

 private:
  static bool Parse(const std::string& text, Ask& ask) {
    char type[8] = "";
    unsigned key = 0, execution = 0;
    if (std::sscanf(text.c_str(), "%7s %u %u", type, &key, &execution) != 3) return false;
    ask.execution = execution;
    return text == TextFor(ask.type, ask.key, execution);
  }
  static bool Parse(std::int64_t value, Ask& ask) {
    ask.execution = static_cast<std::uint32_t>(value / (2 * kKeys));
    return value == ValueFor<std::int64_t>(ask.key, ask.execution);
  }

  void NoteReturn(const Ask& ask) {
    if (ask.execution >= shared_.history.executions.Size()) return;
    Execution& of = shared_.history.executions[ask.execution];
    if (of.process != process_) return;
    Time first = of.first_return;
    while ((first == 0 || ask.answered < first) &&
           !of.first_return.compare_exchange_weak(first, ask.answered)) {
    }
  }

  Shared& shared_;
  const std::size_t process_;
};

// A coroutine that starts at once and destroys itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// The callers of one process for values of one type.
template <class Value>
class Callers {
  static constexpr Type kType = std::is_same_v<Value, std::string> ? Type::kPage : Type::kNumber;

 public:
  Callers(Shared& shared, std::size_t process, redis::Client& client, std::uint64_t seed)
      : shared_(shared),
        process_(process),
        seed_(seed),
        outcomes_(shared, process),
        group_(client, kType == Type::kPage ? "soak:pages" : "soak:numbers",
               {.lease = kLease, .linger = kLinger}) {}

  void Run() {
    std::latch coroutines(kCoroutines);
    for (std::size_t i = 0; i < kCoroutines; ++i) AskByCoroutine(seed_ + i, coroutines);
    {
      std::vector<JoiningThread> threads;
      for (const Way way : {Way::kDo, Way::kDoInTime, Way::kDoAsync, Way::kDoMany}) {
        threads.emplace_back([this, way] { AskByThread(way); });
      }
    }
    coroutines.wait();
    const redis::Stats stats = group_.GetStats();
    shared_.remote += stats.remote;
    shared_.takeovers += stats.takeovers;
    shared_.outages += stats.outages;
    shared_.lost += stats.lost_leases;
    shared_.unpublished += stats.unpublished;
  }

  void Describe(std::string& text) const {
    for (std::uint8_t key = 0; key < kKeys; ++key) {
      text += "  callers for key " + std::to_string(key) + ": " +
              std::to_string(group_.Callers(std::to_string(key))) + '\n';
    }
    text += "  last outage: " + group_.LastOutage() + '\n';
  }

 private:
  bool Goes() const { return !shared_.ends && !shared_.history.executions.IsFull(); }

  // The work. Now and then it fails.
  Value Execute(std::uint8_t key, int milliseconds, const singleflight::StopToken* stop = nullptr) {
    Execution* const execution = shared_.history.executions.Add();
    if (execution == nullptr) throw std::runtime_error("full");
    execution->process = static_cast<std::uint8_t>(process_);
    execution->type = kType;
    execution->key = key;
    execution->began = Now();
    for (int i = 0; i < milliseconds && (stop == nullptr || !stop->stop_requested()); ++i) Sleep(1);
    if (stop != nullptr && stop->stop_requested()) execution->asked_to_stop = true;
    execution->ended = Now();
    const std::size_t number = shared_.history.executions.IndexOf(*execution);
    if (number % 16 == 0) throw std::runtime_error(TextFor(kType, key, number));
    return ValueFor<Value>(key, number);
  }

  void AskByThread(Way way) {
    Random random(seed_ + 100 + static_cast<std::size_t>(way));
    while (Goes()) {
      if (way == Way::kDoMany) {
        AskForMany(random);
      } else {
        const auto key = static_cast<std::uint8_t>(random.Below(kKeys));
        Ask* const ask = outcomes_.Begin(kType, key, way);
        if (ask == nullptr) return;
        outcomes_.End(*ask, [&] { return AskOnce(way, key, random); });
        if (key == kForgottenKey && random.Below(4) == 0) group_.Forget(std::to_string(key));
      }
      Sleep(random.Below(5));
    }
  }

  Value AskOnce(Way way, std::uint8_t key, Random& random) {
    const std::string name = std::to_string(key);
    const int milliseconds = random.Below(30);
    const auto fn = [this, key, milliseconds] { return Execute(key, milliseconds); };
    if (way == Way::kDoAsync) return singleflight::DoAsync(group_, name, fn).Get().value();
    if (way == Way::kDo) return group_.Do(name, fn).value();
    const auto stoppable = [this, key, milliseconds](singleflight::StopToken stop) {
      return Execute(key, milliseconds, &stop);
    };
    const auto timeout = std::chrono::milliseconds(random.Below(60));
    return group_.Do(name, stoppable, {.timeout = timeout}).value();
  }

  void AskForMany(Random& random) {
    std::vector<std::string> names;
    std::vector<Ask*> asks;
    for (std::uint8_t key = 0; key < kKeys; ++key) {
      if (random.Below(2) == 0) continue;
      asks.push_back(outcomes_.Begin(kType, key, Way::kDoMany));
      if (asks.back() == nullptr) return;
      names.push_back(std::to_string(key));
    }
    const int milliseconds = random.Below(10);
    const auto fn = [&](std::span<const std::string> missing) {
      std::vector<singleflight::KeyResult<Value>> values;
      for (const std::string& name : missing) {
        try {
          const auto key = static_cast<std::uint8_t>(std::stoi(name));
          values.emplace_back(Execute(key, milliseconds));
        } catch (...) {
          values.push_back(singleflight::KeyResult<Value>::Failure(std::current_exception()));
        }
      }
      return values;
    };
    const auto results = singleflight::DoMany(group_, names, fn);
    for (std::size_t i = 0; i < asks.size(); ++i) {
      outcomes_.End(*asks[i], [&] { return results[i].value(); });
    }
  }

  Detached AskByCoroutine(std::uint64_t seed, std::latch& done) {
    Random random(seed);
    while (Goes()) {
      const auto key = static_cast<std::uint8_t>(random.Below(kKeys));
      Ask* const ask = outcomes_.Begin(kType, key, Way::kCoDo);
      if (ask == nullptr) break;
      const std::string name = std::to_string(key);
      const auto fn = [this, key, milliseconds = 1 + random.Below(20)] {
        return Execute(key, milliseconds);
      };
      std::optional<Value> value;
      std::exception_ptr error;
      try {
        value = *co_await singleflight::CoDo(group_, name, fn);
      } catch (...) {
        error = std::current_exception();
      }
      outcomes_.End(*ask, [&] {
        if (error != nullptr) std::rethrow_exception(error);
        return *value;
      });
    }
    done.count_down();
  }

  Shared& shared_;
  const std::size_t process_;
  const std::uint64_t seed_;
  Outcomes outcomes_;
  redis::Group<Value> group_;
};

// One process. A thread of it notes when the machine has not run it, and answers if all hangs.
void RunProcess(Shared& shared, std::size_t process, std::uint64_t seed) {
  while (!shared.begins) Sleep(1);
  redis::Client client(
      {.unix_socket = shared.socket, .connect_timeout = 200ms, .command_timeout = 300ms});
  Callers<std::string> pages(shared, process, client, seed);
  Callers<std::int64_t> numbers(shared, process, client, seed + 1000);
  std::atomic<bool> done = false;
  JoiningThread observer([&] {
    for (bool said = false; !done;) {
      const Time before = Now();
      Sleep(20);
      if (const Time after = Now(); after - before > 200'000'000) {
        if (Mishap* const stall = shared.history.mishaps.Add()) {
          stall->begin = before;
          stall->end = after;
        }
      }
      if (!shared.hangs || std::exchange(said, true)) continue;
      std::string text = "process " + std::to_string(process) + ":\n  " + client.Describe();
      pages.Describe(text);
      numbers.Describe(text);
      std::cout << text << std::flush;
    }
  });
  {
    JoiningThread page_callers([&] { pages.Run(); });
    numbers.Run();
  }
  done = true;
}

// Does something to the server, or to the way to it, and undoes it.
void DoHarm(test::RedisServer& server, test::RedisProxy& proxy, Random& random) {
  switch (random.Below(8)) {
    case 0:
    case 1:
      proxy.DelayBy(std::chrono::milliseconds(1 + random.Below(80)));
      Sleep(random.Below(500));
      proxy.DelayBy(0ms);
      break;
    case 2:
    case 3:
      proxy.GoAway();
      proxy.ComeBack();
      break;
    case 4:
    case 5:
      proxy.GoAway();
      Sleep(random.Below(600));
      proxy.ComeBack();
      break;
    case 6:
      server.Stop();
      Sleep(random.Below(800));
      server.Continue();
      break;
    default:
      server.Restart();
  }
}

// Prints who waits, if somebody has waited for too long.
bool Hangs(Shared& shared) {
  const Time now = Now();
  std::size_t waiting = 0;
  bool hangs = false;
  for (const Ask& ask : shared.history.asks) {
    if (ask.asked == 0 || ask.outcome != Outcome::kNone) continue;
    ++waiting;
    hangs = hangs || now - ask.asked > kHang;
  }
  if (!hangs) return false;
  std::cout << "HANG: " << waiting << " callers wait\n";
  for (const Ask& ask : shared.history.asks) {
    if (ask.asked == 0 || ask.outcome != Outcome::kNone || waiting-- == 0) continue;
    std::cout << "  " << Checker::TextOf(ask) << " waits for " << Seconds(now - ask.asked)
              << " s\n";
  }
  std::cout << std::flush;
  shared.hangs = true;
  Sleep(2000);  // while the processes say what they know
  return true;
}

std::uint64_t Setting(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Returns how many mishaps there were, or nothing if somebody hangs.
std::optional<int> RunMishaps(Shared& shared, std::uint64_t seed, std::size_t seconds) {
  test::RedisServer server;
  test::RedisProxy proxy(server.Socket());
  proxy.Socket().copy(shared.socket, sizeof(shared.socket) - 1);
  shared.begins = true;
  Random random(seed);
  int mishaps = 0;
  const Time end = Now() + static_cast<Time>(seconds) * 1'000'000'000;
  for (bool is_storm = false; Now() < end; is_storm = !is_storm) {
    const Time until = std::min(end, Now() + (is_storm ? 3'000'000'000 : 4'500'000'000));
    Mishap* const storm = is_storm ? shared.history.mishaps.Add() : nullptr;
    if (storm != nullptr) storm->begin = Now();
    while (Now() < until) {
      if (is_storm) DoHarm(server, proxy, random);
      mishaps += is_storm ? 1 : 0;
      Sleep(random.Below(300));
    }
    if (storm != nullptr) storm->end = Now();
    if (Hangs(shared)) return std::nullopt;
  }
  shared.ends = true;
  const Time patience = Now() + kHang + 5'000'000'000;
  for (std::size_t left = kProcesses; left > 0;) {
    int status = 0;
    if (::waitpid(-1, &status, WNOHANG) > 0) {
      --left;
      if (status != 0) throw std::runtime_error("a process has failed");
    } else {
      if (Hangs(shared) || Now() > patience) return std::nullopt;
      Sleep(20);
    }
  }
  return mishaps;
}

}  // namespace

int main() try {
  const std::size_t seconds = Setting("SOAK_SECONDS", 30);
  const std::uint64_t seed = Setting("SOAK_SEED", std::random_device()());
  std::cout << "SOAK_SEED=" << seed << " SOAK_SECONDS=" << seconds << std::endl;
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  auto& shared = *new (memory) Shared(seconds);
  std::vector<pid_t> children;
  const pid_t parent = ::getpid();
  for (std::size_t process = 0; process < kProcesses; ++process) {  // before there is any thread
    const pid_t child = ::fork();
    if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == parent) RunProcess(shared, process, seed + 10'000 * (process + 1));
      ::_exit(0);
    }
    children.push_back(child);
  }
  const std::optional<int> mishaps = RunMishaps(shared, seed, seconds);
  if (!mishaps) {
    for (const pid_t child : children) ::kill(child, SIGKILL);
    return 1;
  }
  Checker checker(shared.history, 1'000'000 * kLease.count(), 1'000'000 * kLinger.count(),
                  kForgottenKey);
  checker.CheckOutcomes();
  checker.CheckOverlaps();
  std::cout << "evidence: soak.seconds " << seconds << "\nevidence: soak.mishaps " << *mishaps
            << "\nevidence: soak.asks " << shared.history.asks.Size()
            << "\nevidence: soak.executions " << shared.history.executions.Size()
            << "\nevidence: soak.executions_in_calm " << checker.Calm()
            << "\nevidence: soak.overlaps_near_mishaps " << checker.Overlaps()
            << "\nevidence: soak.outcomes_from_other_processes " << shared.remote
            << "\nevidence: soak.takeovers " << shared.takeovers << "\nevidence: soak.outages "
            << shared.outages << "\nevidence: soak.lost_leases " << shared.lost
            << "\nevidence: soak.unpublished " << shared.unpublished
            << "\nevidence: soak.violations " << checker.Complaints() << std::endl;
  return checker.Complaints() == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << "soak: " << error.what() << '\n';
  return 1;
}
