// SPDX-License-Identifier: MIT

// An HTTP server with a slow handler. Equal requests that arrive while it runs share its answer.
//
//   ./http_server --port 8080 --work-ms 1500 &
//   ./http_client --port 8080 --count 50
//   kill %1
//
// The server prints the following. http_client.cpp shows what the client prints.
//
//   listening on http://127.0.0.1:8080
//   try: curl http://127.0.0.1:8080/
//        curl http://127.0.0.1:8080/stats
//        open http://127.0.0.1:8080/debug/singleflight?refresh=1 in a browser
//   stopped: [{"labels": {"group": "answers"}, "stats": {"executions": 1, "followers": 49, ...}}]
//
//   --port     0 chooses a free port (8080)
//   --work-ms  how long the handler takes (200)
//   --threads  how many requests can be in progress at the same time, waiting ones included (256)
//
// The routes are in support/http_service.hpp. After SIGINT or SIGTERM the server answers the
// requests that it has accepted, and then stops.

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <iostream>
#include <string>
#include <thread>

#include "support/flags.hpp"
#include "support/http_service.hpp"

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  const int port = flags.Number("port", 8080, 0, 65535);
  const std::chrono::milliseconds work_time(flags.Number("work-ms", 200, 0, 60'000));
  const int threads = flags.Number("threads", 256, 1, 4096);
  flags.RefuseOthers();

  // The signals are blocked in all threads, because main waits for them below.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  std::atomic<int> answers = 0;
  HttpService::Responses group({.timed = true});  // for the age of calls on the debug page
  HttpService service(group, [&](const httplib::Request& request) {
    std::this_thread::sleep_for(work_time);
    return "answer " + std::to_string(++answers) + ", to " + request.target + "\n";
  });
  HerdServer server(static_cast<std::size_t>(threads));
  service.Install(server);

  const int bound_port = server.Bind(port);
  if (bound_port < 0) {
    std::cerr << "http_server: cannot listen on port " << port << ": is it in use?\n";
    return 1;
  }
  std::thread serving([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();  // before that, stop() does nothing
  const std::string url = "http://127.0.0.1:" + std::to_string(bound_port);
  std::cout << "listening on " << url << "\ntry: curl " << url << "/\n     curl " << url << "/stats"
            << "\n     open " << url << "/debug/singleflight?refresh=1 in a browser" << std::endl;

  int signal = 0;
  sigwait(&stop_signals, &signal);
  server.stop();
  serving.join();
  std::cout << "stopped: " << singleflight::WriteJson(service.GetMetrics());
}
