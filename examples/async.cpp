// SPDX-License-Identifier: MIT

// DoAsync: the caller asks now and waits later. A thread pool runs the queries.
//
//   c++ -std=c++20 -pthread -I include examples/async.cpp -o async && ./async
//
// prints, always:
//
//   100 futures asked for one user. The group ran 1 query, and 100 futures got Ada.
//   Two groups were asked one after the other. Both queries ran at the same time: Ada has 3 orders.
//   After 10 ms the report was not ready, and 1 caller was on the call. Later it got a report.
//   Two futures asked for one report. The call had 2 callers, then 1, then 0 as they were dropped.
//   When the last future was dropped, the query was asked to stop, and it stopped.
//   The group of reports counted 2 executions, 1 follower, 2 callers that left, 0 failures.

#include <chrono>
#include <future>
#include <iostream>
#include <latch>
#include <singleflight/singleflight.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/flags.hpp"
#include "support/thread_pool.hpp"

namespace {

using namespace std::literals;

// Returns a slow query: it waits until somebody else has arrived at the latch, too.
template <class Value>
auto Query(std::latch& slow, Value answer) {
  return [&slow, answer] {
    slow.arrive_and_wait();
    return answer;
  };
}

}  // namespace

int main(int argc, char** argv) {
  Flags(argc, argv).RefuseOthers();
  ThreadPool pool(2);  // before the groups, whose destructors wait for the calls on the pool
  const auto on_pool = [&pool](auto task) { pool.Post(std::move(task)); };
  singleflight::Group<std::string, std::string> users, reports;
  singleflight::Group<std::string, int> orders;

  {  // A hundred futures ask before the first has its answer.
    std::latch slow(2);
    std::vector<singleflight::Future<std::string>> futures;
    while (futures.size() < 100) {
      futures.push_back(singleflight::DoAsync(users, "user:42", Query(slow, "Ada"s), on_pool));
    }
    slow.count_down();
    int got_ada = 0;
    for (auto& future : futures) got_ada += *future.Get() == "Ada" ? 1 : 0;
    std::cout << "100 futures asked for one user. The group ran " << users.GetStats().executions
              << " query, and " << got_ada << " futures got Ada.\n";
  }
  {  // This thread waits for neither query. Each query takes until the other has started.
    std::latch both(2);
    auto user = singleflight::DoAsync(users, "user:42", Query(both, "Ada"s), on_pool);
    auto count = singleflight::DoAsync(orders, "user:42", Query(both, 3), on_pool);
    std::cout << "Two groups were asked one after the other. Both queries ran at the same time: "
              << *user.Get() << " has " << *count.Get() << " orders.\n";
  }
  {  // After a timeout the future is still a caller of the call.
    std::latch slow(2);
    auto report = singleflight::DoAsync(reports, "report:7", Query(slow, "a report"s), on_pool);
    const bool ready = report.WaitFor(10ms) == std::future_status::ready;
    std::cout << "After 10 ms the report was " << (ready ? "" : "not ") << "ready, and "
              << reports.Callers("report:7") << " caller was on the call. Later it got ";
    slow.count_down();
    std::cout << *report.Get() << ".\n";
  }
  // A future that is dropped leaves its call. When the last one leaves, the query is asked to stop.
  std::latch stopped(1);
  const auto write = [&stopped](const singleflight::StopToken& stop) {
    while (!stop.stop_requested()) std::this_thread::sleep_for(1ms);  // writes a page
    stopped.count_down();
    return "a report that nobody wants";
  };
  auto one = singleflight::DoAsync(reports, "report:8", write, on_pool);
  auto other = singleflight::DoAsync(reports, "report:8", write, on_pool);
  std::cout << "Two futures asked for one report. The call had " << reports.Callers("report:8");
  one = {};
  std::cout << " callers, then " << reports.Callers("report:8");
  other = {};
  std::cout << ", then " << reports.Callers("report:8") << " as they were dropped.\n";
  stopped.wait();
  const singleflight::Stats stats = reports.GetStats();
  std::cout << "When the last future was dropped, the query was asked to stop, and it stopped.\n"
            << "The group of reports counted " << stats.executions << " executions, "
            << stats.followers << " follower, " << stats.left << " callers that left, "
            << stats.failures << " failures.\n";
}
