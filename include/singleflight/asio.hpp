// SPDX-License-Identifier: MIT
#pragma once

// AsyncDo: waits for a call as an Asio operation, with any completion token.
//
//   asio::awaitable<User> LoadUser(int id);
//
//   asio::awaitable<void> Handle(Request request) {
//     const auto load = [id = request.id] { return LoadUser(id); };
//     const auto user = co_await AsyncDo(users, request.id, load, asio::use_awaitable);
//     co_await Respond(request, *user);
//   }
//
// It joins the same calls as Do, and blocks no thread. This header is for the standalone Asio, 1.20
// or newer. boost_asio.hpp is the same for Boost.Asio. See there if your program uses both.
//
// A timeout is a cancellation of the operation, without an effect on the call's other callers:
//
//   co_await AsyncDo(users, id, load, asio::cancel_after(50ms, asio::use_awaitable))  // Asio 1.31
//
//   using namespace asio::experimental::awaitable_operators;                          // any Asio
//   asio::steady_timer timer(co_await asio::this_coro::executor, 50ms);
//   auto first = co_await (AsyncDo(users, id, load, as_tuple(asio::use_awaitable)) ||
//                          timer.async_wait(asio::use_awaitable));
//   if (first.index() == 1) throw TooLate();
//   auto& [error, user] = std::get<0>(first);  // *user may be read if `error` is null
//
// cancel_after reports operation_aborted. Its timer runs on the executor of `fn`. If `fn` has none,
// use cancel_after(timer, 50ms, token), or the timer runs on Asio's own threads. as_tuple is
// asio::as_tuple, or asio::experimental::as_tuple before Asio 1.23.
//
// Warning: without as_tuple, `||` waits for the first side that does not fail. A call that fails
// after 5 ms is then reported as a timeout, after 50 ms.
//
// To hide an operation in a .cpp file, take the handler and the executor of your I/O objects, as
// Asio's own examples do. Bind `fn` to that executor:
//
//   void LoadImpl(asio::any_completion_handler<void(std::exception_ptr, Result<User>)> handler,
//                 asio::any_io_executor executor, int id) {
//     AsyncDo(users, id, asio::bind_executor(executor, [id] { return Load(id); }),
//             std::move(handler));
//   }
//
// If your Asio does not detect coroutines under Clang, define ASIO_HAS_CO_AWAIT and
// ASIO_HAS_STD_COROUTINE. Without them there are no awaitables, and the rest works.
//
// Lifetime: the group must outlive the calls, and ~Group waits for them, so something must still
//   run their work. If one thread runs the io_context and destroys the group, declare the group
//   before the io_context. The io_context is then destroyed first, and lands the calls that are led
//   on it. An operation whose own context is destroyed is destroyed with it, as everywhere in Asio:
//   its handler is not called. The context that `fn` is bound to must outlive the operation, too,
//   unless that may ask again. While one thread destroys the group, no other may cancel an
//   operation or destroy a context.
//
// Warning: do not wait in Do on the only thread that runs the context. If the call is led there, it
// waits for itself, and that is not detected.
//
// Warning: GCC 12 and 13 destroy some temporaries in a co_await expression twice, which corrupts
// the heap. Before you await, name a lambda that captures by value, and a key that is an aggregate,
// even one in braces. This applies to your own co_await expressions, too.

#include "detail/requirements.hpp"

#if !__has_include(<asio/version.hpp>)
#error "singleflight/asio.hpp needs Asio 1.20 or newer; for Boost's, include boost_asio.hpp"
#include "stop here: asio/version.hpp was not found"  // a missing file stops the compiler at once
#endif
#include <asio/version.hpp>
#if ASIO_VERSION < 102000
#error "singleflight/asio.hpp needs Asio 1.20 or newer: older ones cannot cancel one operation well"
#include "stop here: Asio is too old"
#endif

#include <asio/any_io_executor.hpp>
#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/dispatch.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/execution_context.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>
#include <asio/require.hpp>
#include <asio/strand.hpp>
#include <asio/system_error.hpp>
#include <asio/system_executor.hpp>
#if defined(ASIO_HAS_CO_AWAIT)
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#endif

#include <type_traits>
#include <utility>

#include "detail/asio/other_asio.hpp"
#include "detail/group_like.hpp"
#include "group.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight::detail::standalone_asio {
namespace net = ::asio;
using NetSystemError = ::asio::system_error;
}  // namespace singleflight::detail::standalone_asio

