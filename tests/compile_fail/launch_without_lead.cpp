// SPDX-License-Identifier: MIT
// error: launch must be callable as launch(Group::Lead)

#include <singleflight/group.hpp>

struct Waiter final : singleflight::Group<int, int>::Waiter {
  void OnLanded() noexcept override {}
};

int main() {
  singleflight::Group<int, int> group;
  Waiter waiter;
  group.Join(1, waiter, [] {});
}
