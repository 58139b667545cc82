// SPDX-License-Identifier: MIT

// DoAsync: asks now, waits later, and a thread pool runs the functions.
//
//   c++ -std=c++20 -pthread -I include examples/async.cpp -o async && ./async
//
// prints, always:
//
//   100 futures for one key: 1 execution, 100 got Ada
//   two groups, asked at once: Ada has 3 orders, both queries ran at the same time
//   after 10 ms: not ready, still on the call: yes; in the end: a report
//   two futures, dropped: 2, then 1, then 0 callers; the work stopped: yes
//   reports: executions 2, followers 1, left 2, failures 0

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <iostream>
#include <latch>
#include <mutex>
#include <singleflight/singleflight.hpp>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace std::literals;

// Whatever runs a task on some thread can be an executor; this is the least that does. It runs what
// was posted before it ends.
class Pool {
 public:
  explicit Pool(int size) {
    while (size-- > 0) threads_.emplace_back([this](const std::stop_token& stop) { Work(stop); });
  }
  void Post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_one();
  }

 private:
  void Work(const std::stop_token& stop) {
    for (std::unique_lock lock(mutex_);
         posted_.wait(lock, stop, [this] { return !tasks_.empty(); }); lock.lock()) {
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any posted_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  std::vector<std::jthread> threads_;        // the last: they end first
};

// What runs a slow query, which takes until another has arrived at the latch as well.
template <class Value>
auto Query(std::latch& slow, Value answer) {
  return [&slow, answer] {
    slow.arrive_and_wait();
    return answer;
  };
}

}  // namespace

int main() {
  Pool pool(2);  // before the groups: they wait at their end for the calls that it runs
  const auto on_pool = [&pool](auto task) { pool.Post(std::move(task)); };
  singleflight::Group<std::string, std::string> users, reports;
  singleflight::Group<std::string, int> orders;

  {  // A hundred ask before the first has its answer.
    std::latch slow(2);
    std::vector<singleflight::Future<std::string>> futures;
    while (futures.size() < 100) {
      futures.push_back(singleflight::DoAsync(users, "user:42", Query(slow, "Ada"s), on_pool));
    }
    slow.count_down();
    int got_ada = 0;
    for (auto& future : futures) got_ada += *future.Get() == "Ada" ? 1 : 0;
    std::cout << "100 futures for one key: " << users.GetStats().executions << " execution, "
              << got_ada << " got Ada\n";
  }
  {  // Two groups work while this thread is free; here each query takes until the other has begun.
    std::latch both(2);
    auto user = singleflight::DoAsync(users, "user:42", Query(both, "Ada"s), on_pool);
    auto count = singleflight::DoAsync(orders, "user:42", Query(both, 3), on_pool);
    std::cout << "two groups, asked at once: " << *user.Get() << " has " << *count.Get()
              << " orders, both queries ran at the same time\n";
  }
  {  // A timeout ends the wait, and not the caller's place on the call.
    std::latch slow(2);
    auto report = singleflight::DoAsync(reports, "report:7", Query(slow, "a report"s), on_pool);
    const bool ready = report.WaitFor(10ms) == std::future_status::ready;
    std::cout << "after 10 ms: " << (ready ? "ready" : "not ready")
              << ", still on the call: " << (reports.Callers("report:7") == 1 ? "yes" : "no");
    slow.count_down();
    std::cout << "; in the end: " << *report.Get() << "\n";
  }
  // To drop a Future is to leave, and the last to leave stops the work.
  std::latch stopped(1);
  const auto write = [&stopped](const std::stop_token& stop) {
    while (!stop.stop_requested()) std::this_thread::sleep_for(1ms);  // a page of the report
    stopped.count_down();
    return "what nobody wants any more";
  };
  auto one = singleflight::DoAsync(reports, "report:8", write, on_pool);
  auto other = singleflight::DoAsync(reports, "report:8", write, on_pool);
  std::cout << "two futures, dropped: " << reports.Callers("report:8");
  one = {};
  std::cout << ", then " << reports.Callers("report:8");
  other = {};
  std::cout << ", then " << reports.Callers("report:8") << " callers; the work stopped: ";
  stopped.wait();
  const singleflight::Stats stats = reports.GetStats();
  std::cout << "yes\nreports: executions " << stats.executions << ", followers " << stats.followers
            << ", left " << stats.left << ", failures " << stats.failures << "\n";
}
