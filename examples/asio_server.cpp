// SPDX-License-Identifier: MIT

// An HTTP server on one thread, with a coroutine for each connection and a slow upstream. Equal
// requests that arrive while the upstream runs share its answer.
//
//   ./asio_server
//
// opens 1,000 connections to itself, which ask for one URL at the same time, and prints
//
//   listening on http://127.0.0.1:41235
//   1000 connections asked for /item?id=42
//   status 200: 1000
//   distinct bodies: 1
//   upstream runs: 1
//   [{"labels": {"group": "items"}, "stats": {"executions": 1, "followers": 999, ...}}]
//
//   ./asio_server --listen 8080
//
// serves until SIGINT or SIGTERM, and prints
//
//   listening on http://127.0.0.1:8080
//   try: curl 'http://127.0.0.1:8080/item?id=42'
//        curl http://127.0.0.1:8080/stats
//        open http://127.0.0.1:8080/debug/singleflight?refresh=1 in a browser
//
//   --listen       the port: 0 chooses a free one, and with -1 the server asks itself (-1)
//   --connections  how many connections, if the system allows that many descriptors (1000)
//   --work-ms      how long the upstream takes (1000)

#include <algorithm>
#include <asio.hpp>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <set>
#include <string>
#include <system_error>

#include "support/asio_service.hpp"
#include "support/flags.hpp"

namespace {

struct Tally {
  std::size_t finished = 0, answered = 0;
  std::set<std::string> bodies;
};

// Opens a connection and asks for `target`.
asio::awaitable<void> Ask(asio::ip::tcp::endpoint server, std::string target, Tally& tally) {
  asio::ip::tcp::socket socket(co_await asio::this_coro::executor);
  co_await socket.async_connect(server, asio::use_awaitable);
  const std::string request =
      "GET " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  co_await asio::async_write(socket, asio::buffer(request), asio::use_awaitable);
  std::string answer;
  asio::error_code end;
  co_await asio::async_read(socket, asio::dynamic_buffer(answer),
                            asio::redirect_error(asio::use_awaitable, end));
  if (!answer.starts_with("HTTP/1.1 200 ")) co_return;
  ++tally.answered;
  tally.bodies.insert(answer.substr(answer.find("\r\n\r\n")));
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  const int listen = flags.Number("listen", -1, -1, 65535);
  std::size_t connections = flags.Number<std::size_t>("connections", 1000, 1, 20'000);
  const std::chrono::milliseconds work_time(flags.Number("work-ms", 1000, 0, 60'000));
  flags.RefuseOthers();
  const std::size_t descriptors = RaiseDescriptorLimit();

  AsioService::Responses group({.timed = true});  // for the age of calls on the debug page
  asio::io_context io(1);
  std::size_t upstream_runs = 0;
  const auto upstream = [&](std::string target) -> asio::awaitable<std::string> {
    const std::size_t run = ++upstream_runs;
    asio::steady_timer latency(io, work_time);
    co_await latency.async_wait(asio::use_awaitable);
    co_return "answer " + std::to_string(run) + ", to " + target + "\n";
  };
  AsioService service(group, upstream, work_time + std::chrono::seconds(60));
  AsioServer server(io, [&](const HttpRequest& request) { return service.Handle(request); });
  std::uint16_t port = 0;
  try {
    port = server.Listen(static_cast<std::uint16_t>(std::max(listen, 0)));
  } catch (const std::system_error& error) {
    std::cerr << "asio_server: cannot listen on port " << listen << ": " << error.what() << "\n";
    return 1;
  }
  const std::string url = "http://127.0.0.1:" + std::to_string(port);
  std::cout << "listening on " << url << std::endl;

  asio::signal_set stop_signals(io, SIGINT, SIGTERM);
  stop_signals.async_wait([&io](asio::error_code error, int) {
    if (!error) io.stop();
  });
  if (listen >= 0) {
    std::cout << "try: curl '" << url << "/item?id=42'\n     curl " << url << "/stats\n     open "
              << url << "/debug/singleflight?refresh=1 in a browser" << std::endl;
    io.run();
    std::cout << "stopped: " << singleflight::WriteJson(service.GetMetrics());
    return 0;
  }

  connections = std::min(connections, (descriptors - 20) / 2);  // both ends are in this process
  const asio::ip::tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
  Tally tally;
  for (std::size_t i = 0; i < connections; ++i) {
    asio::co_spawn(io, Ask(endpoint, "/item?id=42", tally), [&](std::exception_ptr) {
      if (++tally.finished < connections) return;
      server.Close();
      stop_signals.cancel();
    });
  }
  io.run();
  std::cout << connections << " connections asked for /item?id=42\n"
            << "status 200: " << tally.answered << "\n"
            << "distinct bodies: " << tally.bodies.size() << "\n"
            << "upstream runs: " << upstream_runs << "\n"
            << singleflight::WriteJson(service.GetMetrics());
}
