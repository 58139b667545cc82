// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

#include "../errors.hpp"

namespace singleflight::detail {

// Reads what a batcher's `fn` returned: the values in the order of its keys, or a map from key to
// value.
template <class Key, class Value>
struct BatcherValues {
  // Moves an element out of a container that `fn` returned, unless `fn` returned a reference to the
  // container, or the container is a view.
  template <class Returned, class Element>
  static decltype(auto) Take(Element&& element) {
    if constexpr (std::is_lvalue_reference_v<Returned> || std::ranges::view<Returned>) {
      return std::forward<Element>(element);
    } else {
      return static_cast<std::remove_reference_t<Element>&&>(element);
    }
  }

  template <class Returned>
  static constexpr bool kHasOwnKeys = requires {
    typename std::remove_cvref_t<Returned>::key_type;
  };
  template <class Returned>
  static constexpr bool kIsMap = requires(std::remove_reference_t<Returned>& map, const Key& key) {
    typename std::remove_cvref_t<Returned>::mapped_type;
    { map.find(key) == map.end() } -> std::convertible_to<bool>;
    { Take<Returned>(map.find(key)->second) } -> std::convertible_to<Value>;
  };
  template <class Returned>
  static constexpr bool kIsSequence =
      !kHasOwnKeys<Returned> && std::ranges::forward_range<Returned> &&
      requires(std::remove_reference_t<Returned> & range) {
    { Take<Returned>(*std::ranges::begin(range)) } -> std::convertible_to<Value>;
  };

  // Calls `answer(make)` for each of `keys`, in their order. `make()` returns that key's value, or
  // throws its error.
  //
  // Errors: throws `invalid_argument` if there are more or fewer values than keys, and what reading
  //   the range throws. The keys that come later are then not answered.
  template <class Returned, class Answer>
  static void Read(Returned&& returned, std::span<const Key> keys, Answer&& answer) {
    if constexpr (kIsMap<Returned>) {
      for (const Key& key : keys) {
        answer([&]() -> Value {
          const auto found = returned.find(key);
          if (found == returned.end()) {
            detail::Throw(std::errc::no_message_available,
                          "singleflight: the Batcher's fn returned no value for this key");
          }
          return Take<Returned>(found->second);
        });
      }
    } else {
      if (static_cast<std::size_t>(std::ranges::distance(returned)) != keys.size()) {
        detail::Throw(
            std::errc::invalid_argument,
            "singleflight: the Batcher's fn returned more or fewer values than it got keys");
      }
      auto element = std::ranges::begin(returned);
      for (std::size_t i = 0; i < keys.size(); ++i, ++element) {
        answer([&]() -> Value { return Take<Returned>(*element); });
      }
    }
  }
};

}  // namespace singleflight::detail
