// SPDX-License-Identifier: MIT
// error: resume_on is moved where nothing may throw: make its move noexcept

#include <coroutine>
#include <singleflight/coro.hpp>

struct ResumeOn {
  ResumeOn() = default;
  ResumeOn(ResumeOn&&) {}
  void operator()(std::coroutine_handle<> handle) const { handle(); }
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::CoDo(
      group, 1, [] { return 1; }, {}, ResumeOn()));
}
