// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

#include "invoke.hpp"
#include "outcome.hpp"

namespace singleflight::detail {

// One call's work, as an executor receives it. Copyable, and all copies share one piece of work: it
// runs once, whichever copy is called first. If all copies are destroyed before that, the call
// lands with `owner_dead`.
template <class G, class Fn>
class Task {
  using Value = typename G::ValueType;

 public:
  template <class F>
  Task(typename G::Lead lead, F&& fn)
      : work_(std::make_shared<Work>(std::move(lead), std::forward<F>(fn))) {}

  void operator()() const {
    const std::shared_ptr<Work> work = work_;  // a woken caller may destroy this task
    if constexpr (kTakesStopToken<Fn>) {
      work->lead.Run([&work](std::stop_token stop) { return work->RunFn(std::move(stop)); });
    } else {
      work->lead.Run([&work] { return work->RunFn(); });
    }
  }

 private:
  struct Work {
    template <class F>
    Work(typename G::Lead its_lead, F&& its_fn)
        : lead(std::move(its_lead)), fn(std::in_place, std::forward<F>(its_fn)) {}

    // Destroys what `fn` has captured before the call lands.
    template <class... Args>
    Stored<Value> RunFn(Args&&... args) {
      struct DestroyFn {
        ~DestroyFn() { fn.reset(); }
        std::optional<Fn>& fn;
      } const destroy{fn};
      return detail::Invoke<Value>(std::move(*fn), std::forward<Args>(args)...);
    }

    typename G::Lead lead;
    std::optional<Fn> fn;  // accessed only by the one run
  };

  std::shared_ptr<Work> work_;
};

}  // namespace singleflight::detail
