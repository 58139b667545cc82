// SPDX-License-Identifier: MIT

// Tests AsioServer with clients that cannot be trusted.

#include <pthread.h>

#include <asio.hpp>
#include <atomic>

#include "support/asio_http.hpp"
#include "support/threads.hpp"

#define TEST_SERVER "AsioServer"

namespace {

using Limits = AsioLimits;

class LimitedServer {
 public:
  explicit LimitedServer(Limits limits)
      : server_(
            io_, [this](const HttpRequest&) { return Answer(); }, limits),
        port_(server_.Listen(0)) {}
  ~LimitedServer() { io_.stop(); }

  int port() const { return port_; }
  int runs() const { return runs_; }
  clockid_t cpu_clock() {
    clockid_t clock = {};
    ::pthread_getcpuclockid(thread_.native_handle(), &clock);
    return clock;
  }

 private:
  asio::awaitable<HttpResponse> Answer() {
    ++runs_;
    // Meanwhile the server receives what has come after the request.
    for (int i = 0; i < 20; ++i) co_await asio::post(asio::use_awaitable);
    co_return HttpResponse{"200 OK", {}, "page"};
  }

  std::atomic<int> runs_ = 0;
  asio::io_context io_{1};
  AsioServer server_;
  const int port_;
  test::JoiningThread thread_{[this] { io_.run(); }};
};

}  // namespace

#include "examples/server_limits.hpp"
