// SPDX-License-Identifier: MIT
#pragma once

// The calls of a cache's functions, for KeepsApart.

#include <type_traits>
#include <utility>

namespace singleflight::detail {

template <class Cache>
struct CallsGet {
  template <class Key>
  auto operator()(Key&& key) const -> decltype(std::declval<Cache&>().Get(std::forward<Key>(key)));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Get<Given>(std::forward<Key>(key)));
};
template <class Cache, class Value>
struct CallsPut {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<Cache&>().Put(std::forward<Key>(key), std::declval<const Value&>()));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Put<Given>(std::forward<Key>(key),
                                                           std::declval<const Value&>()));
};
template <class Cache>
struct CallsErase {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<Cache&>().Erase(std::forward<Key>(key)));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Erase<Given>(std::forward<Key>(key)));
};

}  // namespace singleflight::detail
