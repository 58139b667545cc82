// SPDX-License-Identifier: MIT

// usage: redis_member NAME SOCKET LEASE_MS LINGER_MS
//
// This is a process with a redis::Group<std::string>, for the tests of several processes.
// members.hpp starts it. It obeys the lines of its standard input:
//
//   ask THREADS KEY...    THREADS threads ask for these keys, one after the other
//   order KEY WHAT TEXT   `fn` does WHAT for KEY, or for every key if KEY is "*". Until then it
//                         waits. WHAT: return (NAME:KEY), throw (a std::logic_error with TEXT),
//                         throw_int, exit, quick_exit, abort
//   callers KEY           reports how many callers of this process are on the call
//   stats                 reports the group's statistics
//   fork KEY              a forked child asks for KEY, forgets it, destroys the group, and exits
//   cache TTL_MS LOCAL_MS makes a redis::ReadThrough<std::string> beside the group. LOCAL_MS 0: it
//   has
//                         no local cache
//   get KEY               a thread asks the cache for KEY. Its load is like `fn`
//   pages COUNT THREADS   THREADS threads ask the cache for COUNT pages, one after the other
//   steady COUNT THREADS  the same, again and again until "stop"
//   history FILE THREADS TIMES INVALIDATES CHECKS
//                         THREADS threads ask the cache, and invalidate if INVALIDATES is 1, TIMES
//                         times each: see cache_fleet.test.cpp
//   end                   destroys the group and exits, when all callers have their results
//
// It reports on its standard output:
//
//   running KEY TOKEN FENCE          `fn` has begun. TOKEN is "-" if there is none
//   landed KEY ROLE SHARED VALUE     a caller got VALUE. SHARED is shared or alone
//   failed KEY ERROR                 a caller got ERROR instead
//   loading KEY                      the cache's load has begun
//   rendered PAGE NANOSECONDS        the load of a page has begun, by the machine's clock
//   asked - COUNT                    a thread of pages or steady has finished
//   remembered - GETS BAD            a thread of history has finished. BAD is how many values were
//                                    older than an Invalidate that had returned
//   callers KEY COUNT, stats - NUMBER..., child KEY ERROR ERROR, forked KEY STATUS
//
// It exits at once if its parent exits or closes the input.

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "history.hpp"
#include "sanitizers/sanitizers.hpp"

#if defined(UNDER_SANITIZER)
namespace {
bool forked = false;
}  // namespace
// In a forked child the memory of the other threads has leaked, which is not a fault of the
// library.
extern "C" int __lsan_is_turned_off() { return forked ? 1 : 0; }
#endif

namespace {

using namespace std::chrono_literals;
using Group = singleflight::redis::Group<std::string>;
using Cache = singleflight::redis::ReadThrough<std::string>;
using singleflight::Role;
using singleflight::redis::Lease;

struct Order {
  std::string what;
  std::string text;
};

class Member {
 public:
  Member(std::string name, const singleflight::redis::ClientOptions& client_options,
         const singleflight::redis::Options& options)
      : name_(std::move(name)),
        options_(options),
        client_(new singleflight::redis::Client(client_options)),
        group_(new Group(*client_, "fleet", options)) {}

  void Execute(const std::string& line) {
    std::istringstream words(line);
    std::string command, key;
    words >> command;
    if (command == "ask") {
      std::size_t threads = 0;
      std::vector<std::string> keys;
      words >> threads;
      while (words >> key) keys.push_back(key);
      for (; threads > 0; --threads) {
        threads_.emplace_back([this, keys] {
          for (const std::string& each : keys) Ask(each);
        });
      }
    } else if (command == "order") {
      Order order;
      words >> key >> order.what >> std::ws;
      std::getline(words, order.text);
      const std::lock_guard lock(mutex_);
      orders_[key] = order;
      ordered_.notify_all();
    } else if (command == "callers") {
      words >> key;
      Report("callers " + key + ' ' + std::to_string(group_->Callers(key)));
    } else if (command == "stats") {
      ReportStats();
    } else if (command == "fork") {
      words >> key;
      Fork(key);
    } else if (command == "cache") {
      std::int64_t ttl = 0, local = 0;
      words >> ttl >> local;
      MakeCache(std::chrono::milliseconds(ttl), std::chrono::milliseconds(local));
    } else if (command == "get") {
      words >> key;
      threads_.emplace_back([this, key] { Get(key); });
    } else if (command == "pages" || command == "steady") {
      int pages = 0, threads = 0;
      words >> pages >> threads;
      for (; threads > 0; --threads) {
        threads_.emplace_back([this, pages, again = command == "steady"] { Browse(pages, again); });
      }
    } else if (command == "stop") {
      stopped_ = true;
    } else if (command == "history") {
      std::string file;
      int threads = 0, times = 0;
      bool invalidates = false, checks = false;
      words >> file >> threads >> times >> invalidates >> checks;
      for (; threads > 0; --threads) {
        threads_.emplace_back([=, this, seed = static_cast<unsigned>(threads)] {
          Remember(file, seed, times, invalidates, checks);
        });
      }
    } else if (command == "end") {
      for (std::thread& thread : threads_) thread.join();
      delete cache_;
      delete group_;
      delete client_;
      std::exit(0);
    }
  }

