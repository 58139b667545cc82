// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

#include "invoke.hpp"
#include "outcome.hpp"

namespace singleflight::detail {

// The work of one call, as an executor takes it: copyable, and copies are one and the same work. It
// runs once, whichever copy is called first; if the last copy goes without, the call lands with
// `owner_dead`.
template <class G, class Fn>
class Task {
  using Value = typename G::ValueType;

 public:
  template <class F>
  Task(typename G::Lead lead, F&& fn)
      : work_(std::make_shared<Work>(std::move(lead), std::forward<F>(fn))) {}

  void operator()() const {
    const std::shared_ptr<Work> work = work_;  // whom the landing wakes may destroy this task
    if constexpr (kTakesStopToken<Fn>) {
      work->lead.Run([&work](std::stop_token stop) { return work->Once(std::move(stop)); });
    } else {
      work->lead.Run([&work] { return work->Once(); });
    }
  }

 private:
  struct Work {
    template <class F>
    Work(typename G::Lead its_lead, F&& its_fn)
        : lead(std::move(its_lead)), fn(std::in_place, std::forward<F>(its_fn)) {}

    // What `fn` has captured ends before the call lands.
    template <class... Args>
    Stored<Value> Once(Args&&... args) {
      struct EndOfFn {
        ~EndOfFn() { fn.reset(); }
        std::optional<Fn>& fn;
      } const end{fn};
      return detail::Invoke<Value>(std::move(*fn), std::forward<Args>(args)...);
    }

    typename G::Lead lead;
    std::optional<Fn> fn;  // touched by the one run
  };

  std::shared_ptr<Work> work_;
};

}  // namespace singleflight::detail
