// SPDX-License-Identifier: MIT
// error: CoDo keeps resume_on: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/coro.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto resume_on = [loop = std::make_unique<int>(1)](std::coroutine_handle<> handle) {
    handle();
  };
  static_cast<void>(singleflight::CoDo(
      group, 1, [] { return 1; }, {}, resume_on));
}
