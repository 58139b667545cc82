// SPDX-License-Identifier: MIT
#pragma once

// Browsers for the tests of HTTP: the program `curl`, as a child process, over real sockets.

#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/support.hpp"

namespace test {

// What curl got.
struct Page {
  int status = 0;    // 0: none came
  std::string head;  // status line and headers
  std::string body;

  bool Has(const std::string& line) const { return head.find(line + "\r\n") != std::string::npos; }
};

// Runs curl with these arguments, quoted as a shell wants them, for the path and query `target`.
inline Page Curl(int port, const std::string& target, const std::string& arguments = {}) {
  const std::string command =
      "curl --disable --silent --show-error --include --globoff --path-as-is --noproxy '*' "
      "--max-time 300 " +
      arguments + " 'http://127.0.0.1:" + std::to_string(port) + target + "'";
  Page page;
  std::FILE* const pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return page;
  std::string output;
  char buffer[4096];
  while (const std::size_t size = std::fread(buffer, 1, sizeof(buffer), pipe)) {
    output.append(buffer, size);
  }
  if (::pclose(pipe) != 0) return page;
  const std::size_t head_size = output.find("\r\n\r\n") + 4;
  page.status = std::stoi(output.substr(output.find(' ')));
  page.head = output.substr(0, head_size);
  page.body = output.substr(head_size);
  return page;
}

// One request of several.
struct CurlRequest {
  std::string target;
  std::string arguments = {};
};

// Sends the requests from a process each; all but the first when `first_runs()` has become true.
// What each got.
template <class FirstRuns>
std::vector<Page> CurlAtOnce(int port, const std::vector<CurlRequest>& asks, FirstRuns first_runs) {
  std::vector<Page> pages(asks.size());
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < asks.size(); ++i) {
    if (i == 1) Await(first_runs);
    threads.emplace_back([&, i] { pages[i] = Curl(port, asks[i].target, asks[i].arguments); });
  }
  threads.clear();
  return pages;
}

// A file for the cookies of one user, for as long as it lives.
class CookieJar {
 public:
  CookieJar() : path_(std::filesystem::temp_directory_path() / "singleflight-cookies-XXXXXX") {
    const int file = ::mkstemp(path_.data());
    if (file >= 0) ::close(file);
  }
  ~CookieJar() { std::filesystem::remove(path_); }
  CookieJar(const CookieJar&) = delete;
  CookieJar& operator=(const CookieJar&) = delete;

  std::string Fill() const { return "--cookie-jar " + path_; }  // with what the answer sets
  std::string Send() const { return "--cookie " + path_; }

 private:
  std::string path_;
};

}  // namespace test
