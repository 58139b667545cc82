// SPDX-License-Identifier: MIT

// A Redis server as the cache: the examples' adapter, and a ReadThrough over it, against a server
// of the test's own.

#include "../examples/redis_cache.hpp"

#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cache_callers.hpp"
#include "catch.hpp"
#include "support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

using Users = singleflight::ReadThrough<std::string, std::string, RedisCache>;

// A server on a Unix socket in a directory of its own, for as long as this lives.
class RedisServer {
 public:
  RedisServer() {
    ::signal(SIGPIPE, SIG_IGN);
    if (::mkdtemp(directory_.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), directory_);
    }
    Start();
  }
  ~RedisServer() {
    if (pid_ > 0) Kill();
    std::filesystem::remove_all(directory_);
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  // Returns when it answers.
  void Start() {
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // it ends with this test, however that ends
      ::execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", Socket().c_str(),
               "--save", "", "--appendonly", "no", "--logfile", (directory_ + "/log").c_str(),
               "--dir", directory_.c_str(), nullptr);
      ::_exit(127);
    }
    Await([&] {
      if (::waitpid(pid_, nullptr, WNOHANG) != 0) throw std::runtime_error("no redis-server");
      redisContext* const connection = Connect();
      const bool answers = connection->err == 0;
      redisFree(connection);
      return answers;
    });
  }

  void Kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

  // From here on until Continue it answers nothing.
  void Stop() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void Continue() { ::kill(pid_, SIGCONT); }

  redisContext* Connect() const { return redisConnectUnix(Socket().c_str()); }

  RedisCache Cache(std::chrono::milliseconds timeout = 1min) const {
    return RedisCache(Connect(), 1h, timeout);
  }

  // What it answers to a command on another connection, as text or as a number.
  struct Answer {
    std::string text;
    long long number;
  };
  Answer Ask(const char* command) const {
    redisContext* const connection = Connect();
    auto* const reply = static_cast<redisReply*>(redisCommand(connection, command));
    const Answer answer{reply->str != nullptr ? std::string(reply->str, reply->len) : "",
                        reply->integer};
    freeReplyObject(reply);
    redisFree(connection);
    return answer;
  }

 private:
  std::string Socket() const { return directory_ + "/socket"; }

  std::string directory_ = std::filesystem::temp_directory_path() / "singleflight-redis-XXXXXX";
  pid_t pid_ = 0;
};

