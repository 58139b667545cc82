// SPDX-License-Identifier: MIT
#pragma once

// AsyncDo for Boost.Asio: waits for a call as an Asio operation, with any completion token.
//
//   const auto user = co_await AsyncDo(users, request.id, load, boost::asio::use_awaitable);
//
// asio.hpp is its manual and its contract: read boost::asio for asio there, and Boost 1.78 for Asio
// 1.20, 1.80 for 1.23, 1.86 for 1.31. The macros for Clang have the prefix BOOST_.
//
// A program may use both headers, also in one file. The completion token and `fn` decide which
// AsyncDo is called. Where both are plain functions the call is ambiguous, so say which one:
//
//   singleflight::boost_asio::AsyncDo(users, id, Load, [](std::exception_ptr, auto user) {});
//   singleflight::standalone_asio::AsyncDo(users, id, Load, [](std::exception_ptr, auto user) {});

#include "detail/requirements.hpp"

#if !__has_include(<boost/asio/version.hpp>)
#error \
    "singleflight/boost_asio.hpp needs Boost 1.78 or newer; for standalone Asio, include asio.hpp"
#include "stop here: boost/asio/version.hpp was not found"  // stops the compiler at once
#endif
#include <boost/asio/version.hpp>
#if BOOST_ASIO_VERSION < 102000
#error \
    "singleflight/boost_asio.hpp needs Boost 1.78 or newer: older ones cannot cancel one operation"
#include "stop here: Boost is too old"
#endif

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/require.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/system_executor.hpp>
#include <boost/system/system_error.hpp>
#if defined(BOOST_ASIO_HAS_CO_AWAIT)
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#endif

#include <type_traits>
#include <utility>

#include "detail/asio/other_asio.hpp"
#include "detail/group_like.hpp"
#include "group.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight::detail::boost_asio {
namespace net = ::boost::asio;
using NetSystemError = ::boost::system::system_error;
}  // namespace singleflight::detail::boost_asio

#define SINGLEFLIGHT_ASIO boost_asio
#if defined(BOOST_ASIO_HAS_CO_AWAIT)
#define SINGLEFLIGHT_ASIO_HAS_CO_AWAIT
#endif
#include "detail/asio/body/context.hpp"
#include "detail/asio/body/launch.hpp"
#include "detail/asio/body/launch_twice.hpp"
#include "detail/asio/body/operation.hpp"
#include "detail/asio/body/operation_twice.hpp"
#include "detail/asio/body/start.hpp"
#undef SINGLEFLIGHT_ASIO_HAS_CO_AWAIT
#undef SINGLEFLIGHT_ASIO

namespace singleflight {
inline namespace boost_asio {

// As AsyncDo in asio.hpp: see there.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
requires detail::boost_asio::FitsAsio<Fn, Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, Token&& token) {
  return detail::boost_asio::StartAsyncDo(group, detail::CopyKey<G>(key), std::forward<Fn>(fn),
                                          std::forward<Token>(token));
}

// The same for a caller that says what to do if it follows and its call fails: see asio.hpp.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
requires detail::boost_asio::FitsAsio<Fn, Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, OnFailure on_failure, Token&& token) {
  return detail::boost_asio::StartAsyncDo(group, detail::CopyKey<G>(key), std::forward<Fn>(fn),
                                          std::forward<Token>(token), on_failure);
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>, class Token>
requires detail::boost_asio::FitsAsio<detail::UnusedFn<typename B::ValueType>, Token>
auto AsyncDo(B& batcher, const K& key, Token&& token) {
  auto& group = batcher.AsGroup();
  using Group = std::remove_reference_t<decltype(group)>;
  return detail::boost_asio::StartAsyncDo(group, detail::CopyKey<Group>(key),
                                          detail::kUnusedFn<typename B::ValueType>,
                                          std::forward<Token>(token));
}

}  // namespace boost_asio
}  // namespace singleflight
