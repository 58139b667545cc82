// SPDX-License-Identifier: MIT

// What an AsyncDo keeps in order to ask again, once, if the call that it follows fails.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

// A pin of a context whose users may be unknown. It must then live anyway.
class ContextPin {
 public:
  // False: the context has been shut down.
  bool TryPin(ContextUsers* users) noexcept {
    if (users == nullptr) return true;
    pin_ = users->TryPin();
    return pin_.has_value();
  }

 private:
  std::optional<ContextUsers::Pin> pin_;
};

// Who may complete an operation that asks again. kWaiting: it is on a call, whose landing completes
// it, unless a cancellation does. kLeaving: a cancellation made it leave, or came too late for
// that. It does not ask again any more. kAsking: the thread that landed the failed call asks again,
// and nobody else touches the operation. kCanceled: likewise, and that thread then leaves the
// second call. kAnswered: likewise, but the second call has landed, and that thread completes.
enum class AskingPhase : unsigned char { kWaiting, kLeaving, kAsking, kCanceled, kAnswered };

// A Launch that waits for a second try. Until nothing can come of that any more, it keeps the key,
// and outstanding work on the executor of `fn`.
//
// The context of that executor need not be the operation's own. If it is destroyed before, there is
// no second try.
template <class G, class Fn, class Executor>
class LaunchTwice final : private ContextUsers::User {
  using Key = typename G::KeyType;
  using Work = net::executor_work_guard<Executor>;

 public:
  LaunchTwice(Fn&& fn, const Executor& executor, G& its_group, Key&& its_key)
      : group(its_group),
        key(std::move(its_key)),
        launch_(std::in_place, std::move(fn), executor),
        work_(std::in_place, executor) {
    if (ContextUsers* const users = ContextService::UsersOf(executor)) {
      users_ = users->shared_from_this();
    }
  }
  ~LaunchTwice() { Drop(); }
  LaunchTwice(const LaunchTwice&) = delete;
  LaunchTwice& operator=(const LaunchTwice&) = delete;

  const Executor& executor() const noexcept { return launch_->executor(); }

  // Called first. The operation itself is notified of the shutdown of its `own` context.
  void Watch(const ContextUsers* own) noexcept {
    if (users_.get() == own) {
      users_.reset();
    } else if (users_ != nullptr) {
      is_listed_ = users_->Add(*this);
    }
  }

  // False: it was launched before, or its context has been shut down.
  bool HasLaunch() const noexcept { return launch_.has_value(); }

  // False: the context of `fn` has been shut down.
  bool TryPin(ContextPin& pin) const noexcept { return pin.TryPin(users_.get()); }

  // Launches the work of the first call: there will be no second try.
  void operator()(typename G::Lead lead) {
    Launching launching = Take();
    launching.launch(std::move(lead));
  }

  struct Launching {
    Launch<G, Fn, Executor> launch;
    std::optional<Work> work;  // until the executor has the call's work
  };
  // The context of `fn` must not be destroyed meanwhile. If moving `fn` throws, this throws that,
  // and changes nothing else.
  Launching Take() {
    Launching launching{std::move(*launch_), std::nullopt};
    const auto pin = Unlist();
    if (work_) launching.work.emplace(std::move(*work_));
    Destroy();
    return launching;
  }

  // Destroys what a second try would have needed.
  void Drop() noexcept {
    const auto pin = Unlist();
    Destroy();
  }

  G& group;
  Key key;
  std::atomic<AskingPhase> phase = AskingPhase::kWaiting;

 private:
  void OnShutdown() noexcept override { Destroy(); }

  // Prevents OnShutdown, or waits until it has returned.
  std::optional<ContextUsers::Pin> Unlist() noexcept {
    if (!std::exchange(is_listed_, false)) return std::nullopt;
    return users_->Remove(*this);
  }

  // The work comes last: without it, the context may run out of work and be destroyed.
  void Destroy() noexcept {
    launch_.reset();
    work_.reset();
  }

  // Until Unlist, used only by OnShutdown or by a thread that has pinned the context.
  std::optional<Launch<G, Fn, Executor>> launch_;
  std::optional<Work> work_;
  std::shared_ptr<ContextUsers> users_;  // null: the operation's own, or unknown
  bool is_listed_ = false;
};

// A LaunchTwice that its operation shares with a call that launches later: see later_launch.hpp.
// The call may launch when the operation has left, but not when the context of `fn` is gone.
template <class G, class Fn, class Executor>
class LaterLaunch {
  using Twice = LaunchTwice<G, Fn, Executor>;

 public:
  LaterLaunch(Fn&& fn, const Executor& executor, G& its_group, typename G::KeyType&& its_key)
      : shared_(std::make_shared<Twice>(std::move(fn), executor, its_group, std::move(its_key))),
        group(shared_->group),
        key(shared_->key),
        phase(shared_->phase) {}

  struct ForJoin {
    void operator()(typename G::Lead lead) const {
      ContextPin pin;
      if (!launch->TryPin(pin) || !launch->HasLaunch()) return;  // lands with `owner_dead`
      auto launching = launch->Take();
      launching.launch(std::move(lead));
    }
    std::shared_ptr<Twice> launch;
  };
  ForJoin Launching() const { return {shared_}; }

  const Executor& executor() const noexcept { return shared_->executor(); }
  void Watch(const ContextUsers*) noexcept { shared_->Watch(nullptr); }
  bool TryPin(ContextPin& pin) const noexcept { return shared_->TryPin(pin); }
  void Drop() noexcept {}

 private:
  const std::shared_ptr<Twice> shared_;

 public:
  G& group;
  typename G::KeyType& key;
  std::atomic<AskingPhase>& phase;
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO
