// SPDX-License-Identifier: MIT
#pragma once

// KeyRef: how a call refers to a key that it does not own.

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <version>

#include "../hash.hpp"
#include "braced_key.hpp"
#include "keeps_apart.hpp"
#include "lossless_cast.hpp"

namespace singleflight::detail {

#if defined(__cpp_lib_ranges)  // libc++ has it since version 16
using RangesEqualTo = std::ranges::equal_to;
#else
using RangesEqualTo = std::equal_to<>;
#endif

template <class Key, class From>
constexpr void CheckKeyCopy() {
  static_assert(std::constructible_from<Key, From>,
                "an asynchronous call keeps a copy of its key, and this Key cannot be copied: ask "
                "for it with Do");
}

// The calls of a KeyEqual, for KeepsApart, with the key in question as the first or as the second.
template <class KeyEqual, class Other>
struct CallsEqualFirst {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<const KeyEqual&>()(std::forward<Key>(key),
                                                  std::declval<const Other&>()));
  template <class Key, class Given, class Equal = KeyEqual>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<const Equal&>().template operator()<Given>(
          std::forward<Key>(key), std::declval<const Other&>()));
};
template <class KeyEqual, class Other>
struct CallsEqualSecond {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<const KeyEqual&>()(std::declval<const Other&>(),
                                                  std::forward<Key>(key)));
  template <class Key, class Given, class Equal = KeyEqual>
  requires(
      requires(const Equal& equal, const Other& other, Key&& key) {
        equal.template operator()<Given>(other, std::forward<Key>(key));
      } ||
      requires(const Equal& equal, const Other& other, Key&& key) {
        equal.template operator()<Given, Given>(other, std::forward<Key>(key));
      }) void
  operator()(Key&&, std::type_identity<Given>) const;
};

// Whether `==` takes Keys as they are. Without an operator== for the class, it compares what the
// keys convert to, and that may be a bool.
template <class Key>
inline constexpr bool kHasEqual = !std::is_class_v<Key> || requires(const Key& key) {
  key.operator==(key);
}
|| requires(const Key& key) { operator==(key, key); };

// Refers to a key that stays in its caller's hands. It is a view if the key is a string and Hash
// and KeyEqual accept views, and otherwise the key's address.
template <class Key, class Hash, class KeyEqual>
class KeyRef {
  using View = typename StringView<Key>::type;

  static constexpr bool TakesViews() {
    if constexpr (requires {
                    typename View::value_type;
                    typename Hash::is_transparent;
                    typename KeyEqual::is_transparent;
                  }) {
      return std::is_invocable_r_v<std::size_t, const Hash&, View> &&
             std::is_invocable_r_v<bool, const KeyEqual&, View, View>;
    } else {
      return false;
    }
  }
  static constexpr bool kIsView = TakesViews();

  using Passed = std::conditional_t<kIsView, View, Key>;
  static constexpr bool kIsEqualTo = std::same_as<KeyEqual, std::equal_to<>> ||
                                     std::same_as<KeyEqual, std::equal_to<Key>> ||
                                     std::same_as<KeyEqual, RangesEqualTo>;
  static_assert(!kIsEqualTo || kHasEqual<Key>,
                "the Key has no operator== of its own, so std::equal_to compares what keys convert "
                "to, and different keys could be equal: declare one that takes `const Key&`");
  static constexpr bool TellsKeysApart() {
    return kIsEqualTo || (detail::KeepsApart<CallsEqualFirst<KeyEqual, Passed>, Passed>() &&
                          detail::KeepsApart<CallsEqualSecond<KeyEqual, Passed>, Passed>());
  }
  static_assert(TellsKeysApart() || !std::is_invocable_v<const KeyEqual&, const Key&, const Key&>,
                "KeyEqual compares another type than the Key, so different keys could be equal: "
                "let it take `const Key&`");

 public:
  using HashType = Hash;
  using KeyEqualType = KeyEqual;

  // Whether Adapt takes a K.
  template <class K>
  static constexpr bool Accepts() {
    constexpr bool kTakesExplicit = requires { typename Hash::is_transparent; };
    return kIsBraced<K> || std::convertible_to<const K&, Key> ||
           (kIsView && std::convertible_to<const K&, View>) ||
           (kTakesExplicit && std::constructible_from<Key, const K&>);
  }

  // Turns what a caller passed as the key into what a KeyRef can refer to. That is the caller's own
  // Key, a view of the caller's string, or a Key converted from anything else. It must outlive the
  // KeyRef.
  //
  // Errors: std::out_of_range for what a Key cannot represent, std::invalid_argument for a null
  //   pointer where a string is meant, and what constructing a Key throws.
  template <class K>
  static decltype(auto) Adapt(const K& key) {
    if constexpr (std::same_as<K, Key>) {
      return (key);
    } else if constexpr (kIsBraced<K>) {
      return key.get();
    } else if constexpr (kIsView && std::convertible_to<const K&, View>) {
      return detail::ToView<View>(key);
    } else {
      static_assert(Accepts<K>(),
                    "this is not a key of the group: pass a Key or something that converts to one");
      return detail::LosslessCast<Key>(key);
    }
  }

  template <class Adapted>
  explicit KeyRef(const Adapted& key) noexcept : ref_(Refer(key)) {}

  // The key: a view by value, or a const Key&.
  decltype(auto) get() const noexcept {
    if constexpr (kIsView) {
      return View(ref_);
    } else {
      return static_cast<const Key&>(*ref_);
    }
  }

 private:
  using Ref = std::conditional_t<kIsView, View, const Key*>;

  template <class Adapted>
  static Ref Refer(const Adapted& key) noexcept {
    if constexpr (kIsView) {
      return key;
    } else {
      return std::addressof(key);
    }
  }

  Ref ref_;
};

template <class G>
using KeyRefOf = KeyRef<typename G::KeyType, typename G::HashType, typename G::KeyEqualType>;

}  // namespace singleflight::detail
