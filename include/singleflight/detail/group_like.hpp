// SPDX-License-Identifier: MIT
#pragma once

// GroupLike: what free functions such as CoDo require of a group.

#include <concepts>
#include <exception>
#include <type_traits>
#include <utility>

#include "key_ref.hpp"

namespace singleflight {

// Internal: the base of groups in other namespaces, so that CoDo(group, ...) is found for them,
// too.
class FoundByLookup {};

namespace detail {

// A Group, or a class with the same members for joining calls, such as a ReadThrough. If it has a
// kLaunchesLater that is true, its Join keeps `launch`, and calls it later or not at all: see
// later_launch.hpp. It then has Execute(task), which runs a task of this library somewhere, once.
template <class G>
concept GroupLike = !std::is_const_v<G> && requires {
  typename G::KeyType;
  typename G::ValueType;
  typename G::HashType;
  typename G::KeyEqualType;
  typename G::Waiter;
  typename G::Lead;
};

// A group that has a function of its own for all of its calls, such as a Batcher. The free
// functions take no `fn` with it. They join the calls of what AsGroup() returns: a group whose Join
// does the call's work itself, and gives an UnusedLead to their `launch` before that. The work may
// run inside Join, and a waiter that it notifies may destroy the batcher. So a caller that joins
// several calls keeps that group alive, by its shared_from_this().
template <class B>
using GroupOf = std::remove_reference_t<decltype(std::declval<B&>().AsGroup())>;
template <class B>
concept GroupWithOwnFn = GroupLike<GroupOf<B>>;

// What they pass as `fn`. It is never called.
template <class Value>
struct UnusedFn {
  [[noreturn]] Value operator()() const { std::terminate(); }
};
template <class Value>
inline constexpr UnusedFn<Value> kUnusedFn;

// A Lead that does nothing, because the call's work is done elsewhere.
struct UnusedLead {
  template <class Fn>
  bool Run(Fn&&) const noexcept {
    return false;
  }
};

// Makes a Key from anything that the group's members accept as one.
template <GroupLike G, class K>
typename G::KeyType CopyKey(const K& key) {
  using Key = typename G::KeyType;
  using Ref = KeyRefOf<G>;
  CheckKeyCopy<Key, decltype(Ref::Adapt(key))>();
  return Key(Ref::Adapt(key));
}

}  // namespace detail

}  // namespace singleflight
