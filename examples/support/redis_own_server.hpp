// SPDX-License-Identifier: MIT
#pragma once

// A redis-server of the program's own, for redis_fleet.cpp and the benchmarks, and a connection for
// plain commands. Both use hiredis.
//
//   const OwnRedisServer server;
//   singleflight::redis::Group<std::string> pages({.unix_socket = server.Socket()});
//   RedisClient client({.unix_socket = server.Socket()});
//   client.Ask("SET %s %d", "a", 1);

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <new>
#include <singleflight/redis_options.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

// One connection.
//
// Thread: one at a time.
// Errors: every member throws std::runtime_error if the server cannot do what it is asked to do.
class RedisClient {
 public:
  struct Free {
    void operator()(redisContext* connection) const { redisFree(connection); }
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, Free>;

  // Connects to the server of a group's options, with their timeouts.
  explicit RedisClient(const singleflight::redis::Options& options)
      : connection_(options.unix_socket.empty()
                        ? redisConnectWithTimeout(options.host.c_str(), options.port,
                                                  ToTimeval(options.connect_timeout))
                        : redisConnectUnixWithTimeout(options.unix_socket.c_str(),
                                                      ToTimeval(options.connect_timeout))) {
    if (connection_ == nullptr) throw std::bad_alloc();
    if (connection_->err != 0) throw std::runtime_error(connection_->errstr);
    redisSetTimeout(connection_.get(), ToTimeval(options.command_timeout));
  }

  // Returns the reply to one command, which is written as redisCommand takes it. An error reply is
  // thrown.
  template <class... Args>
  Reply Ask(const char* format, Args... args) {
    Reply reply(static_cast<redisReply*>(redisCommand(connection_.get(), format, args...)));
    if (reply == nullptr) throw std::runtime_error(connection_->errstr);
    if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(reply->str);
    return reply;
  }

  // Returns the number that the server's INFO has for `name`.
  long long Info(const std::string& name) {
    const std::string info = Ask("INFO")->str;
    const std::size_t found = info.find("\n" + name + ":");
    if (found == std::string::npos) throw std::runtime_error("INFO has no " + name);
    return std::stoll(info.substr(found + name.size() + 2));
  }

 private:
  static timeval ToTimeval(std::chrono::milliseconds time) {
    return {.tv_sec = time.count() / 1000, .tv_usec = time.count() % 1000 * 1000};
  }

  std::unique_ptr<redisContext, Free> connection_;
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
      RedisClient({.unix_socket = Socket()}).Ask("PING");
      return true;
    } catch (const std::runtime_error&) {
      return false;
    }
  }

  std::string directory_ = std::filesystem::temp_directory_path() / "singleflight-redis-XXXXXX";
  pid_t server_ = -1;
};
