// SPDX-License-Identifier: MIT

// Sends many HTTP requests at the same time, and prints what came back.
//
//   ./http_server --port 8080 --work-ms 1500 &
//   ./http_client --port 8080 --count 50
//
// prints (the time varies):
//
//   50 requests to http://127.0.0.1:8080/ at the same time
//   status 200: 50
//   distinct bodies: 1
//   elapsed: 1.53 s
//   the server's /stats: [{"labels": {"group": "answers"}, "stats": {"executions": 1, ...}}]
//
// With --path /alone there is no group: the 50 requests get 50 distinct bodies.
//
//   --count         how many requests, each on its own thread (50)
//   --host, --port  the server (127.0.0.1, 8080)
//   --path          the path, which may have a query: '/?user=42' (/)

#include <httplib.h>

#include <chrono>
#include <cstddef>
#include <iomanip>
#include <iostream>
#include <latch>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/flags.hpp"

namespace {

struct Answer {
  int status = 0;  // 0: there was no answer
  std::string body;
};

}  // namespace

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  const int count = flags.Number("count", 50, 1, 4096);
  const std::string host = flags.Text("host", "127.0.0.1");
  const int port = flags.Number("port", 8080, 1, 65535);
  const std::string path = flags.Text("path", "/");
  flags.RefuseOthers();

  const auto get = [&](const std::string& what) -> Answer {
    httplib::Client client(host, port);
    client.set_read_timeout(120);  // seconds
    const httplib::Result answer = client.Get(what);
    return answer ? Answer{answer->status, answer->body} : Answer{};
  };

  std::vector<Answer> answers(static_cast<std::size_t>(count));
  std::latch ready(count + 1);
  std::vector<std::thread> threads;
  for (Answer& mine : answers) {
    threads.emplace_back([&] {
      ready.arrive_and_wait();  // so that all start together
      mine = get(path);
    });
  }
  const auto start = std::chrono::steady_clock::now();
  ready.arrive_and_wait();
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;

  std::map<int, int> statuses;
  std::set<std::string> bodies;
  for (const Answer& answer : answers) {
    ++statuses[answer.status];
    if (answer.status != 0) bodies.insert(answer.body);
  }
  if (bodies.empty()) {
    std::cerr << "http_client: no answer from http://" << host << ":" << port << "\n";
    return 1;
  }
  std::cout << count << " requests to http://" << host << ":" << port << path
            << " at the same time\n";
  for (const auto& [status, times] : statuses) {
    std::cout << (status == 0 ? "no answer" : "status " + std::to_string(status)) << ": " << times
              << "\n";
  }
  std::cout << "distinct bodies: " << bodies.size() << "\n"
            << "elapsed: " << std::setprecision(3) << elapsed.count() << " s\n"
            << "the server's /stats: " << get("/stats").body;
}
