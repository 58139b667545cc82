// SPDX-License-Identifier: MIT

// Tests promises 9 and 14 where a program and a plugin use the same groups. The plugin is loaded
// with dlopen and has its own copies of the library's inline variables.

#include "self_call.hpp"

#include <dlfcn.h>
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <latch>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using modules::Future;
using modules::Group;
using modules::Lead;
using modules::Module;
using singleflight::Role;
using singleflight::Stats;

namespace {

const Module& Program() {
  static const modules::ThisModule program("the program");
  return program;
}

// Loads the plugin, which stays loaded.
const Module& Plugin() {
  static const Module* const plugin = [] {
    void* const loaded = dlopen(TEST_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (loaded == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<const Module* (*)()>(dlsym(loaded, "PluginModule"))();
  }();
  return *plugin;
}

// Calls `test` for each choice of a module for each of its parameters. At least one is the plugin.
template <class Test, class... Chosen>
void ForEachChoice(Test&& test, const Chosen&... chosen) {
  if constexpr (std::is_invocable_v<Test, const Chosen&...>) {
    std::string choice;
    ((choice += chosen.Name() + std::string(", ")), ...);
    CAPTURE(choice);
    if (((&chosen == &Plugin()) || ...)) test(chosen...);
  } else {
    for (const Module* next : {&Program(), &Plugin()}) ForEachChoice(test, chosen..., *next);
  }
}

// A group in memory that cannot be accessed any more once the group is destroyed.
class FencedGroup {
 public:
  explicit FencedGroup(const Module& module, singleflight::GroupOptions options = {})
      : module_(module),
        memory_(mmap(nullptr, sizeof(Group), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0)) {
    REQUIRE(memory_ != MAP_FAILED);
    group_ = module.Make(memory_, options);
  }
  ~FencedGroup() {
    Destroy();
    munmap(memory_, sizeof(Group));
  }
  FencedGroup(const FencedGroup&) = delete;
  FencedGroup& operator=(const FencedGroup&) = delete;

  void Destroy() {
    if (group_ == nullptr) return;
    module_.Destroy(*std::exchange(group_, nullptr));
    mprotect(memory_, sizeof(Group), PROT_NONE);
  }

  Group& operator*() const { return *group_; }
  Group* operator->() const { return group_; }

 private:
  const Module& module_;
  void* memory_;
  Group* group_ = nullptr;
};

constexpr auto kDeadlock = std::errc::resource_deadlock_would_occur;

int ReturnTwo() { return 2; }

}  // namespace

TEST_CASE("Modules: the plugin has its own copies of inline variables") {
  CHECK(Program().InlineVariable() != Plugin().InlineVariable());
}

// ---- Promise 9

TEST_CASE("Promise 9: fn that asks for its own key through another module gets an error") {
  ForEachChoice([](const Module& owner, const Module& leader, const Module& asker) {
    FencedGroup group(owner);
    std::optional<std::errc> in_do;
    std::optional<std::errc> in_batch;
    const auto fn = [&] {
      in_do = ErrorOf([&] { return asker.Do(*group, "key", ReturnTwo); });
      in_batch = ErrorOf([&] { return asker.DoMany(*group, "key", ReturnTwo); });
      return 1;
    };
    CHECK(*leader.Do(*group, "key", fn) == 1);
    CHECK(in_do == kDeadlock);
    CHECK(in_batch == kDeadlock);
    CHECK(group->Callers("key") == 0);
    in_do.reset();
    in_batch.reset();
    CHECK(*leader.DoMany(*group, "key", fn) == 1);
    CHECK(in_do == kDeadlock);
    CHECK(in_batch == kDeadlock);
    CHECK(group->Callers("key") == 0);
  });
}

TEST_CASE(
    "Promise 9: fn that asks for its own key through a call of another module gets an error") {
  ForEachChoice(
      [](const Module& owner, const Module& leader, const Module& between, const Module& asker) {
        FencedGroup group(owner);
        std::optional<std::errc> error;
        const auto result = leader.Do(*group, "key", [&] {
          return *between.Do(*group, "between", [&] {
            error = ErrorOf([&] { return asker.Do(*group, "key", ReturnTwo); });
            return 1;
          });
        });
        CHECK(error == kDeadlock);
        CHECK(*result == 1);
        CHECK(group->GetStats() == Stats{.executions = 2});
      });
}

TEST_CASE(
    "Promise 9: a call led asynchronously that waits for itself through another module fails") {
  ForEachChoice([](const Module& owner, const Module& joiner, const Module& runner,
                   const Module& asker) {
    FencedGroup group(owner);
    std::optional<Lead> lead;
    const auto waiter = joiner.MakeWaiter();
    joiner.Join(*group, "key", *waiter, [&](Lead its_lead) { lead.emplace(std::move(its_lead)); });
    Future future = asker.DoAsync(*group, "key", ReturnTwo, nullptr);
    std::optional<std::errc> in_do;
    std::optional<std::errc> in_get;
    CHECK(runner.Run(*lead, [&] {
      in_do = ErrorOf([&] { return asker.Do(*group, "key", ReturnTwo); });
      in_get = ErrorOf([&] { return asker.Get(future); });
      return 1;
    }));
    CHECK(in_do == kDeadlock);
    CHECK(in_get == kDeadlock);
    CHECK(waiter->told == 1);
    CHECK(joiner.Take(*waiter) == 1);
    CHECK(*asker.Get(future) == 1);
  });
}

TEST_CASE("Promise 9: fn may wait for another thread's call through another module") {
  ForEachChoice([](const Module& owner, const Module& leader, const Module& asker) {
    FencedGroup group(owner);
    HeldCall held(*group, "held");
    Caller outer([&] {
      return leader.Do(*group, "outer", [&] { return *asker.Do(*group, "held", ReturnTwo); });
    });
    AwaitCallers(*group, "held", 2);
    CHECK(held.Finish().value == 1);
    CHECK(outer.Join().value == 1);
  });
}

// ---- Promise 14

TEST_CASE("Promise 14: a Future outlives its group, whichever modules have made and landed it") {
  ForEachChoice([](const Module& owner, const Module& joiner, const Module& lander,
                   const Module& last) {
    FencedGroup group(owner);
    std::optional<Lead> lead;
    const auto waiter = joiner.MakeWaiter();
    joiner.Join(*group, "key", *waiter, [&](Lead its_lead) { lead.emplace(std::move(its_lead)); });
    const auto dropped = last.MakeWaiter();
    last.Join(*group, "key", *dropped, nullptr);
    Future to_get = last.DoAsync(*group, "key", ReturnTwo, nullptr);
    Future to_drop = last.DoAsync(*group, "key", ReturnTwo, nullptr);
    CHECK(lander.Succeed(*lead, 1));
    group.Destroy();
    last.Drop(std::move(to_drop));
    CHECK(*last.Get(to_get) == 1);
    CHECK_FALSE(last.Leave(*waiter));
    CHECK_FALSE(last.Leave(*dropped));
    CHECK(last.Take(*waiter) == 1);
    last.Drop(std::move(*lead));
    CHECK(waiter->told == 1);
    CHECK(dropped->told == 1);
  });
}

TEST_CASE("Promise 14: a Future that a follower in another module has made outlives its group") {
  ForEachChoice([](const Module& owner, const Module& leader, const Module& follower,
                   const Module& last) {
    FencedGroup group(owner);
    Future future;
    const auto result = leader.Do(*group, "key", [&] {  // so the follower makes the shared state
      future = follower.DoAsync(*group, "key", ReturnTwo, nullptr);
      return 1;
    });
    CHECK(*result == 1);
    CHECK(result.shared());
    group.Destroy();
    last.Drop(std::move(future));
  });
}

TEST_CASE("Promise 14: a group waits for the calls that another module leads") {
  ForEachChoice([](const Module& owner, const Module& joiner, const Module& runner) {
    FencedGroup group(owner);
    std::optional<Lead> lead;
    const auto waiter = joiner.MakeWaiter();
    joiner.Join(*group, "key", *waiter, [&](Lead its_lead) { lead.emplace(std::move(its_lead)); });
    JoiningThread thread([&] {
      const StopToken stop = lead->GetStopToken();
      Await([&] { return stop.stop_requested(); });  // by ~Group
      runner.Run(*lead, [] { return 1; });
      lead.reset();
    });
    group.Destroy();  // crashes later if it does not wait
    thread.join();
    CHECK(waiter->told == 1);
    CHECK(joiner.Take(*waiter) == 1);
  });
}

// ---- All ways of waiting

TEST_CASE("Promise 1: callers in two modules share one execution") {
  ForEachChoice([](const Module& owner, const Module& leader, const Module& follower) {
    FencedGroup group(owner);
    std::latch finish(1);
    Caller led([&] {
      return leader.Do(*group, "key", [&] {
        finish.wait();
        return 1;
      });
    });
    AwaitCallers(*group, "key", 1);
    Caller blocked([&] { return follower.Do(*group, "key", ReturnTwo); });
    Caller may_leave([&] { return follower.Do(*group, "key", ReturnTwo, {.timeout = 24h}); });
    Future future = follower.DoAsync(*group, "key", ReturnTwo, nullptr);
    const auto waiter = follower.MakeWaiter();
    CHECK(follower.Join(*group, "key", *waiter, nullptr) == Role::kFollower);
    AwaitCallers(*group, "key", 5);
    finish.count_down();
    CHECK(led.Join().value == 1);
    for (auto* caller : {&blocked, &may_leave}) {
      CHECK(caller->Join().value == 1);
      CHECK(caller->Join().shared);
      CHECK(caller->Join().role == Role::kFollower);
    }
    CHECK(*leader.Get(future) == 1);
    CHECK(waiter->told == 1);
    CHECK(leader.Take(*waiter) == 1);
    CHECK(group->GetStats() == Stats{.executions = 1, .followers = 4});
  });
}

TEST_CASE("Promise 11: when the last caller leaves in another module, the call is asked to stop") {
  ForEachChoice([](const Module& owner, const Module& joiner, const Module& leaver) {
    FencedGroup group(owner);
    std::optional<Lead> lead;
    const auto waiter = joiner.MakeWaiter();
    joiner.Join(*group, "key", *waiter, [&](Lead its_lead) { lead.emplace(std::move(its_lead)); });
    const StopToken stop = lead->GetStopToken();
    Future future = joiner.DoAsync(*group, "key", ReturnTwo, nullptr);
    CHECK(leaver.Leave(*waiter));
    CHECK_FALSE(stop.stop_requested());
    leaver.Drop(std::move(future));
    CHECK(stop.stop_requested());
    CHECK(group->Callers("key") == 0);
    leaver.Drop(std::move(*lead));
    lead.reset();
    CHECK(waiter->told == 0);
    CHECK(group->GetStats() == Stats{.executions = 1, .followers = 1, .failures = 1, .left = 2});
  });
}

TEST_CASE("Errors: those of another module compare equal to the same std::errc") {
  const auto code_of = [](auto&& ask) {
    try {
      static_cast<void>(ask());
    } catch (const std::system_error& error) {
      return error.code();
    }
    return std::error_code();
  };
  ForEachChoice([&](const Module& owner, const Module& module) {
    FencedGroup group(owner, {.max_callers_per_call = 2});
    StopSource stopped;
    stopped.request_stop();
    HeldCall held(*group, "key");
    CHECK(code_of([&] { return module.Do(*group, "key", ReturnTwo, {.timeout = 0ns}); }) ==
          std::errc::timed_out);
    CHECK(code_of([&] {
            return module.Do(*group, "key", ReturnTwo, {.stop = stopped.get_token()});
          }) == std::errc::operation_canceled);
    const auto waiter = module.MakeWaiter();
    module.Join(*group, "key", *waiter, nullptr);
    CHECK(code_of([&] { return module.Do(*group, "key", ReturnTwo); }) ==
          std::errc::resource_unavailable_try_again);
    CHECK(module.Leave(*waiter));
    Future vanished = module.DoAsync(*group, "vanished", ReturnTwo, [](auto) {});
    CHECK(code_of([&] { return module.Get(vanished); }) == std::errc::owner_dead);
  });
}
