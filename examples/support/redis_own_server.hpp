// SPDX-License-Identifier: MIT
#pragma once

// A redis-server of the program's own, for examples and benchmarks, and a connection that asks it
// what it knows. It needs no Redis library.
//
//   const OwnRedisServer server;
//   singleflight::redis::Client redis({.unix_socket = server.Socket()});
//   std::cout << PlainRedis(server.Socket()).Ask("CLIENT LIST");

#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

// One connection, for commands that are answered by a text or a number.
//
// Thread: one at a time.
// Errors: every member throws std::runtime_error if the server cannot do what it is asked to do.
class PlainRedis {
 public:
  explicit PlainRedis(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      const int error = errno;
      ::close(socket_);
      throw std::system_error(error, std::generic_category(), path);
    }
  }
  ~PlainRedis() { ::close(socket_); }
  PlainRedis(const PlainRedis&) = delete;
  PlainRedis& operator=(const PlainRedis&) = delete;

  // Returns the answer to one command, whose words have no spaces.
  std::string Ask(const std::string& command) {
    const std::string line = command + "\r\n";
    if (::send(socket_, line.data(), line.size(), MSG_NOSIGNAL) != ssize_t(line.size())) Fail();
    const std::string head = ReadTo("\r\n");  // +text, :number, -error or $length
    if (head[0] == '-') throw std::runtime_error(head.substr(1));
    if (head[0] != '$') return head.substr(1);
    const int length = std::stoi(head.substr(1));
    if (length < 0) return {};
    while (received_.size() < std::size_t(length) + 2) Receive();
    const std::string text = received_.substr(0, std::size_t(length));
    received_.erase(0, std::size_t(length) + 2);
    return text;
  }

 private:
  std::string ReadTo(const char* end) {
    std::size_t found = 0;
    while ((found = received_.find(end)) == std::string::npos) Receive();
    const std::string text = received_.substr(0, found);
    received_.erase(0, found + 2);
    return text;
  }
  void Receive() {
    std::array<char, 4096> buffer;
    const ssize_t size = ::recv(socket_, buffer.data(), buffer.size(), 0);
    if (size <= 0) Fail();
    received_.append(buffer.data(), std::size_t(size));
  }
  [[noreturn]] static void Fail() { throw std::runtime_error("the Redis server has gone"); }

  const int socket_;
  std::string received_;  // and not used so far
};

// A server that listens on a Unix socket in a directory of its own, and writes no data to disk.
//
// Lifetime: the destructor stops the server and removes the directory. If the thread that made this
//   object finishes earlier, for example because a signal kills the program, the server is killed
//   too, but the directory stays.
class OwnRedisServer {
 public:
  // Returns when the server answers. Throws std::runtime_error if it does not start.
  OwnRedisServer() {
    if (::mkdtemp(directory_.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), directory_);
    }
    try {
      Start();
    } catch (...) {
      Stop();
      throw;
    }
  }
  ~OwnRedisServer() { Stop(); }
  OwnRedisServer(const OwnRedisServer&) = delete;
  OwnRedisServer& operator=(const OwnRedisServer&) = delete;

  std::string Socket() const { return directory_ + "/socket"; }

 private:
  void Start() {
    // Made before the fork, because the child of a program with threads must not allocate.
    const std::string socket = Socket();
    const std::array<const char*, 16> command = {
        "redis-server",     "--port", "0", "--unixsocket", socket.c_str(), "--dir",
        directory_.c_str(), "--save", "",  "--appendonly", "no",           "--logfile",
        "/dev/null",        nullptr};
    const pid_t program = ::getpid();
    server_ = ::fork();
    if (server_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == program) ::execvp(command[0], const_cast<char**>(command.data()));
      ::_exit(127);
    }
    if (server_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    while (!Answers()) {
      if (::waitpid(server_, nullptr, WNOHANG) != 0) {
        server_ = -1;
        throw std::runtime_error("redis-server did not start (Debian: apt install redis-server)");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void Stop() noexcept {
    if (server_ > 0) {
      ::kill(server_, SIGKILL);
      ::waitpid(server_, nullptr, 0);
    }
    std::error_code ignored;  // a destructor cannot report it
    std::filesystem::remove_all(directory_, ignored);
  }

  bool Answers() const {
    try {
      return PlainRedis(Socket()).Ask("PING") == "PONG";
    } catch (const std::runtime_error&) {
      return false;
    }
  }

  std::string directory_ = std::filesystem::temp_directory_path() / "singleflight-redis-XXXXXX";
  pid_t server_ = -1;
};
