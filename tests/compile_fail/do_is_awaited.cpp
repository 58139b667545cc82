// SPDX-License-Identifier: MIT
// says: Do blocks: write co_await CoDo(group, key, fn)

#include <coroutine>
#include <singleflight/group.hpp>

struct Task {
  struct promise_type {
    Task get_return_object();
    std::suspend_never initial_suspend();
    std::suspend_never final_suspend() noexcept;
    void return_void();
    void unhandled_exception();
  };
};

Task Use(singleflight::Group<int, int>& group) {
  auto [value, shared] = co_await group.Do(1, [] { return 1; });
  static_cast<void>(value);
}
