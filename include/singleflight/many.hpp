// SPDX-License-Identifier: MIT
#pragma once

// DoMany: asks for many keys at once, and runs one function for all that are not in flight yet.
//
//   // SELECT ... WHERE id IN (...), for the ids that nobody is loading at this moment.
//   auto users = singleflight::DoMany(group, ids, [&](std::span<const int> missing) {
//     return db.LoadUsers(missing);  // a vector in this order, or a map
//   });
//   for (const auto& user : users) {  // in the order of `ids`
//     if (user) Render(user->name);
//   }
//
// Each key is a call of its own, as if Do had asked for it. Other callers join it, and get its
// result as soon as the function has returned.
//
// Warning: DoMany blocks. If every thread of a pool is inside DoMany, waiting for keys whose work
// is queued behind it in the same pool, none of them makes progress.

#include <atomic>
#include <concepts>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "detail/call.hpp"
#include "detail/event.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/thread_waiter.hpp"
#include "detail/wait_graph.hpp"
#include "group.hpp"
#include "key_result.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight {

namespace detail {

// Moves an element out of a container that a function returned, unless the container was returned
// by reference or is a view.
template <class Returned, class Element>
decltype(auto) TakeElement(Element&& element) {
  if constexpr (std::is_lvalue_reference_v<Returned> || std::ranges::view<Returned>) {
    return std::forward<Element>(element);
  } else {
    return static_cast<std::remove_reference_t<Element>&&>(element);
  }
}

template <class Map, class Key, class Value>
concept MapOf = requires(std::remove_reference_t<Map>& map, const Key& key) {
  typename std::remove_reference_t<Map>::mapped_type;
  { map.find(key) == map.end() } -> std::convertible_to<bool>;
  { detail::TakeElement<Map>(map.find(key)->second) } -> std::convertible_to<Value>;
};

template <class Range, class Value>
concept RangeOf = std::ranges::forward_range<Range> &&
    requires(std::remove_reference_t<Range>& range) {
  { detail::TakeElement<Range>(*std::ranges::begin(range)) } -> std::convertible_to<Value>;
};

// Runs one DoMany, and is a caller for each of its keys.
template <class G>
class Batch {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using State = SharedState<Value>;
  using Outcome = detail::Outcome<Value>;

 public:
  template <class Keys>
  Batch(G& group, Keys& keys, const CallOptions& options) : group_(group), options_(options) {
    for (auto&& key : keys) {
      order_.push_back(&*index_.try_emplace(detail::CopyKey<G>(key), index_.size()).first);
    }
    members_ = std::vector<Member>(index_.size());
    for (const Entry* entry : order_) {
      Member& member = members_[entry->second];
      member.key = &entry->first;
      if (++member.times == 1) asking_.push_back(&member);
    }
    own_.reserve(members_.size());
    own_keys_.reserve(members_.size());
    deadline_ = options.timeout.Deadline();
  }

  template <class Fn>
  std::vector<KeyResult<Value>> Run(Fn& fn) {
    std::vector<KeyResult<Value>> results;
    results.reserve(order_.size());
    while (!asking_.empty()) {
      own_.clear();
      own_keys_.clear();
      for (Member* member : asking_) Join(*member);
      if (!own_.empty()) Lead(fn);
      Follow();
      std::erase_if(asking_, [this](const Member* member) { return !AsksAgain(*member); });
    }
    for (const Entry* entry : order_) {
      try {
        results.push_back(Take(members_[entry->second]));
      } catch (...) {  // the value's move threw
        results.push_back(Failure(Caught()));
      }
    }
    return results;
  }

 private:
  struct Member final : ThreadWaiter<Value> {
    ~Member() override { this->DetachOrWait(); }  // before `lead` lands the call as vanished

    const Key* key = nullptr;
    std::size_t times = 0;                 // how often the key is in the batch
    std::optional<typename G::Lead> lead;  // of a call that the batch leads
    bool led = false;
    bool joined = false;       // on the call that it last asked for
    bool left = false;         // stopped while `fn` ran
    std::exception_ptr error;  // why it is not on a call, or has left it
  };

  void Join(Member& member) {
    if (options_.stop.stop_requested()) {
      member.error = MakeCanceled();
      return;
    }
    member.Reuse();  // its last call may have failed
    member.joined = false;
    try {
      group_.Join(*member.key, member, [&](typename G::Lead lead) {
        member.joined = member.led = true;
        own_keys_.push_back(*member.key);
        own_.push_back(&member);
        member.lead.emplace(std::move(lead));
      });
      member.joined = true;
    } catch (...) {
      member.error = Caught();
    }
  }

