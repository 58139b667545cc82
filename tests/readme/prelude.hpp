// SPDX-License-Identifier: MIT
#pragma once

// What the C++ blocks of the READMEs take for granted.

#include <array>
#include <chrono>
#include <coroutine>
#include <functional>
#include <iostream>
#include <singleflight/singleflight.hpp>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

using namespace std::chrono_literals;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;

struct User {
  std::string name;
};
struct Request {
  std::string Key() const;
  int id;
};
User Load(int id);
void Save(const User& user);
std::vector<User> LoadAll(std::span<const std::string> keys);
void Send(const User& user);

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

#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>

std::string Render(const Request& request);

#if __has_include(<httplib.h>)
#include "../../examples/adapters/http_middleware.hpp"

extern httplib::Server server;
extern ResponseGroup<httplib::Response> pages;
void ListUsers(const httplib::Request& request, httplib::Response& response);
void ListPrices(const httplib::Request& request, httplib::Response& response);
void SaveUser(const httplib::Request& request, httplib::Response& response);
void ShowAccount(const httplib::Request& request, httplib::Response& response);

namespace grpc {  // as much of it as the README needs
enum class StatusCode { INTERNAL };
struct Status {
  Status(StatusCode code, const std::string& message);
  static const Status OK, CANCELLED;
};
class ServerUnaryReactor {
 public:
  virtual ~ServerUnaryReactor();
  virtual void OnCancel();
  virtual void OnDone() = 0;
  void Finish(const Status& status);
};
}  // namespace grpc
extern void (*on_pool)(std::function<void()> task);
User LoadUser(const HttpFields& metadata, const std::string& message, std::stop_token stop);
#endif
