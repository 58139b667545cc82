// SPDX-License-Identifier: MIT
#pragma once

// Listening: which hooks a listener has, and what a call carries for them. Without a listener, all
// types here are empty.

#include <atomic>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include "../listener.hpp"
#include "backoff.hpp"

namespace singleflight::detail {

// A class that inherits a hook's name twice, if the listener has it. Then the name is ambiguous,
// whatever the hook's signature is, and also if it is overloaded or a template.
struct HookNames {
  int OnLead, OnFollow, OnLeave, OnLand, OnRefuse;
};
template <class Listener>
struct WithHookNames : Listener, HookNames {};

template <class Listener>
struct HasHooks {
  static_assert(std::is_class_v<Listener> && !std::is_final_v<Listener>,
                "Traits::Listener must be a class that is not final: see listener.hpp");
  using Names = WithHookNames<Listener>;
  static constexpr bool kLead = !requires { &Names::OnLead; };
  static constexpr bool kFollow = !requires { &Names::OnFollow; };
  static constexpr bool kLeave = !requires { &Names::OnLeave; };
  static constexpr bool kLand = !requires { &Names::OnLand; };
  static constexpr bool kRefuse = !requires { &Names::OnRefuse; };
  static_assert(kLead || kFollow || kLeave || kLand || kRefuse ||
                    std::is_base_of_v<NoListener, Listener>,
                "this Listener has none of the hooks: see listener.hpp, or derive from NoListener");
};

// The type of tag that OnLead returns. Void: none.
template <class Listener, class Key, bool kLeads>
struct TagOf {
  using Type = void;
};
template <class Listener, class Key>
requires requires(Listener& listener, Key key) { listener.OnLead(key); }
struct TagOf<Listener, Key, true> {
  using Type = std::remove_cvref_t<decltype(std::declval<Listener&>().OnLead(std::declval<Key>()))>;
};

// kTelling until OnLead has returned. kWanted: a follower came meanwhile, and expects the tag in
// the SharedState. kTold: OnLead has returned.
enum class TagPhase : unsigned char { kTelling, kWanted, kTold };

// The tag that a call carries, as its leader sees it.
template <class Tag, bool kIsShown>
struct CallNote {
  Tag tag{};  // written before the phase becomes kTold, and constant from then on
  std::atomic<TagPhase> phase = TagPhase::kTelling;
};
template <class Tag>
struct CallNote<Tag, false> {
  Tag tag{};
};
template <>
struct CallNote<void, false> {};

// The same, as its followers see it.
template <class Tag, bool kIsShown>
class StateTag {
 public:
  void Set(const Tag& tag) noexcept {
    tag_ = tag;
    is_set_.store(true, std::memory_order_release);  // pairs with the acquire in Await
  }
  // Waits until OnLead has returned.
  const Tag& Await() const noexcept {
    for (Backoff backoff; !is_set_.load(std::memory_order_acquire);) backoff.Pause();
    return tag_;
  }

 private:
  Tag tag_{};
  std::atomic<bool> is_set_ = false;
};
template <class Tag>
class StateTag<Tag, false> {};

// The copy of a key with which a caller that has none of its own leaves.
template <class Key, bool kIsTold>
struct StateKey {
  std::optional<Key> key;  // set under the shard's mutex, by the first that needs it
};
template <class Key>
struct StateKey<Key, false> {};

// The key of a caller, if something is told of it.
template <class KeyRef, bool kIsTold>
struct ToldKey {
  explicit ToldKey(KeyRef key) noexcept : ref(key) {}
  KeyRef ref;
};
template <class KeyRef>
struct ToldKey<KeyRef, false> {
  explicit ToldKey(KeyRef) noexcept {}
};

// The state of a call that a caller has joined, if something is told of that.
template <class StatePointer, bool kIsTold>
struct ToldState {
  void Set(const StatePointer& joined) noexcept { state = joined; }
  StatePointer state;
};
template <class StatePointer>
struct ToldState<StatePointer, false> {
  void Set(const StatePointer&) noexcept {}
};

template <class ListenerArg, class Key, class KeyRef>
struct Listening {
  using Listener = ListenerArg;
  using Has = HasHooks<Listener>;
  using PassedKey = decltype(std::declval<const KeyRef&>().get());
  using Tag = typename TagOf<Listener, PassedKey, Has::kLead>::Type;

