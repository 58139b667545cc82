// SPDX-License-Identifier: MIT

// Measures the middleware for Asio: what is measured, and how, is in http.hpp. The rate is that of
// asio_server.cpp's route /item. `bare` is the same server with the same work, but without the
// service and its middleware.

#include <benchmark/benchmark.h>

#include <asio.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "adapters/asio_middleware.hpp"
#include "http.hpp"
#include "support/asio_http.hpp"
#include "support/asio_service.hpp"

namespace {

using Responses = ResponseGroup<HttpResponse>;

// Serves on a thread of its own while it lives.
//
// Lifetime: the group of `handler` must outlive it.
class Serving {
 public:
  explicit Serving(HttpHandler handler) : server_(io_, std::move(handler)) {}
  ~Serving() {
    io_.stop();
    thread_.join();
  }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  int port() const { return port_; }

 private:
  asio::io_context io_{1};
  AsioServer server_;
  const int port_ = server_.Listen(0);
  std::thread thread_{[this] { io_.run(); }};
};

asio::awaitable<void> Sleep(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

void Body(benchmark::State& state) {
  Responses group;
  const Serving serving(
      Coalesce(group, [&group](const HttpRequest&) -> asio::awaitable<HttpResponse> {
        const auto start = http_bench::Clock::now();
        while (!http_bench::AllReadersWait(group, start)) {
          co_await Sleep(std::chrono::milliseconds(1));
        }
        co_return HttpResponse{"200 OK", {}, std::string(http_bench::kBodySize, 'x')};
      }));
  http_bench::MeasureBody(state, serving.port());
}

void Private(benchmark::State& state) {
  Responses group;
  const HttpHandler answer = [](const HttpRequest&) -> asio::awaitable<HttpResponse> {
    co_await Sleep(http_bench::kPrivateWork);
    co_return HttpResponse{"200 OK", {{"Cache-Control", "private"}}, "for you only\n"};
  };
  const HttpHandler coalesced = Coalesce(group, answer);
  const Serving serving([&](const HttpRequest& request) {
    return request.target == "/bare" ? answer(request) : coalesced(request);
  });
  http_bench::MeasurePrivate(state, serving.port());
}

void Rate(benchmark::State& state) {
  const auto work = [](std::string target) -> asio::awaitable<std::string> {
    co_return "answer to " + target;
  };
  Responses group;
  AsioService service(group, work, std::chrono::seconds(60));
  const Serving serving([&](const HttpRequest& request) { return service.Handle(request); });
  const Serving bare([&](const HttpRequest& request) -> asio::awaitable<HttpResponse> {
    // g++ 12 destroys a part of a braced list twice if another part awaits.
    std::string body = co_await work(request.target);
    co_return HttpResponse{"200 OK", {}, std::move(body)};
  });
  http_bench::MeasureRate(
      state, {{"coalesced", serving.port(), "/item?id=42"}, {"bare", bare.port(), "/item?id=42"}});
}

BENCHMARK(Body)->Name("http/asio/body")->Iterations(1)->UseRealTime();
BENCHMARK(Private)->Name("http/asio/private")->Iterations(1)->UseRealTime();
BENCHMARK(Rate)->Name("http/asio/rate")->Iterations(1)->UseRealTime();

}  // namespace
