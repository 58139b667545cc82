// SPDX-License-Identifier: MIT
#pragma once

// Loads: how the callers of a ReadThrough come to a value. It joins the two halves: the store,
// which knows the cache, and the group, whose calls are the loads.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../../group.hpp"
#include "../../lead.hpp"
#include "../../options.hpp"
#include "../../read_through_options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../../value_traits.hpp"
#include "../cached_load.hpp"
#include "../call.hpp"
#include "../invoke.hpp"
#include "../key_ref.hpp"
#include "../landed_state.hpp"
#include "../new_thread.hpp"
#include "../outcome.hpp"
#include "../task.hpp"
#include "../thread_waiter.hpp"
#include "../wait_graph.hpp"
#include "load_note.hpp"
#include "value_store.hpp"

namespace singleflight::detail {

// Says that a listener follows.
struct ListenedTo {};

// A load that runs in the background. If it takes a stop token, that is requested only when it is
// cancelled or the ReadThrough is destroyed: callers that do not wait for it do not leave it,
// either.
template <class Fn>
struct BackgroundLoad {
  decltype(auto) operator()() { return detail::CallWithStop(std::move(load), stop); }
  Fn load;
  StopToken stop;
};

template <class Key, class Value, class Cache, class Hash, class KeyEqual, class Traits>
class Loads {
  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;

  // The hook before a load's call lands: puts its value into the cache.
  struct LandLoad {
    static constexpr bool kTakesCached = true;  // in place of a Value
    static constexpr bool kMayBeBackground =
        ValueStore<Key, Value, Cache, Hash, KeyEqual, Traits>::kHasTimes;

    Loads* self;
    LoadNote note;

    void operator()(auto& ledger, const CallBase& call, const auto& key,
                    const Outcome<Value>& outcome) const {
      self->store.Land(ledger, call, key, note, outcome);
    }
    template <class Fn>
    requires(detail::ReturnsCached<Fn>()) auto Heed(Fn&& load) {
      return detail::Unpacking<Value>(std::forward<Fn>(load), note.own);
    }
    bool IsBackground() const noexcept { return note.IsBackground(); }
    template <class Task>
    void RunInBackground(Task&& task) const {
      self->RunInBackground(std::forward<Task>(task));
    }
  };

 public:
  using KeyType = Key;
  using ValueType = Value;
  using Group = singleflight::Group<Key, Value, Hash, KeyEqual, Traits>;
  using Ledger = typename Group::Lead::LedgerType;
  using Store = ValueStore<Key, Value, Cache, Hash, KeyEqual, Traits>;
  using Lookup = typename Store::Lookup;
  using Waiter = typename Group::Waiter;
  using Lead = singleflight::Lead<Ledger, LandLoad>;

  template <class... From>
  explicit Loads(ReadThroughOptions<Key, Value>&& options, From&&... cache)
      : store(std::move(options), std::forward<From>(cache)...), group(store.GetOptions().group) {}
  template <class... From>
  Loads(ListenedTo, typename Traits::Listener&& listener, ReadThroughOptions<Key, Value>&& options,
        From&&... cache)
      : store(std::move(options), std::forward<From>(cache)...),
        group(store.GetOptions().group, std::move(listener)) {}

  // ---- Callers that block

  template <class Adapted, class Fn>
  Result<Value> Get(const Adapted& key, Fn&& load, const CallOptions* options) {
    Lookup found = FirstLook(key);
    if (!found.hit) return LoadOnce(NoteOf(found), key, std::forward<Fn>(load), options);
    if constexpr (Store::kHasTimes) {
      // Evaluated here, so that what they say is a compiler's first error.
      static_assert((detail::CheckLoad<Value, std::decay_t<Fn>>(), detail::CheckKept<Fn>(), true));
      if (found.freshness == Freshness::kStale && store.GetOptions().soft_timeout) {
        if (auto result = GetInTime(NoteOf(found), key, load, options)) return std::move(*result);
        store.CountStale();
      } else {
        RefreshBy(found, key, InBackground(load));
      }
    }
    return ResultFactory::Alone<Value>(std::move(*found.hit), Role::kLeader);
  }

  // Leads or follows the call that loads `key`.
  template <class Adapted, class Fn>
  Result<Value> LoadOnce(const LoadNote& note, const Adapted& key, Fn&& load,
                         const CallOptions* options) {
    detail::CheckLoad<Value, Fn>();
    bool loaded = false;
    LandLoad hook{this, note};
    const auto unpacked = detail::Unpacking<Value>(std::forward<Fn>(load), hook.note.own);
    const auto work = [&](auto... stop) -> Value requires std::invocable<Fn, decltype(stop)...> {
      if (auto answer = Answer(key, note)) return ResultFactory::TakeValue(*answer);
      store.CountLoad(hook.note);
      loaded = true;
      return unpacked(std::move(stop)...);
    };
    const auto before_landing = [&](Ledger& ledger, const CallBase& call, const auto&,
                                    const Outcome<Value>& outcome) {
      if (loaded) hook(ledger, call, key, outcome);
    };
    return group.DoWith(KeyRef(key), work, options, before_landing);
  }

  // The same for a caller that asks for a load, whatever there is.
  template <class Adapted, class Fn>
  Result<Value> Refresh(const Adapted& key, Fn&& load, const CallOptions* options) {
    AskForLoad(key);
    return LoadOnce({LoadReason::kAsked}, key, std::forward<Fn>(load), options);
  }
  template <class Adapted>
  void AskForLoad(const Adapted& key) {
    store.AskForLoad(key, group.ledger_.HashOf(KeyRef(key)));
  }