  static constexpr bool kHasTag = !std::is_void_v<Tag>;
  // Whether others than the leader need the tag.
  static constexpr bool kShowsTag = kHasTag && (Has::kFollow || Has::kLeave);
  // Whether anything is done for a caller that follows.
  static constexpr bool kHeedsFollowers = Has::kFollow || Has::kLeave;

  using CallNote = detail::CallNote<Tag, kShowsTag>;
  using StateTag = detail::StateTag<Tag, kShowsTag>;
  using StateKey = detail::StateKey<Key, Has::kLeave>;
  using ToldKey = detail::ToldKey<KeyRef, kHeedsFollowers || Has::kRefuse>;

  // Calls `hook(key, tag, more...)`, without the tag if there is none.
  template <class... More>
  static constexpr bool TakesLand() {
    if constexpr (kHasTag) {
      return requires(Listener & it, PassedKey key, const Tag& tag, const More&... more) {
        it.OnLand(key, tag, more...);
      };
    } else {
      return requires(Listener & it, PassedKey key, const More&... more) {
        it.OnLand(key, more...);
      };
    }
  }
  static constexpr bool TakesFollow() {
    if constexpr (kHasTag) {
      return requires(Listener & it, PassedKey key, const Tag& tag) { it.OnFollow(key, tag); };
    } else {
      return requires(Listener & it, PassedKey key) { it.OnFollow(key); };
    }
  }
  static constexpr bool TakesLeave() {
    if constexpr (kHasTag) {
      return requires(Listener & it, PassedKey key, const Tag& tag, LeaveReason why) {
        it.OnLeave(key, tag, why);
      };
    } else {
      return requires(Listener & it, PassedKey key, LeaveReason why) { it.OnLeave(key, why); };
    }
  }
  static constexpr bool TakesRefuse() {
    return requires(Listener & it, PassedKey key, std::error_code code) { it.OnRefuse(key, code); };
  }

  // Whether OnLand takes the time.
  static constexpr bool kIsTimed = Has::kLand && !TakesLand<Landing>() && TakesLand<TimedLanding>();

  static_assert(
      !Has::kLead || requires(Listener & it, PassedKey key) { it.OnLead(key); },
      "OnLead must be callable as OnLead(key), with a std::string_view for a string");
  static_assert(!Has::kFollow || TakesFollow(),
                "OnFollow must be callable as OnFollow(key, const Tag&), where the Tag is what "
                "OnLead returns, or as OnFollow(key) if that is void");
  static_assert(!Has::kLeave || TakesLeave(),
                "OnLeave must be callable as OnLeave(key, const Tag&, LeaveReason), where the Tag "
                "is what OnLead returns, or without it if that is void");
  static_assert(!Has::kLand || TakesLand<Landing>() || kIsTimed,
                "OnLand must be callable as OnLand(key, const Tag&, const Landing&), where the Tag "
                "is what OnLead returns, or without it if that is void");
  static_assert(!Has::kRefuse || TakesRefuse(),
                "OnRefuse must be callable as OnRefuse(key, std::error_code)");
  static_assert(!kHasTag || (std::is_nothrow_default_constructible_v<Tag> &&
                             std::is_nothrow_copy_constructible_v<Tag> &&
                             std::is_nothrow_copy_assignable_v<Tag>),
                "the tag that OnLead returns must be a type whose default construction and "
                "copying throw nothing: they must be noexcept");
};

// Passes on the options of a group that is given no listener.
template <class Listener>
struct WithDefaultListener {
  static_assert(std::is_default_constructible_v<Listener>,
                "this Listener has no default constructor: give one to the constructor");
  template <class Options>
  static Options&& Check(Options& options) noexcept {
    return static_cast<Options&&>(options);
  }
};

}  // namespace singleflight::detail
