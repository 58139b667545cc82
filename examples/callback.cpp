// SPDX-License-Identifier: MIT

// Group::Join in a server with callbacks: no thread waits for a call, and any client may hang up at
// any time. To use GetUser with gRPC, derive it from grpc::ServerUnaryReactor, and let the
// service's method create it, call Start and return it.
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
#include <singleflight/group.hpp>
#include <string>
#include <thread>

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
class GetUser final : public ServerUnaryReactor, private Users::Waiter {
 public:
  GetUser(Service& service, Reply& reply) : ServerUnaryReactor(reply), service_(service) {
    ++alive;
  }

  void Start(const std::string& id) {
    try {
      service_.users.Join(id, *this, [&service = service_, &id](Users::Lead lead) {
        service.pool.Post([&service, id, lead]() mutable {
          lead.Run([&service, &id] { return service.Load(id); });
        });
      });
    } catch (const std::exception&) {  // the group refused the caller: OnLanded never comes
      decided_ = true;
      return Finish(Status::kInternal);
    }
    if (may_leave_.exchange(true)) LeaveCall();
  }

 private:
  void OnLanded() noexcept override {
    if (decided_.exchange(true)) return Finish(Status::kCancelled);  // OnCancel was first
    Status status = Status::kOk;
    try {
      reply().user = *TakeResult();
    } catch (...) {  // what Load threw
      status = Status::kInternal;
    }
    Finish(status);
  }

  void OnCancel() override {
    if (decided_.exchange(true)) return;  // OnLanded finishes with the result
    if (may_leave_.exchange(true)) LeaveCall();
  }

  void LeaveCall() {
    // If Leave returns false, OnLanded has come or will come, and it finishes the request.
    if (service_.users.Leave(*this)) Finish(Status::kCancelled);
  }

  // gRPC calls this once Finish was called and Start and OnCancel have returned. So these two may
  // use the object until they return, even if OnLanded has finished the request meanwhile.
  void OnDone() override {
    delete this;
    --alive;
  }

  Service& service_;
  // Set by OnLanded and by OnCancel. The first to set it either takes the result or leaves. This is
  // needed because the two may run at the same time, and Leave must not race with TakeResult.
  std::atomic<bool> decided_ = false;
  // Set when Join has returned, and by an OnCancel that was first. The second to set it leaves.
  // This is needed because OnCancel may come before Join has returned, and Leave must not race with
  // Join.
  std::atomic<bool> may_leave_ = false;
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
