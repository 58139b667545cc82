// SPDX-License-Identifier: MIT
#pragma once

// AnyTask: a task without its type. What starts a thread for it, or posts it, is compiled once, and
// not again for each `fn`.

#include <memory>
#include <utility>

namespace singleflight::detail {

// Copyable, and all copies share `work`, like those of the task that it was made from.
class AnyTask {
 public:
  using Run = void (*)(const std::shared_ptr<void>& work);

  AnyTask(std::shared_ptr<void> work, Run run) noexcept : work_(std::move(work)), run_(run) {}

  void operator()() const {
    const std::shared_ptr<void> work = work_;  // a woken caller may destroy this task
    run_(work);
  }

 private:
  std::shared_ptr<void> work_;
  Run run_;
};

}  // namespace singleflight::detail
