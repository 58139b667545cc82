// SPDX-License-Identifier: MIT

// DoThen in a server with callbacks: no thread waits for a call, and any client may hang up at any
// time. To use GetUser with gRPC, derive it from grpc::ServerUnaryReactor, and let the service's
// method create it, call Start and return it.
//
//   c++ -std=c++20 -pthread -I include examples/callback.cpp -o callback && ./callback
//
// prints, always:
//
//   4 threads handle 100 rounds of 40 requests for 4 users. 1200 clients hang up meanwhile.
//   requests that were finished exactly once: 4000 of 4000
//   clients that stayed and got their user: 2800 of 2800
//   clients that hung up, and were cancelled or got their user: 1200 of 1200
//   executions: 400, one for each user in each round
//   left over: 0 requests, 0 calls in flight

#include <atomic>
#include <chrono>
#include <exception>
#include <iostream>
#include <singleflight/async.hpp>
#include <string>
#include <thread>
#include <utility>

#include "support/callback_server.hpp"
#include "support/flags.hpp"
#include "support/thread_pool.hpp"

namespace {

using Users = singleflight::Group<std::string, std::string>;

struct Service {
  // Stands for a database query.
  std::string Load(const std::string& id) {
    // This waits until all requests of the round have joined, so that the counts are the same on
    // any machine. Your function does not need it.
    clients.AwaitAllHandlers();
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    return id;
  }

  Clients clients;
  ThreadPool pool{4};  // before the group, whose destructor waits for its calls
  Users users;
};

std::atomic<int> alive = 0;  // objects of class GetUser

// One request. Its call lands, or its client hangs up, or both happen at once on two threads.
class GetUser final : public ServerUnaryReactor {
 public:
  GetUser(Service& service, Reply& reply) : ServerUnaryReactor(reply), service_(service) {
    ++alive;
  }

  void Start(const std::string& id) {
    try {
      singleflight::DoThen(
          caller_, service_.users, id, [&service = service_, id] { return service.Load(id); },
          [&pool = service_.pool](auto task) { pool.Post(std::move(task)); },
          [this](const singleflight::KeyResult<std::string>& user) {
            if (user) reply().user = *user;
            Finish(user ? Status::kOk : Status::kInternal);
          });
    } catch (const std::exception&) {  // the group refused the caller, or there was no memory
      Finish(Status::kInternal);
    }
  }

 private:
  void OnCancel() override {
    if (caller_.Leave()) Finish(Status::kCancelled);  // if not, the callback finishes it
  }

  void OnDone() override {
    delete this;
    --alive;
  }

  Service& service_;
  singleflight::Caller caller_;  // declared last: destroying it waits for the callback
};

}  // namespace

int main(int argc, char** argv) {
  Flags(argc, argv).RefuseOthers();
  Service service;
  const auto make = [&service](Reply& reply) { return new GetUser(service, reply); };
  const Clients::Counts counts = service.clients.Run(make, alive);
  const singleflight::Stats stats = service.users.GetStats();
  std::cout << "4 threads handle 100 rounds of 40 requests for 4 users. " << counts.hung_up
            << " clients hang up meanwhile.\n"
            << "requests that were finished exactly once: " << counts.finished_once << " of "
            << counts.requests
            << "\nclients that stayed and got their user: " << counts.stayed_and_got_user << " of "
            << counts.stayed << "\nclients that hung up, and were cancelled or got their user: "
            << counts.hung_up_and_settled << " of " << counts.hung_up
            << "\nexecutions: " << stats.executions << ", one for each user in each round"
            << "\nleft over: " << alive << " requests, " << stats.in_flight << " calls in flight\n";
}