// What the cache throws when it is asked for `key`.
std::string ComplaintOf(RedisCache& cache, std::string_view key) {
  try {
    static_cast<void>(cache.Get(key));
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("A Redis cache has what was put last") {
  const RedisServer server;
  RedisCache cache = server.Cache();
  CHECK(cache.Get("a") == std::nullopt);
  cache.Put("a", "1");
  cache.Put("a", "2");
  CHECK(cache.Get("a") == "2");
}

TEST_CASE("A Redis cache does not have what was erased") {
  const RedisServer server;
  RedisCache cache = server.Cache();
  cache.Put("a", "1");
  cache.Erase("a");
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("A Redis cache takes keys and values of any bytes, and of none") {
  const RedisServer server;
  RedisCache cache = server.Cache();
  const std::string bytes = "\0 %b\r\n\xff\""s;
  cache.Put(bytes, bytes + "value");
  cache.Put("a", "");
  CHECK(cache.Get(bytes) == bytes + "value");
  CHECK(cache.Get("\0"s) == std::nullopt);
  CHECK(cache.Get("a") == "");
  cache.Erase(bytes);
  CHECK(cache.Get(bytes) == std::nullopt);
}

TEST_CASE("A Redis cache's entries expire when they should") {
  const RedisServer server;
  server.Cache().Put("a", "1");  // for an hour
  const long long left = server.Ask("PTTL a").number;
  CHECK((left > 1'800'000 && left <= 3'600'000));
}

TEST_CASE("A Redis cache throws what the server complains of, and goes on") {
  const RedisServer server;
  RedisCache cache = server.Cache();
  server.Ask("LPUSH a 1");
  CHECK(ComplaintOf(cache, "a").starts_with("WRONGTYPE"));
  cache.Put("a", "2");
  CHECK(cache.Get("a") == "2");
}

TEST_CASE("A Redis cache whose server comes late is used from then on") {
  RedisServer server;
  server.Kill();
  RedisCache cache = server.Cache();
  CHECK_THROWS_AS(cache.Get("a"), std::runtime_error);
  server.Start();
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("A Redis cache whose server does not answer gives up, and takes no late answer later") {
  RedisServer server;
  RedisCache filled = server.Cache();
  filled.Put("a", "1");
  filled.Put("b", "2");
  RedisCache cache = server.Cache(50ms);
  server.Stop();
  CHECK_THROWS_AS(cache.Get("a"), std::runtime_error);
  server.Continue();
  CHECK(filled.Get("b") == "2");  // it has answered all that came before
  std::optional<std::string> found;
  Await([&] {
    try {
      found = cache.Get("b");
    } catch (const std::runtime_error&) {  // this machine is busy
    }
    return found.has_value();
  });
  CHECK(found == "2");
}

TEST_CASE("ReadThrough over Redis: what was loaded is there for the next") {
  const RedisServer server;
  Users users(server.Cache());
  CHECK(GetOr(users, "a", "1"s) == "1");
  CHECK(GetOr(users, "a", "2"s) == "1");
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over Redis: ten callers at once are one load") {
  const RedisServer server;
  Users users(server.Cache());
  const auto outcomes = GetTogether(users, "a", 10, "1"s);
  CHECK(std::ranges::count(outcomes, std::optional("1"s), &Outcome<std::string>::value) == 10);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over Redis: callers of different keys share the connection") {
  const RedisServer server;
  Users users(server.Cache());
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string key = std::to_string(t) + ":" + std::to_string(i);
        if (GetOr(users, key, key) != key || GetOr(users, key, ""s) != key) ++wrong;
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  CHECK(users.GetStats().loads == 800);
}

TEST_CASE("ReadThrough over Redis: what was invalidated is loaded anew") {
  const RedisServer server;
  Users users(server.Cache());
  CHECK(GetOr(users, "a", "1"s) == "1");
  users.Invalidate("a");
  CHECK(server.Ask("EXISTS a").number == 0);
  CHECK(GetOr(users, "a", "2"s) == "2");
}

TEST_CASE("ReadThrough over Redis: a load that was invalidated does not reach the server") {
  const RedisServer server;
  Users users(server.Cache());
  const auto load = [&] {
    users.Invalidate("a");
    return "old"s;
  };
  CHECK(*users.Get("a", load) == "old");
  CHECK(server.Ask("EXISTS a").number == 0);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough over Redis: what has expired is loaded anew") {
  const RedisServer server;
  Users users(server.Cache());
  CHECK(GetOr(users, "a", "1"s) == "1");
  REQUIRE(server.Ask("PEXPIRE a 0").number == 1);
  CHECK(GetOr(users, "a", "2"s) == "2");
}

TEST_CASE(
    "ReadThrough over Redis: two of them over one server see what the other puts and erases") {
  const RedisServer server;
  Users here(server.Cache()), there(server.Cache());
  CHECK(GetOr(here, "a", "1"s) == "1");
  CHECK(GetOr(there, "a", "2"s) == "1");
  there.Invalidate("a");
  CHECK(GetOr(here, "a", "3"s) == "3");
  CHECK(there.GetStats().loads == 0);
}

TEST_CASE("ReadThrough over Redis: a server that has gone costs loads, and no answers") {
  RedisServer server;
  Users users(server.Cache());
  CHECK(GetOr(users, "a", "1"s) == "1");
  server.Kill();
  CHECK(GetOr(users, "a", "2"s) == "2");
  CHECK(users.GetStats().get_failures == 1);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough over Redis: ten callers at once are one load without the server, too") {
  RedisServer server;
  Users users(server.Cache());
  server.Kill();
  const auto outcomes = GetTogether(users, "a", 10, "1"s);
  CHECK(std::ranges::count(outcomes, std::optional("1"s), &Outcome<std::string>::value) == 10);
  CHECK(users.GetStats().loads == 1);
  CHECK(users.GetStats().get_failures == 10);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough over Redis: a server that comes back is used again") {
  RedisServer server;
  Users users(server.Cache());
  server.Kill();
  CHECK(GetOr(users, "a", "1"s) == "1");
  server.Start();
  CHECK(GetOr(users, "a", "2"s) == "2");
  CHECK(GetOr(users, "a", "3"s) == "2");
}

TEST_CASE("ReadThrough over Redis: Invalidate says that the server cannot be told") {
  RedisServer server;
  Users users(server.Cache());
  server.Kill();
  CHECK_THROWS_AS(users.Invalidate("a"), std::runtime_error);
}

TEST_CASE("ReadThrough over Redis: Invalidate forgets the call even if the server has gone") {
  RedisServer server;
  Users users(server.Cache());
  server.Kill();
  std::size_t callers = 1;
  const auto load = [&] {
    try {
      users.Invalidate("a");
    } catch (const std::runtime_error&) {
      callers = users.Callers("a");
    }
    return "1"s;
  };
  CHECK(*users.Get("a", load) == "1");
  CHECK(callers == 0);
}