 private:
  void Ask(const std::string& key) {
    const auto fn = [&](const Lease& lease) { return Run(key, lease); };
    try {
      const auto result = group_->Do(key, fn);
      Report("landed " + key + (result.role() == Role::kLeader ? " leader" : " follower") +
             (result.shared() ? " shared " : " alone ") + *result);
      return;
    } catch (...) {
      Report("failed " + key + ' ' + NameOf(std::current_exception()));
    }
  }

  // ---- The cache

  void MakeCache(std::chrono::milliseconds ttl, std::chrono::milliseconds local) {
    singleflight::redis::ReadThroughOptions<std::string> options{.ttl = ttl};
    if (local.count() > 0) options.local_ttl = local;
    options.fleet = options_;
    cache_ = new Cache(*client_, "cache", options);
  }

  void Get(const std::string& key) {
    try {
      const auto result = cache_->Get(key, [&] {
        Report("loading " + key);
        return Obey(key);
      });
      Report("landed " + key + (result.role() == Role::kLeader ? " leader" : " follower") +
             (result.shared() ? " shared " : " alone ") + *result);
    } catch (...) {
      Report("failed " + key + ' ' + NameOf(std::current_exception()));
    }
  }

  void Browse(int pages, bool again) {
    int count = 0;
    do {
      for (int i = 0; i < pages && !stopped_; ++i, ++count) {
        const std::string page = "page" + std::to_string(i);
        try {
          static_cast<void>(cache_->Get(page, [&] {
            const auto now = std::chrono::steady_clock::now().time_since_epoch();
            const std::chrono::nanoseconds begun = now;
            Report("rendered " + page + ' ' + std::to_string(begun.count()));
            return "the text of " + page;
          }));
        } catch (...) {
          Report("failed " + page + ' ' + NameOf(std::current_exception()));
        }
      }
    } while (again && !stopped_);
    Report("asked - " + std::to_string(count));
  }

  void Remember(const std::string& file, unsigned seed, int times, bool invalidates, bool checks) {
    const test::SharedHistory history(file);
    std::mt19937 random(seed * 1000 + static_cast<unsigned>(::getpid()));
    std::uint64_t gets = 0, bad = 0;
    for (int i = 0; i < times; ++i) {
      const std::size_t number = random() % test::VersionHistory::kKeys;
      const std::string key = "k" + std::to_string(number);
      auto& its = history->keys[number];
      ++history->steps;
      try {
        if (invalidates && random() % 20 == 0) {
          const std::uint64_t version = ++its.version;
          random() % 5 == 0 ? cache_->InvalidateAll() : cache_->Invalidate(key);
          its.RaiseTo(version);
          continue;
        }
        const std::uint64_t least = its.least;
        const auto value = cache_->Get(key, [&] { return std::to_string(its.version.load()); });
        ++gets;
        if (checks && std::stoull(*value) < least) ++bad;
      } catch (const std::system_error&) {  // an outage: nothing was promised
      } catch (const singleflight::redis::RemoteError&) {
      }
    }
    Report("remembered - " + std::to_string(gets) + ' ' + std::to_string(bad));
  }

