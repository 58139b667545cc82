// SPDX-License-Identifier: MIT
#pragma once

// What README.md's C++ examples take for granted.

#include <chrono>
#include <coroutine>
#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <system_error>
#include <variant>
#include <vector>

using namespace std::chrono_literals;

struct User {
  std::string name;
};
struct Request {
  std::string Key() const;
  int id;
};
User Load(int id);
std::vector<User> LoadAll(std::span<const std::string> keys);
void Send(const User& user);

struct Report {};
Report Compute();
Report Compute(int id, std::stop_token stop);
void Send(const Report& report);
void Send(const Report& report, const User& user);
void SendUnavailable();

struct Pool {
  void Post(std::function<void()> task);
};

struct Task {
  struct promise_type {
    Task get_return_object();
    std::suspend_never initial_suspend();
    std::suspend_never final_suspend() noexcept;
    void return_void();
    void unhandled_exception();
  };
};
struct UserTask : std::suspend_always {
  User await_resume() const;
};
UserTask LoadTask(int id);

#if __has_include(<asio.hpp>)
#if defined(__clang__)
#define ASIO_HAS_CO_AWAIT
#define ASIO_HAS_STD_COROUTINE
#endif
#include <asio/awaitable.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <singleflight/asio.hpp>

using singleflight::AsyncDo;
asio::awaitable<User> LoadUser(int id);
#endif
