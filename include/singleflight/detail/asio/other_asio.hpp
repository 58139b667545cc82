// SPDX-License-Identifier: MIT
#pragma once

// Tells the tokens and functions of the standalone Asio from those of Boost's, without either.

#include <concepts>
#include <type_traits>
#include <utility>

#include "../../options.hpp"
#include "../group_like.hpp"

namespace singleflight {

namespace detail::other_asio {

void get_associated_executor();  // never defined: it ends the ordinary lookup here

// What get_associated_executor returns if it is found by the namespaces of T alone. Both Asios have
// such a function, each in its own namespace.
template <class T>
using AssociatedExecutor =
    std::remove_cvref_t<decltype(get_associated_executor(std::declval<const T&>()))>;

}  // namespace detail::other_asio

namespace detail {

// The executor that handlers have by default in the Asio to which T belongs: what an executor is
// itself associated with. There is none if T belongs to no Asio.
template <class T>
using DefaultExecutorFor =
    other_asio::AssociatedExecutor<other_asio::AssociatedExecutor<std::decay_t<T>>>;

template <class T>
concept OfAnyAsio = requires {
  typename DefaultExecutorFor<T>;
};

// Whether T belongs to an Asio, and not to the one with this default. A T that belongs to none,
// such as a lambda, fits both.
template <class T, class DefaultExecutor>
concept OfOtherAsio = OfAnyAsio<T> && !std::same_as<DefaultExecutorFor<T>, DefaultExecutor>;

template <class>
inline constexpr bool kNoAsioFits = false;

}  // namespace detail

// Chosen only if the token, or the executor that fn is bound to, fits no header that was included.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
auto AsyncDo(G&, const K&, Fn&&, Token&&) {
  static_assert(detail::kNoAsioFits<Token>,
                "the completion token or fn belongs to another Asio: include "
                "singleflight/asio.hpp for the standalone Asio, and singleflight/boost_asio.hpp "
                "for Boost.Asio");
}
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, OnFailure, Token&& token) {
  return singleflight::AsyncDo(group, key, std::forward<Fn>(fn), std::forward<Token>(token));
}

// Chosen only if these two are in the wrong order.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
auto AsyncDo(G&, const K&, Fn&&, Token&&, OnFailure) {
  static_assert(detail::kNoAsioFits<Token>,
                "the completion token comes last: AsyncDo(group, key, fn, on_failure, token)");
}

}  // namespace singleflight