  std::string Run(const std::string& key, const Lease& lease) {
    const std::string token(lease.token().empty() ? "-" : lease.token());
    Report("running " + key + ' ' + token + ' ' + std::to_string(lease.fence()));
    return Obey(key);
  }
  std::string Obey(const std::string& key) {
    const Order order = AwaitOrder(key);
    if (order.what == "throw") throw std::logic_error(order.text);
    if (order.what == "throw_int") throw 7;
    if (order.what == "exit") std::exit(3);
    if (order.what == "quick_exit") std::quick_exit(4);
    if (order.what == "abort") std::abort();
    return name_ + ':' + key;
  }

  Order AwaitOrder(const std::string& key) {
    std::unique_lock lock(mutex_);
    for (;;) {
      for (const std::string& name : {key, std::string("*")}) {
        if (const auto found = orders_.find(name); found != orders_.end()) return found->second;
      }
      ordered_.wait(lock);
    }
  }

  void ReportStats() {
    const singleflight::redis::Stats stats = group_->GetStats();
    std::string line = "stats -";
    for (const std::uint64_t count :
         {stats.executions, stats.remote, stats.takeovers, stats.unpublished, stats.untold,
          stats.told_to_run, stats.failed_renewals, stats.lost_leases, stats.undecodable,
          stats.outages, stats.calls.executions, stats.calls.followers, stats.calls.failures,
          stats.calls.left, stats.calls.refused, stats.calls.in_flight}) {
      line += ' ' + std::to_string(count);
    }
    Report(line);
  }

  void Fork(const std::string& key) {
    std::unique_lock lock(reporting_);  // held during the fork, so that the child can report
    const pid_t child = ::fork();
    lock.unlock();
    if (child == 0) {
#if defined(UNDER_SANITIZER)
      forked = true;
#endif
      const auto ask = [&] { static_cast<void>(group_->Do(key, [] { return "child"; })); };
      const auto forget = [&] { group_->Forget(key); };
      Report("child " + key + ' ' + ErrorOf(ask) + ' ' + ErrorOf(forget));
      delete group_;
      delete client_;
      std::exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    Report("forked " + key + ' ' + std::to_string(status));
  }

  template <class Body>
  static std::string ErrorOf(Body body) {
    try {
      body();
      return "none";
    } catch (...) {
      return NameOf(std::current_exception());
    }
  }

  static std::string NameOf(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const singleflight::redis::RemoteError& remote) {
      return std::string("RemoteError: ") + remote.what();
    } catch (const std::system_error& system) {
      return "errc:" + std::to_string(system.code().value());
    } catch (const std::logic_error& logic) {
      return std::string("std::logic_error: ") + logic.what();
    } catch (const std::exception& other) {
      return std::string("std::exception: ") + other.what();
    } catch (const int number) {
      return "int: " + std::to_string(number);
    } catch (...) {
      return "something else";
    }
  }

  void Report(std::string line) {
    line += '\n';
    const std::lock_guard lock(reporting_);
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t written = ::write(STDOUT_FILENO, rest.data(), rest.size());
      if (written <= 0) ::_exit(1);
      rest.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  const std::string name_;
  const singleflight::redis::Options options_;
  singleflight::redis::Client* const client_;
  Group* const group_;  // both are destroyed by "end" only: at std::exit threads may be inside it
  Cache* cache_ = nullptr;  // likewise
  std::atomic<bool> stopped_ = false;
  std::mutex reporting_;
  std::mutex mutex_;
  std::condition_variable ordered_;
  std::map<std::string, Order> orders_;  // guarded by mutex_
  std::vector<std::thread> threads_;     // used by the main thread only
};

}  // namespace

int main(int argc, char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc != 5) return 2;
  // The timeouts never pass: a late answer is not an outage here.
  singleflight::redis::ClientOptions client_options;
  client_options.unix_socket = argv[2];
  client_options.connect_timeout = client_options.command_timeout = 1h;
  auto& member = *new Member(
      argv[1], client_options,
      {.lease = std::chrono::milliseconds(std::stoll(argv[3])),
       .linger = std::chrono::milliseconds(std::stoll(argv[4])),
       .on_outage = singleflight::redis::OnOutage::kFail});  // never destroyed: its threads use it
  // This does not use stdio: std::exit on another thread would have to wait for its lock.
  std::string input;
  char buffer[4096];
  for (ssize_t size; (size = ::read(STDIN_FILENO, buffer, sizeof(buffer))) > 0;) {
    input.append(buffer, static_cast<std::size_t>(size));
    for (std::size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
      member.Execute(input.substr(0, end));
    }
  }
  ::_exit(0);
}