  // ---- Callers that do not block

  // Makes the `launch` of Group::Join. It refers to its arguments.
  template <class Adapted, class Launch>
  auto Launching(const LoadNote& note, const Adapted& key, Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(ReadThrough::Lead)");
    return [this, note, &key, &launch](typename Group::Lead lead) {
      if (std::optional<Outcome<Value>> answer = Answer(key, note)) {
        lead.Land(std::move(*answer));
        return;
      }
      LandLoad hook{this, note};
      store.CountLoad(hook.note);
      std::invoke(std::forward<Launch>(launch), Lead(lead, std::move(hook)));
    };
  }

  // Begins a load for which no caller waits. Role::kFollower: a call is in flight already.
  template <class Adapted, class Launch>
  Role JoinUnattended(const LoadNote& note, const Adapted& key, Launch&& launch) {
    struct Unattended final : Waiter {
      void OnLanded() noexcept override { delete this; }
    };
    auto waiter = std::make_unique<Unattended>();
    const auto launch_joined = [&](Lead lead) {
      static_cast<void>(waiter.release());  // it has joined: OnLanded deletes it
      std::invoke(std::forward<Launch>(launch), std::move(lead));
    };
    const Role role = group.Join(key, *waiter, Launching(note, key, launch_joined));
    static_cast<void>(waiter.release());  // another call may have begun meanwhile
    return role;
  }

  // A caller has its value. If that is to be refreshed, begins to, unless a call for the key is in
  // flight, or its last load has failed a moment ago. What this throws is not the caller's concern.
  template <class Adapted, class Launch>
  void RefreshBy(const Lookup& found, const Adapted& key, Launch&& launch) {
    if constexpr (Store::kHasTimes) {
      if (found.freshness == Freshness::kFresh) [[likely]] {
        return;
      }
      if (found.freshness == Freshness::kStale) store.CountStale();
      try {
        if (group.WouldFollow(key) || store.HasFailed(key)) return;
        JoinUnattended(NoteOf(found), key, std::forward<Launch>(launch));
      } catch (...) {
        static_cast<void>(Caught());
      }
    }
  }

  template <class Adapted>
  Lookup FirstLook(const Adapted& key) {
    Lookup found = store.Look(key);
    store.CountLook(found);
    return found;
  }

  // Why a value is loaded that was not found, or not fresh.
  static LoadNote NoteOf(const Lookup& found) noexcept {
    if (!found.hit) return {found.failed ? LoadReason::kUnknown : LoadReason::kMiss};
    const bool is_stale = found.freshness == Freshness::kStale;
    return {is_stale ? LoadReason::kStale : LoadReason::kEarly, found.fresh_until};
  }

  template <class ItsTask>
  void RunInBackground(ItsTask&& task) const {
    if (const auto& executor = store.GetOptions().executor) {
      executor(std::forward<ItsTask>(task));
    } else {
      NewThread()(std::forward<ItsTask>(task));
    }
  }

  Store store;
  Group group;  // declared last, so destroyed first: its calls use the store

 private:
  // What a leader finds that makes its load unnecessary.
  template <class Adapted>
  std::optional<Outcome<Value>> Answer(const Adapted& key, const LoadNote& note) {
    return store.Answer(key, group.ledger_.HashOf(KeyRef(key)), note,
                        [this, &key] { group.Forget(key); });
  }

  // Makes a `launch` that gives a copy of `load` to the executor for refreshes.
  template <class Fn>
  auto InBackground(Fn& load) const {
    return [this, &load](Lead lead) {
      using Kept = BackgroundLoad<std::decay_t<Fn>>;
      StopToken stop;
      if constexpr (kTakesStopToken<std::decay_t<Fn>>) stop = lead.WatchStop();
      RunInBackground(
          Task<Loads, Kept>(std::move(lead), Kept{static_cast<Fn&&>(load), std::move(stop)}));
    };
  }

  // For a caller that has an expired value and a soft_timeout. Waits for a new one. None: it is to
  // have the expired value.
  template <class Adapted, class Fn>
  std::optional<Result<Value>> GetInTime(const LoadNote& note, const Adapted& key, Fn& load,
                                         const CallOptions* options) {
    try {
      if (store.HasFailed(key) || (options != nullptr && options->stop.stop_requested())) {
        return std::nullopt;
      }
      Deadline deadline =
          Timeout(std::chrono::nanoseconds(*store.GetOptions().soft_timeout)).Deadline();
      if (options != nullptr) {
        if (const Deadline own = options->timeout.Deadline()) {
          deadline = deadline ? (std::min)(*deadline, *own) : *own;
        }
      }
      Monitor monitor;
      ThreadWaiter<Value> waiter(monitor);
      group.Join(key, waiter, Launching(note, key, InBackground(load)));
      if (!Await(waiter, deadline, options)) return std::nullopt;
      Result<Value> result = waiter.TakeResult();
      if (singleflight::IsFailure(*result)) return std::nullopt;
      return result;
    } catch (...) {
      static_cast<void>(Caught());
      return std::nullopt;
    }
  }

  // False: the caller has left.
  static bool Await(ThreadWaiter<Value>& waiter, const Deadline& deadline,
                    const CallOptions* options) {
    const StopCallback on_stop(options != nullptr ? options->stop : StopToken(),
                               [&waiter] { waiter.Interrupt(); });
    WaitEdge edge;
    if (!edge.Record(*SharedState<Value>::Of(waiter))) return waiter.LandedBeforeLeaving();
    return waiter.WaitOrLeave(edge, deadline);
  }
};

}  // namespace singleflight::detail
