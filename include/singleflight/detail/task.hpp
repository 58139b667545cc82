// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../stop_token.hpp"
#include "any_task.hpp"
#include "invoke.hpp"
#include "outcome.hpp"
#include "thread_reaper.hpp"

namespace singleflight::detail {

// One call's work, as an executor receives it. Copyable, and all copies share one piece of work: it
// runs once, whichever copy is called first. If all copies are destroyed before that, the call
// lands with `owner_dead`.
//
// Make it in `launch`: if `fn` takes a stop token, the call can be asked to stop from then on, also
// while the task is in a queue.
template <class G, class Fn>
class Task {
  using Value = typename G::ValueType;

 public:
  template <class F>
  Task(typename G::Lead lead, F&& fn)
      : work_(std::make_shared<Work>(std::move(lead), std::forward<F>(fn))) {
    if constexpr (kTakesStopToken<Fn>) static_cast<void>(work_->lead.GetStopToken());
  }

  void operator()() const {
    const std::shared_ptr<Work> work = work_;  // a woken caller may destroy this task
    work->Run();
  }

  // Returns the same without its type.
  AnyTask Untyped() && {
    return AnyTask(std::move(work_), [](const std::shared_ptr<void>& work) {
      static_cast<Work*>(work.get())->Run();
    });
  }

  // Returns what starts threads for the call's group. Null once the call has landed: nothing is
  // left to run, and the group may be gone.
  ThreadReaper* Reaper() const noexcept {
    const typename G::Lead& lead = work_->lead;
    return lead.Target().HasLanded() ? nullptr : &lead.Reaper();
  }

 private:
  struct Work {
    template <class F>
    Work(typename G::Lead its_lead, F&& its_fn)
        : lead(std::move(its_lead)), fn(std::in_place, std::forward<F>(its_fn)) {}

    void Run() {
      if constexpr (kTakesStopToken<Fn>) {
        lead.Run([this](StopToken stop) { return RunFn(std::move(stop)); });
      } else {
        lead.Run([this] { return RunFn(); });
      }
    }

    // Destroys what `fn` has captured before the call lands.
    template <class... Args>
    auto RunFn(Args&&... args) {
      struct DestroyFn {
        ~DestroyFn() { fn.reset(); }
        std::optional<Fn>& fn;
      } const destroy{fn};
      if constexpr (kIsCached<std::invoke_result_t<Fn, Args...>>) {
        return std::invoke(std::move(*fn), std::forward<Args>(args)...);  // Lead::Run unpacks it
      } else {
        return detail::Invoke<Value>(std::move(*fn), std::forward<Args>(args)...);
      }
    }

    typename G::Lead lead;
    std::optional<Fn> fn;  // accessed only by the one run
  };

  std::shared_ptr<Work> work_;
};

}  // namespace singleflight::detail
