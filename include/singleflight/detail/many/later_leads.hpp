// SPDX-License-Identifier: MIT
#pragma once

// How a batch's `fn` runs in a group that launches later: see later_launch.hpp. It waits until it
// is known of each key whether this batch leads it for now, and then runs once for those that it
// leads. If another process gives up a key later, it runs again, for that one.

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "../group_like.hpp"
#include "../later_launch.hpp"
#include "batch_work.hpp"

namespace singleflight::detail {

// The executor of a batch that has none: its work begins on this thread, or on the group's
// executor.
struct NoExecutor {};

// Evaluated in a static_assert, so that what it says is a compiler's first error.
template <class Executor>
constexpr void CheckLaterExecutor() {
  static_assert(std::is_constructible_v<std::decay_t<Executor>, Executor>,
                "this group keeps executor: pass one that can be copied, or std::move it");
}

// Of a batch that does not block. Shared by its calls.
template <class G, class Fn, class Executor>
class LaterLeads : public std::enable_shared_from_this<LaterLeads<G, Fn, Executor>> {
  using Key = typename G::KeyType;
  using Lead = typename G::Lead;
  using Work = BatchWork<G, Fn>;

  static_assert(std::is_copy_constructible_v<Fn>,
                "this group keeps fn, and may need it again: pass one that can be copied");
  static_assert(
      std::is_same_v<Executor, NoExecutor> || std::is_invocable_v<Executor&, BatchTask<G, Fn>>,
      "this group keeps executor, and may need it again: pass one that can be called more "
      "than once");

 public:
  template <class F, class E>
  LaterLeads(G& group, F&& fn, E&& executor)
      : group_(group), fn_(std::forward<F>(fn)), executor_(std::forward<E>(executor)) {}

  // What Join gets for one key.
  class Launch {
   public:
    Launch(std::shared_ptr<LaterLeads> batch, const Key& key)
        : batch_(std::move(batch)), key_(key) {
      batch_->Expect();
    }
    Launch(Launch&& other) noexcept
        : batch_(std::move(other.batch_)),
          key_(std::move(other.key_)),
          is_decided_(std::exchange(other.is_decided_, true)) {}
    ~Launch() { Decide(); }  // the key's call is not this batch's to lead

    void operator()(Lead lead) {
      batch_->Add(key_, std::move(lead));
      Decide();
    }
    // Another process leads for now.
    //
    // Thread: any. It takes no lock for long, and runs no code of the user's.
    void OnFollows() noexcept { Decide(); }

   private:
    void Decide() noexcept {
      if (!std::exchange(is_decided_, true)) batch_->Decided();
    }

    std::shared_ptr<LaterLeads> batch_;
    Key key_;
    bool is_decided_ = false;
  };

  // Called once for each key, before Decided.
  void Expect() noexcept {
    const std::lock_guard lock(mutex_);
    ++undecided_;
  }
  // Also called once after the last key was joined.
  void Decided() noexcept {
    const std::lock_guard lock(mutex_);
    if (--undecided_ == 0 && !leads_.Empty()) Schedule();
  }

 private:
  void Add(const Key& key, Lead lead) {
    const std::lock_guard lock(mutex_);
    leads_.Add(key, std::move(lead));
    if (undecided_ == 0) Schedule();  // one that was given up later
  }

  // Has Begin run elsewhere, because this may be the loop's thread.
  void Schedule() {
    group_.Deliver([self = this->shared_from_this()] { self->Begin(); });
  }

  void Begin() {
    BatchLeads<G, Fn> leads;
    {
      const std::lock_guard lock(mutex_);
      leads = std::exchange(leads_, {});
    }
    leads.Begin(fn_, [this](const std::shared_ptr<Work>& work) {
      if constexpr (std::is_same_v<Executor, NoExecutor>) {
        group_.Execute(BatchTask<G, Fn>(work));
      } else {
        std::invoke(executor_, BatchTask<G, Fn>(work));
      }
    });
  }

  G& group_;
  const Fn fn_;
  Executor executor_;
  std::mutex mutex_;
  // Guarded by mutex_.
  BatchLeads<G, Fn> leads_;
  std::size_t undecided_ = 1;  // keys, and the thread that joins them
};

}  // namespace singleflight::detail
