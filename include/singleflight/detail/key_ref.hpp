// SPDX-License-Identifier: MIT
#pragma once

// KeyRef: how a call refers to a key that it does not own.

#include <concepts>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "../hash.hpp"

namespace singleflight::detail {

template <class Key, class From>
constexpr void CheckKeyCopy() {
  static_assert(std::constructible_from<Key, From>,
                "an asynchronous call keeps a copy of its key, and this Key cannot be copied: ask "
                "for it with Do");
}

// Refers to a key that stays in its caller's hands. It is a view if the key is a string and Hash
// and KeyEqual accept views, and otherwise the key's address.
template <class Key, class Hash, class KeyEqual>
class KeyRef {
  using View = typename StringView<Key>::type;

  static constexpr bool TakesViews() {
    if constexpr (requires {
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

 public:
  using HashType = Hash;
  using KeyEqualType = KeyEqual;

  // Turns what a caller passed as the key into what a KeyRef can refer to. That is the caller's own
  // Key, a view of the caller's string, or a Key converted from anything else. It must outlive the
  // KeyRef.
  template <class K>
  static decltype(auto) Adapt(const K& key) {
    if constexpr (std::same_as<K, Key>) {
      return (key);
    } else if constexpr (kIsView && std::convertible_to<const K&, View>) {
      return static_cast<View>(key);
    } else {
      static_assert(std::convertible_to<const K&, Key> || (requires {
                      typename Hash::is_transparent;
                    } && std::constructible_from<Key, const K&>),
                    "this is not a key of the group: pass a Key or something that converts to one");
      return Convert(key);
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
  template <class Number>
  static bool IsNegative(Number number) noexcept {
    if constexpr (std::is_signed_v<Number>) {
      return number < 0;
    } else {
      return false;
    }
  }

  // Refuses a number that the Key type cannot represent: different numbers must stay different
  // keys.
  template <class K>
  static Key Convert(const K& key) {
    if constexpr (std::is_arithmetic_v<K> && std::is_arithmetic_v<Key>) {
      // NOLINTNEXTLINE(bugprone-signed-char-misuse): the line after it detects a changed value
      const auto converted = static_cast<Key>(key);
      if (static_cast<K>(converted) != key || IsNegative(converted) != IsNegative(key)) {
        throw std::out_of_range(
            "singleflight: this number cannot be represented by the group's Key type");
      }
      return converted;
    } else if constexpr (std::convertible_to<const K&, Key>) {
      return key;
    } else {
      return static_cast<Key>(key);
    }
  }

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

}  // namespace singleflight::detail
