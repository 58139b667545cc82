// SPDX-License-Identifier: MIT

// An HTTP server whose slow handler runs once for all equal requests that wait for it.
//
//   ./http_server --port 8080 --work-ms 1500 &
//   ./http_client --port 8080 --count 50
//   kill %1
//
// The server prints (and http_client.cpp shows what the client does):
//
//   listening on http://127.0.0.1:8080
//   stopped: {"answers": {"executions": 1, "followers": 49, "failures": 0, ...}}
//
//   --port     0 chooses a free one (8080)
//   --work-ms  how long the work of a request takes (200)
//   --threads  how many requests can be served at once, waiting ones included (256)
//
// The routes are in http_service.hpp. SIGINT and SIGTERM end the server when it has answered the
// requests at hand.

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

  // No thread shall be interrupted by the signals that end the server: main waits for them.
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGINT);
  sigaddset(&ending, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  std::atomic<int> answers = 0;
  HttpService::Responses group;
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
  std::cout << "listening on http://127.0.0.1:" << bound_port << std::endl;

  int signal = 0;
  sigwait(&ending, &signal);
  server.stop();
  serving.join();
  std::cout << "stopped: " << ToJson(service.GetStats());
}
