// SPDX-License-Identifier: MIT
#pragma once

// Runs the program `curl` in child processes, as the browsers in tests of HTTP over real sockets.

#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "support/support.hpp"

namespace test {

// The answer that curl got.
struct Page {
  int status = 0;    // 0: no answer came
  std::string head;  // status line and headers
  std::string body;

  bool Has(const std::string& line) const { return head.find(line + "\r\n") != std::string::npos; }
};

// Requests the path and query `target` with curl. `arguments` must be quoted for a shell.
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

// One of several requests that are sent together.
struct CurlRequest {
  std::string target;
  std::string arguments = {};
};

// Sends each request from a process of its own. All but the first wait until `first_runs()` is
// true. Returns the answers in the order of the requests.
template <class FirstRuns>
std::vector<Page> CurlAtOnce(int port, const std::vector<CurlRequest>& asks, FirstRuns first_runs) {
  std::vector<Page> pages(asks.size());
  std::vector<JoiningThread> threads;
  for (std::size_t i = 0; i < asks.size(); ++i) {
    if (i == 1) Await(first_runs);
    threads.emplace_back([&, i] { pages[i] = Curl(port, asks[i].target, asks[i].arguments); });
  }
  threads.clear();
  return pages;
}

// The file of one user's cookies. It exists while this object lives.
class CookieJar {
 public:
  CookieJar() : path_(std::filesystem::temp_directory_path() / "singleflight-cookies-XXXXXX") {
    const int file = ::mkstemp(path_.data());
    if (file >= 0) ::close(file);
  }
  ~CookieJar() { std::filesystem::remove(path_); }
  CookieJar(const CookieJar&) = delete;
  CookieJar& operator=(const CookieJar&) = delete;

  std::string Fill() const { return "--cookie-jar " + path_; }  // curl stores the answer's cookies
  std::string Send() const { return "--cookie " + path_; }

 private:
  std::string path_;
};

}  // namespace test
