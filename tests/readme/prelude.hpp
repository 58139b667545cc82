// SPDX-License-Identifier: MIT
#pragma once

// What README.md's C++ examples take for granted.

#include <chrono>
#include <stop_token>
#include <string>
#include <system_error>

using namespace std::chrono_literals;

struct User {
  std::string name;
};
struct Request {
  std::string Key() const;
  int id;
};
User Load(int id);

struct Report {};
Report Compute(int id, std::stop_token stop);
void Send(const Report& report);
void SendUnavailable();
