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
  int Connections() const { return connections_; }

 private:
  void Serve() {
    std::vector<pollfd> fds = {{listener_, POLLIN, 0}};
    while (!stopping_) {
      ::poll(fds.data(), fds.size(), 1);
      if (fds[0].revents != 0) {
        fds.push_back({::accept(listener_, nullptr, nullptr), POLLIN, 0});
        ++connections_;
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
  std::atomic<int> connections_ = 0;
  std::atomic<bool> stopping_ = false;
  JoiningThread thread_;
};

redis::Options OptionsFor(const OddServer& server) {
  return {.unix_socket = server.Path(),
          .command_timeout = 100ms,
          .retry_after = 0ms,
          .on_outage = redis::OnOutage::kFail};
}

}  // namespace

TEST_CASE("Odd server: a connection with a reply that nobody asked for is not used again") {
  const OddServer server("+OK\r\n+OK\r\n");
  RedisPages pages(OptionsFor(server));
  for (int i = 0; i < 2; ++i) {
    CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::protocol_error);
  }
  CHECK(server.Connections() == 2);
}

TEST_CASE("Odd server: a reply that is not a lease is an outage, and the connection is kept") {
  const OddServer server("+OK\r\n");
  RedisPages pages(OptionsFor(server));
  for (int i = 0; i < 2; ++i) {
    CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::protocol_error);
  }
  CHECK(server.Connections() == 1);
}

TEST_CASE("Odd server: an UNBLOCKED error for a command that does not block is an outage") {
  const OddServer server("-UNBLOCKED really\r\n");
  RedisPages pages(OptionsFor(server));
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::protocol_error);
  CHECK(ErrorOf([&] { return pages.Forget("k"); }) == std::errc::protocol_error);
}

TEST_CASE("Odd server: data that is not a Redis reply is an outage") {
  const OddServer server("HTTP/1.1 400 Bad Request\r\n\r\n");
  RedisPages pages(OptionsFor(server));
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::not_connected);
}

TEST_CASE("Odd server: nodes that redirect callers in a circle are an outage") {
  const OddServer server("-MOVED 7 127.0.0.1:1\r\n");  // over a Unix socket each node is this one
  RedisPages pages(OptionsFor(server));
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::protocol_error);
}

TEST_CASE("Odd server: a malformed MOVED is an outage") {
  for (const std::string_view what : {"", "x", "1", "1 ", "1 :", "x a:1", "1 a:x", "1 a:1x", "-"}) {
    const OddServer server("-MOVED " + std::string(what) + "\r\n");
    RedisPages pages(OptionsFor(server));
    CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) == std::errc::protocol_error);
  }
}