#define SINGLEFLIGHT_ASIO standalone_asio
#if defined(ASIO_HAS_CO_AWAIT)
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
inline namespace standalone_asio {

// Joins the call in flight for `key`. If there is none, makes one, whose work is `fn()`, or
// `fn(StopToken)` if it accepts that. `fn` returns what converts to Value, or an
// asio::awaitable of it. (A coroutine must take the token by value.) `key` is a Key, what converts
// to one, or for a string key anything that converts to a string_view. The operation keeps copies
// of `key` and `fn`, so a lazy token may start it later.
//
// Completion: the signature is void(std::exception_ptr, Result<Value>). Tokens turn the first into
//   an exception. The handler is called once, through its associated executor, and never
//   inside AsyncDo. Outstanding work is counted on that executor until then, and memory comes from
//   the handler's associated allocator. If the exception_ptr is set, the Result must not be read.
// Thread: `fn` never runs inside AsyncDo, and a follower's `fn` never runs. A plain `fn` is posted
//   to the executor bound to it, or else to the handler's. If it blocks, bind it to a thread pool:
//   bind_executor(pool, fn). An awaitable `fn` runs there as a coroutine, in a strand. If its type
//   names an executor that cannot be a strand, it runs without one, and that executor must run one
//   function at a time. A handler without an executor completes on that of `fn`. If neither has
//   one, both use Asio's system_executor, whose threads are Asio's own. use_future's handler is on
//   those threads, too. No awaitable can run there, so bind it elsewhere.
// Executors: the executor that `fn` runs on must be able to post: it must support
//   execution::blocking.never. The handler's own need not, as that of an any_completion_handler.
//   Its completion is then posted to the executor of `fn`, and dispatched to its own from there. So
//   bind `fn` then. If `fn` is bound to a busy pool, the completion waits for that pool.
// Leaving: a cancellation of any type, through the handler's associated slot, makes this caller
//   leave. The call continues for the others. Emit it where the handler would run, which must run
//   one function at a time: a strand, if there are several threads. When the last caller leaves,
//   work that takes a StopToken is asked to stop: by that token, and an awaitable `fn` also
//   by a terminal cancellation of its coroutine. Work that takes no token continues, and newcomers
//   join it. ~Group asks all work to stop.
// Errors: the exception_ptr is one of
//     what `fn` threw, unchanged
//     operation_aborted, as a system_error of Asio: this caller was cancelled
//     `resource_unavailable_try_again`, as a std::system_error: a limit refused this caller
//     `owner_dead`, likewise: the work was destroyed, for example because its context was
//     what making the call threw.
//   AsyncDo itself throws std::out_of_range for a number that the Key type cannot represent, and
//   what copying `key` or `fn` throws. It throws std::bad_alloc if there is no memory even to
//   notify the handler. Asio terminates the program if there is no memory to post a handler, or if
//   starting an operation in a coroutine throws.
// Lifetime: no caller owns the work, so `fn` must own what it needs. An operation belongs to the
//   context of the executor that its completion is posted to. That context may be destroyed before
//   the call lands, if the executor reveals it, but do not cancel the operation meanwhile. A
//   context that the completion is only dispatched to must outlive the operation, as everywhere in
//   Asio.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
requires detail::standalone_asio::FitsAsio<Fn, Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, Token&& token) {
  return detail::standalone_asio::StartAsyncDo(group, detail::CopyKey<G>(key), std::forward<Fn>(fn),
                                               std::forward<Token>(token));
}

// The same for a caller that says what to do if it follows and its call fails. With
// OnFailure::kRetry it asks again, once: see OnFailure. Its `fn` may then run, as that of a leader.
//
// Completion: once, when the call that it asked for last has landed. While it may yet ask again,
//   outstanding work is also counted on the executor of `fn`.
// Thread: it asks again on the thread that lands the failed call, after that call's other waiters
//   were notified. `fn` does not run there, but on its executor.
// Leaving: as above. If it is cancelled after the call has failed and before it has asked again, it
//   does not ask again. If the context that `fn` is bound to is destroyed before, it does not
//   either, and gets the failure.
// Lifetime: as above. A thread that destroys the context of the operation, or that of `fn`, waits
//   while another one is asking again. So it must not hold a lock that KeyEqual or a cache takes.
// Cost: the operation is larger, and keeps its copy of the key. With OnFailure::kShare it is not.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Token>
requires detail::standalone_asio::FitsAsio<Fn, Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, OnFailure on_failure, Token&& token) {
  return detail::standalone_asio::StartAsyncDo(group, detail::CopyKey<G>(key), std::forward<Fn>(fn),
                                               std::forward<Token>(token), on_failure);
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>, class Token>
requires detail::standalone_asio::FitsAsio<detail::UnusedFn<typename B::ValueType>, Token>
auto AsyncDo(B& batcher, const K& key, Token&& token) {
  auto& group = batcher.AsGroup();
  using Group = std::remove_reference_t<decltype(group)>;
  return detail::standalone_asio::StartAsyncDo(group, detail::CopyKey<Group>(key),
                                               detail::kUnusedFn<typename B::ValueType>,
                                               std::forward<Token>(token));
}

}  // namespace standalone_asio
}  // namespace singleflight
