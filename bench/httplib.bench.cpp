// SPDX-License-Identifier: MIT

// Measures the middleware for cpp-httplib: what is measured, and how, is in http.hpp. The rate is
// that of http_server.cpp's routes: `coalesced` is /, and `alone` is the same work on the same
// server without the middleware. `bare` is cpp-httplib's own server with the same work.

#include <benchmark/benchmark.h>
#include <httplib.h>
#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>

#include "adapters/herd_server.hpp"
#include "adapters/http_middleware.hpp"
#include "http.hpp"
#include "support/http_service.hpp"

namespace {

using Responses = ResponseGroup<httplib::Response>;

constexpr std::size_t kThreads = 32;  // of the servers whose rate is measured

// Serves on a thread of its own while it lives. The clients must close their connections before.
class Serving {
 public:
  Serving(httplib::Server& server, int port) : server_(server), port_(port) {
    if (port <= 0) throw std::runtime_error("no port is free");
    thread_ = std::thread([&server] { server.listen_after_bind(); });
    while (!server.is_running()) std::this_thread::yield();  // before that, stop() does nothing
  }
  ~Serving() {
    server_.stop();
    thread_.join();
  }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  int port() const { return port_; }

 private:
  httplib::Server& server_;
  const int port_;
  std::thread thread_;
};

// cpp-httplib's own server, which keeps connections alive as HerdServer does.
class BareServer : public httplib::Server {
 public:
  BareServer() {
    new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    set_keep_alive_max_count(100'000);
    set_tcp_nodelay(true);
  }

  int Bind() {
    const int port = bind_to_any_port("127.0.0.1");
    ::listen(svr_sock_, SOMAXCONN);  // httplib's queue of 5 would make some clients wait a second
    return port;
  }
};

void Body(benchmark::State& state) {
  Responses group;
  HerdServer server(http_bench::kReaders);
  const auto large = [&group](const httplib::Request&, httplib::Response& response) {
    const auto start = http_bench::Clock::now();
    while (!http_bench::AllReadersWait(group, start)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    response.set_content(std::string(http_bench::kBodySize, 'x'), "text/plain");
  };
  server.Get("/large", Coalesce(group, large));
  const Serving serving(server, server.Bind(0));
  http_bench::MeasureBody(state, serving.port());
}

void Private(benchmark::State& state) {
  Responses group;
  HerdServer server(http_bench::kPrivateClients);
  const auto answer = [](const httplib::Request&, httplib::Response& response) {
    std::this_thread::sleep_for(http_bench::kPrivateWork);
    response.set_header("Cache-Control", "private");
    response.set_content("for you only\n", "text/plain");
  };
  server.Get("/coalesced", Coalesce(group, answer));
  server.Get("/bare", answer);
  const Serving serving(server, server.Bind(0));
  http_bench::MeasurePrivate(state, serving.port());
}

void Rate(benchmark::State& state) {
  const auto work = [](const httplib::Request& request) { return "answer to " + request.target; };
  Responses group;
  HttpService service(group, work);
  HerdServer server(kThreads);
  service.Install(server);
  const Serving serving(server, server.Bind(0));

  BareServer bare;
  bare.Get("/", [work](const httplib::Request& request, httplib::Response& response) {
    response.set_content(work(request), "text/plain");
  });
  const Serving serving_bare(bare, bare.Bind());
  http_bench::MeasureRate(state, {{"coalesced", serving.port(), "/"},
                                  {"alone", serving.port(), "/alone"},
                                  {"bare", serving_bare.port(), "/"}});
}

BENCHMARK(Body)->Name("http/httplib/body")->Iterations(1)->UseRealTime();
BENCHMARK(Private)->Name("http/httplib/private")->Iterations(1)->UseRealTime();
BENCHMARK(Rate)->Name("http/httplib/rate")->Iterations(1)->UseRealTime();

}  // namespace