  // Runs `fn` for the calls that this batch leads, and lands them. This thread counts as theirs
  // until the last has landed, because the range that `fn` returned may still run code.
  template <class Fn>
  void Lead(Fn& fn) {
    std::exception_ptr error;
    const LeadingScope leading;
    std::optional<std::deque<RunningScope>> running;  // constructing a deque may throw
    try {
      running.emplace();
      for (const Member* member : own_) running->emplace_back(member->lead->Target());
      if constexpr (std::is_void_v<Value>) {
        Execute(fn);
        for (Member* member : own_) member->lead->Land(Outcome(std::in_place));
      } else {
        LandEach<decltype(Execute(fn))>(Execute(fn));
      }
    } catch (...) {
      error = Caught();
    }
    if (error == nullptr) return;
    for (Member* member : own_) member->lead->Fail(error);  // those that have not landed
  }

  template <class Fn>
  decltype(auto) Execute(Fn& fn) {
    const std::stop_callback on_stop(options_.stop, [this] {
      for (Member* member : own_) member->left |= member->Leave();
    });
    const std::span<const Key> keys(own_keys_);
    if constexpr (std::is_invocable_v<Fn&, std::span<const Key>, std::stop_token>) {
      std::stop_source stop;  // requested once a stop was requested of all the calls
      std::atomic<std::size_t> wanted = own_.size();
      const auto not_wanted = [&] {
        if (--wanted == 0) stop.request_stop();
      };
      std::deque<std::stop_callback<decltype((not_wanted))>> each;
      for (const Member* member : own_) {
        each.emplace_back(member->lead->GetStopToken(), not_wanted);
      }
      return std::invoke(fn, keys, stop.get_token());
    } else {
      return std::invoke(fn, keys);
    }
  }

  template <class Returned>
  void LandEach(Returned&& returned) {
    if constexpr (MapOf<Returned, Key, Value>) {
      for (std::size_t i = 0; i < own_.size(); ++i) {
        own_[i]->lead->Land(OutcomeOf([&] {
          const auto found = returned.find(own_keys_[i]);
          if (found == returned.end()) {
            return Outcome(MakeError(std::errc::no_message_available,
                                     "singleflight: fn of DoMany returned no value for this key"));
          }
          return Outcome(std::in_place, detail::TakeElement<Returned>(found->second));
        }));
      }
    } else {
      if (static_cast<std::size_t>(std::ranges::distance(returned)) != own_.size()) {
        detail::Throw(std::errc::invalid_argument,
                      "singleflight: fn of DoMany returned more or fewer values than it got keys");
      }
      auto element = std::ranges::begin(returned);
      for (Member* member : own_) {
        member->lead->Land(OutcomeOf(
            [&] { return Outcome(std::in_place, detail::TakeElement<Returned>(*element)); }));
        ++element;
      }
    }
  }

  // Returns `make()`. What it throws becomes the outcome.
  template <class Make>
  static Outcome OutcomeOf(Make&& make) {
    try {
      return make();
    } catch (...) {
      return Outcome(Caught());
    }
  }

  // Waits for the calls that other callers lead, one after the other.
  void Follow() {
    const std::stop_callback on_stop(options_.stop, [this] {
      for (Member* member : asking_) {
        if (member->joined) member->Interrupt();
      }
    });
    for (Member* member : asking_) {
      if (member->joined && !member->led) Await(*member);
    }
  }

  void Await(Member& member) {
    WaitEdge edge;
    const bool deadlock = !edge.Record(*State::Of(member));
    if (deadlock ? member.LandedBeforeLeaving() : member.WaitOrLeave(edge, deadline_)) return;
    const bool canceled = options_.stop.stop_requested();
    member.error = deadlock ? MakeDeadlock() : canceled ? MakeCanceled() : MakeTimedOut();
  }

  bool AsksAgain(const Member& member) const {
    return options_.on_failure == OnFailure::kRetry && member.error == nullptr && !member.led &&
           State::Of(member)->Failed();
  }

