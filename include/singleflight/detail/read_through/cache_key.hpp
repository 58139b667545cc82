// SPDX-License-Identifier: MIT
#pragma once

// The calls of a cache's functions, for KeepsApart.

#include <utility>

namespace singleflight::detail {

template <class Cache>
struct CallsGet {
  template <class Key>
  auto operator()(const Key& key) const -> decltype(std::declval<Cache&>().Get(key));
  template <class Key, class Its = Cache>
  auto operator()(const Key& key, int) const
      -> decltype(std::declval<Its&>().template Get<Key>(key));
};
template <class Cache, class Value>
struct CallsPut {
  template <class Key>
  auto operator()(const Key& key) const
      -> decltype(std::declval<Cache&>().Put(key, std::declval<const Value&>()));
  template <class Key, class Its = Cache>
  auto operator()(const Key& key, int) const
      -> decltype(std::declval<Its&>().template Put<Key>(key, std::declval<const Value&>()));
};
template <class Cache>
struct CallsErase {
  template <class Key>
  auto operator()(const Key& key) const -> decltype(std::declval<Cache&>().Erase(key));
  template <class Key, class Its = Cache>
  auto operator()(const Key& key, int) const
      -> decltype(std::declval<Its&>().template Erase<Key>(key));
};

}  // namespace singleflight::detail
