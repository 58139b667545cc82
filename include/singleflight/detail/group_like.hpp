// SPDX-License-Identifier: MIT
#pragma once

// GroupLike: what free functions such as CoDo require of a group.

#include <concepts>
#include <type_traits>

#include "key_ref.hpp"

namespace singleflight {

namespace detail {

// A Group, or a class with the same members for joining calls, such as a ReadThrough.
template <class G>
concept GroupLike = !std::is_const_v<G> && requires {
  typename G::KeyType;
  typename G::ValueType;
  typename G::HashType;
  typename G::KeyEqualType;
  typename G::Waiter;
  typename G::Lead;
};

// Makes a Key from anything that the group's members accept as one.
template <GroupLike G, class K>
typename G::KeyType CopyKey(const K& key) {
  using Key = typename G::KeyType;
  using Ref = KeyRef<Key, typename G::HashType, typename G::KeyEqualType>;
  CheckKeyCopy<Key, decltype(Ref::Adapt(key))>();
  return Key(Ref::Adapt(key));
}

}  // namespace detail

}  // namespace singleflight