  // These two are not inlined, because GCC 12 warns falsely that a KeyResult whose construction it
  // sees is uninitialized where it is moved.
  [[gnu::noinline]] static KeyResult<Value> Failure(std::exception_ptr error) noexcept {
    return KeyResult<Value>::Failure(std::move(error));
  }
  [[gnu::noinline]] static KeyResult<Value> Take(Member& member) {
    if (member.left) return Failure(MakeCanceled());
    if (member.error != nullptr) return Failure(member.error);
    const std::shared_ptr<State> state = State::Of(member);
    if (std::exception_ptr error = state->Error()) return Failure(std::move(error));
    const Role role = member.led ? Role::kLeader : Role::kFollower;
    return KeyResult<Value>(member.times > 1 ? State::ReceiveShared(state, role)
                                             : member.TakeResult());
  }

  using Index =
      std::unordered_map<Key, std::size_t, typename G::HashType, typename G::KeyEqualType>;
  using Entry = typename Index::value_type;

  G& group_;
  const CallOptions& options_;
  Deadline deadline_;
  Index index_;                      // each key once, with its member
  std::vector<const Entry*> order_;  // in the caller's order
  std::vector<Member*> asking_;      // without an outcome so far
  std::vector<Member*> own_;         // led by this batch
  std::vector<Key> own_keys_;
  std::vector<Member> members_;  // declared last, so destroyed first: it uses the fields above
};

}  // namespace detail

// Asks for all of `keys`, and returns a result or an error for each, in their order. `keys` is any
// range of what Do accepts as a key, or {a, b, c} of Keys. It is read once.
//
// Keys whose call is in flight are joined. For the others, `fn` runs once, as
// fn(std::span<const Key>) or fn(std::span<const Key>, std::stop_token). It returns the values in
// the order of its keys, or a map whose keys compare as the group's do, or nothing for a group of
// void. Its calls land before the others are waited for, so overlapping batches cannot block each
// other. A key that is given twice is asked for once, and its places share the result.
//
// Thread: blocks. `fn` runs on this thread.
// Leaving: as in Do, but the timeout counts from the start, so it includes the time that `fn`
//   takes. If this caller is stopped while `fn` runs, the calls continue for their other callers,
//   and it gets `operation_canceled` for them. A stop is requested of the token that `fn` takes
//   when no caller is left on any of its calls.
// Retrying: with OnFailure::kRetry, keys whose other leader failed are asked for again. For those
//   that this caller then leads, `fn` runs again.
// Errors: for each key, one of
//     what the `fn` that ran for it threw
//     `invalid_argument`: `fn` returned more or fewer values than it got keys
//     `no_message_available`: the map that `fn` returned lacks the key
//     what Do throws.
//   DoMany itself throws only what reading, copying, hashing or comparing the keys throws, and
//   std::bad_alloc.
template <detail::GroupLike G, class Keys = std::initializer_list<typename G::KeyType>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn,
                                                     CallOptions options) {
  using Value = typename G::ValueType;
  using Own = std::span<const typename G::KeyType>;
  static_assert(std::ranges::input_range<Keys>,
                "keys must be a range of what Do accepts as a key, or {a, b, c} of Keys");
  static_assert(!std::same_as<typename G::KeyType, bool>,
                "there is no span of a std::vector<bool>: give the group another type of key");
  constexpr bool kTakesKeys = std::is_invocable_v<Fn&, Own>;
  constexpr bool kTakesStop = std::is_invocable_v<Fn&, Own, std::stop_token>;
  static_assert(kTakesKeys || kTakesStop,
                "fn must be callable as fn(std::span<const Key>) or fn(std::span<const Key>, "
                "std::stop_token)");
  if constexpr (!std::is_void_v<Value> && (kTakesKeys || kTakesStop)) {
    using Returned =
        typename std::conditional_t<kTakesStop, std::invoke_result<Fn&, Own, std::stop_token>,
                                    std::invoke_result<Fn&, Own>>::type;
    static_assert(
        detail::MapOf<Returned, typename G::KeyType, Value> || detail::RangeOf<Returned, Value>,
        "fn must return the values, in the order of its keys, or a map from key to value");
  }
  return detail::Batch<G>(group, keys, options).Run(fn);
}

// The same, without options.
template <detail::GroupLike G, class Keys = std::initializer_list<typename G::KeyType>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn) {
  return singleflight::DoMany(group, std::forward<Keys>(keys), std::forward<Fn>(fn), {});
}

}  // namespace singleflight
