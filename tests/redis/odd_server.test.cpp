// SPDX-License-Identifier: MIT

// Tests a redis::Group against servers that only pretend to be Redis.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "processes.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/temporary_directory.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// Answers whatever it is sent, on any connection, with `reply`.
class OddServer {
 public:
  explicit OddServer(std::string reply) : reply_(std::move(reply)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    Path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(listener_, 100) != 0) {
      throw std::system_error(errno, std::generic_category(), "cannot start the odd server");
    }
    thread_ = JoiningThread([this] { Serve(); });
  }
  ~OddServer() {
    stopping_ = true;
    thread_.join();
    ::close(listener_);
  }

  std::string Path() const { return directory_.Path() + "/socket"; }

 private:
  void Serve() {
    std::vector<pollfd> fds = {{listener_, POLLIN, 0}};
    while (!stopping_) {
      ::poll(fds.data(), fds.size(), 1);
      if (fds[0].revents != 0) {
        fds.push_back({::accept(listener_, nullptr, nullptr), POLLIN, 0});
      }
      for (std::size_t i = 1; i < fds.size(); ++i) {
        std::array<char, 4096> request;
        if ((fds[i].revents & POLLIN) != 0 && ::read(fds[i].fd, request.data(), 4096) > 0) {
          ::send(fds[i].fd, reply_.data(), reply_.size(), MSG_NOSIGNAL);
        }
      }
    }
    for (std::size_t i = 1; i < fds.size(); ++i) ::close(fds[i].fd);
  }

  const std::string reply_;
  TemporaryDirectory directory_;
  const int listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::atomic<bool> stopping_ = false;
  JoiningThread thread_;
};

redis::ClientOptions OptionsFor(const OddServer& server) {
  redis::ClientOptions options;
  options.unix_socket = server.Path();
  options.connect_timeout = options.command_timeout = 200ms;
  return options;
}
const redis::Options kFail{.on_outage = redis::OnOutage::kFail};

std::optional<std::errc> AskFor(RedisPages& pages) {
  return ErrorOf([&] { return pages.Do("k", NeverRun); });
}
bool IsOutage(const std::optional<std::errc>& error) {
  return error == std::errc::protocol_error || error == std::errc::not_connected;
}

}  // namespace

TEST_CASE("Odd server: whatever it answers is an outage, and no caller waits for long") {
  for (const std::string& reply : std::vector<std::string>{"+OK\r\n",
                                                           "+OK\r\n+OK\r\n",
                                                           "$-1\r\n",
                                                           "*-1\r\n",
                                                           ":7\r\n",
                                                           "*0\r\n",
                                                           "*1\r\n$4\r\nlead\r\n",
                                                           "*2\r\n$4\r\nlead\r\n$1\r\n7\r\n",
                                                           "*2\r\n$4\r\nlead\r\n:7\r\n",
                                                           "*2\r\n$6\r\nfollow\r\n$1\r\nx\r\n",
                                                           "*3\r\n$6\r\nfollow\r\n:1\r\n:2\r\n",
                                                           "*1\r\n*1\r\n*1\r\n:1\r\n",
                                                           "-UNBLOCKED really\r\n",
                                                           "-ERR unknown command\r\n",
                                                           "-NOPERM no\r\n",
                                                           "-NOAUTH Authentication required.\r\n",
                                                           "-\r\n",
                                                           "-NOSCRIPT no\r\n",
                                                           "-MOVED\r\n",
                                                           "HTTP/1.1 400 Bad Request\r\n\r\n",
                                                           "\r\n",
                                                           "$99999999999999999999\r\n",
                                                           "*1000000000\r\n",
                                                           "$-7\r\n",
                                                           "%1\r\n+a\r\n+b\r\n",
                                                           "\0"s}) {
    INFO(reply);
    const OddServer server(reply);
    RedisPages pages(OptionsFor(server), kFail);
    CHECK(IsOutage(AskFor(pages)));
    CHECK_FALSE(pages.LastOutage().empty());
    CHECK(pages.GetStats().outages == 1);
  }
}

TEST_CASE("Odd server: a replica with many modules is not taken for a master") {
  std::string modules;
  constexpr int kModules = 50;
  for (int i = 0; i < kModules; ++i) {
    modules += "*4\r\n$4\r\nname\r\n$6\r\nmodule\r\n$4\r\npath\r\n$100\r\n" +
               std::string(100, '/') + "\r\n";
  }
  const OddServer server("*4\r\n$4\r\nrole\r\n$7\r\nreplica\r\n$7\r\nmodules\r\n*" +
                         std::to_string(kModules) + "\r\n" + modules + "+PONG\r\n");
  redis::ClientOptions options = OptionsFor(server);
  options.max_reply_bytes = 1024;
  RedisPages pages(options, kFail);
  CHECK(IsOutage(AskFor(pages)));
  CHECK(pages.LastOutage().find("is a replica, which takes no writes") != std::string::npos);
}

TEST_CASE("Odd server: callers run their functions if they may") {
  const OddServer server("-ERR this server is odd\r\n");
  RedisPages pages(OptionsFor(server));
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  CHECK(pages.LastOutage().find("this server is odd") != std::string::npos);
}

TEST_CASE("Odd server: a Forget that it does not understand is an outage for a log") {
  const OddServer server("-UNBLOCKED really\r\n");
  RedisPages pages(OptionsFor(server), kFail);
  CHECK_FALSE(pages.Forget("k"));
  Await([&] { return pages.GetStats().outages == 1; });
}

TEST_CASE("Odd server: nodes that redirect callers in a circle are an outage") {
  const OddServer server("-MOVED 7 127.0.0.1:1\r\n");
  RedisPages pages(OptionsFor(server), kFail);
  CHECK(IsOutage(AskFor(pages)));
}

TEST_CASE("Odd server: a malformed MOVED is an outage") {
  for (const std::string_view what : {"", "x", "1", "1 ", "1 :", "x a:1", "1 a:x", "1 a:1x", "-"}) {
    const OddServer server("-MOVED " + std::string(what) + "\r\n");
    RedisPages pages(OptionsFor(server), kFail);
    CHECK(IsOutage(AskFor(pages)));
  }
}
