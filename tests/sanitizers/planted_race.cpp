// SPDX-License-Identifier: MIT

// Each run has one of two deliberate data races, which ThreadSanitizer must report although the
// program contains tsan_exception_ptr.cpp. If that file made ThreadSanitizer ignore too much, no
// race would be reported. This program is built with ThreadSanitizer only.
//
//   planted_race after_fn        the leader writes after its fn returned, while a follower reads
//   planted_race in_exception    two callers write to the one exception that both got
//   planted_race none            no race: a follower reads what fn wrote before it returned

#include <atomic>
#include <iostream>
#include <singleflight/group.hpp>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace {

singleflight::Group<int, int> group;

void AwaitFollower() {
  while (group.Callers(1) < 2) std::this_thread::yield();
}

// Runs `then(is_leader)` in both callers of one call after the call has landed.
template <class Fn, class Then>
void Share(Fn fn, Then then) {
  std::jthread leader([&] {
    try {
      static_cast<void>(group.Do(1, [&] {
        AwaitFollower();
        return fn();
      }));
      then(true);
    } catch (std::runtime_error&) {
      then(true);
    }
  });
  while (group.Callers(1) == 0) std::this_thread::yield();
  try {
    static_cast<void>(group.Do(1, [] { return 0; }));
    then(false);
  } catch (std::runtime_error&) {
    then(false);
  }
}

int written = 0;  // unguarded

void AfterFn() {
  Share([] { return 1; },
        [](bool leader) {
          if (leader) {
            written = 1;
          } else {
            std::cout << written << '\n';
          }
        });
}

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
  int seen_by = 0;  // unguarded
};

void InException() {
  const auto fn = []() -> int { throw Failure("shared"); };
  Share(fn, [](bool leader) {
    try {
      throw;  // rethrows the exception that both callers are handling
    } catch (Failure& failure) {
      failure.seen_by = leader ? 1 : 2;
    }
  });
}

void None() {
  Share(
      [] {
        written = 1;
        return 1;
      },
      [](bool leader) {
        if (!leader) std::cout << written << '\n';
      });
  const auto fn = []() -> int { throw Failure("shared"); };
  Share(fn, [](bool) {});
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view which = argc == 2 ? argv[1] : "";
  if (which == "after_fn") {
    AfterFn();
  } else if (which == "in_exception") {
    InException();
  } else if (which == "none") {
    None();
  } else {
    std::cerr << "usage: planted_race after_fn|in_exception|none\n";
    return 2;
  }
}
