// SPDX-License-Identifier: MIT
// error: CoDo keeps an executor that is a temporary, and this one cannot be moved: name it first

#include <mutex>
#include <singleflight/coro.hpp>

struct Pool {
  void operator()(const auto& task) { task(); }
  std::mutex mutex;
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::CoDo(
      group, 1, [] { return 1; }, Pool()));
}
