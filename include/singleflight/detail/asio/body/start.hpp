// SPDX-License-Identifier: MIT

// How an AsyncDo is started: which executors it uses, and what a completion token is given.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "../../../options.hpp"
#include "../../../result.hpp"
#include "../../group_like.hpp"
#include "../../invoke.hpp"
#include "../../later_launch.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

// The executors of an operation: each falls back on the other's, and then on Asio's own.
template <class Handler, class Fn>
struct Executors {
  using Fallback = ExecutorTypeOf<Fn, net::system_executor>;
  using OfHandler = ExecutorTypeOf<Handler, Fallback>;
  using OfFn = ExecutorTypeOf<Fn, OfHandler>;
};

template <class Executor>
constexpr bool CheckCanPost() {
  static_assert(kCanPost<Executor>,
                "AsyncDo cannot post to this executor, because it does not support "
                "execution::blocking.never: bind fn to one that does, such as the executor of your "
                "I/O objects, with bind_executor(executor, fn)");
  return kCanPost<Executor>;
}

// Starts the operation, which a lazy token does later. Tokens that add something to an operation
// use its executor: see IoExecutorOf.
template <class G, class IoExecutor>
struct InitiateAsyncDo {
  using executor_type = IoExecutor;
  executor_type get_executor() const noexcept { return executor; }

  G* group;
  IoExecutor executor;

  template <class Handler, class Fn>
  void operator()(Handler&& handler, typename G::KeyType key, Fn fn) const {
    if constexpr (LaunchesLater<G>) {
      const auto join = [](auto& op, auto& mine, auto& launch) {
        const typename G::KeyType its_key(std::move(mine.key));
        mine.group.Join(its_key, op, launch);
      };
      Start<false>(std::forward<Handler>(handler), std::move(fn), join, *group, std::move(key));
    } else {
      Start<false>(std::forward<Handler>(handler), std::move(fn),
                   [&](auto& op, auto&, auto& launch) { group->Join(key, op, launch); });
    }
  }

  template <class Handler, class Fn>
  void operator()(Handler&& handler, typename G::KeyType key, Fn fn, OnFailure on_failure) const {
    if (on_failure == OnFailure::kShare) {
      return (*this)(std::forward<Handler>(handler), std::move(key), std::move(fn));
    }
    const auto join = [](auto& op, auto& mine, auto& launch) {
      if constexpr (LaunchesLater<G>) {
        const typename G::KeyType its_key(
            mine.key);  // the operation may be gone before Join returns
        mine.group.Join(its_key, op, launch, OnFailure::kRetry);
      } else {
        mine.group.Join(std::as_const(mine.key), op, launch, OnFailure::kRetry);
      }
    };
    Start<true>(std::forward<Handler>(handler), std::move(fn), join, *group, std::move(key));
  }

 private:
  template <bool kMayAskAgain, class Handler, class Fn, class Join, class... Retry>
  static void Start(Handler&& handler, Fn&& fn, Join&& join, Retry&&... retry) {
    using Types = Executors<std::decay_t<Handler>, Fn>;
    if constexpr (SINGLEFLIGHT_ASIO::CheckCanPost<typename Types::OfFn>()) {
      using Op =
          std::conditional_t<kMayAskAgain || LaunchesLater<G>,
                             AsyncDoTwice<G, std::decay_t<Handler>, typename Types::OfHandler, Fn,
                                          typename Types::OfFn, kMayAskAgain>,
                             AsyncDoOnce<G, std::decay_t<Handler>, typename Types::OfHandler, Fn,
                                         typename Types::OfFn>>;
      const auto fallback = SINGLEFLIGHT_ASIO::ExecutorOf(fn, net::system_executor());
      const auto completes_on = SINGLEFLIGHT_ASIO::ExecutorOf(handler, fallback);
      const auto fn_runs_on = SINGLEFLIGHT_ASIO::ExecutorOf(fn, completes_on);
      const auto allocator = net::get_associated_allocator(handler);
      using Allocator = typename std::allocator_traits<
          std::remove_const_t<decltype(allocator)>>::template rebind_alloc<Op>;
      auto op = std::allocate_shared<Op>(Allocator(allocator), std::forward<Handler>(handler),
                                         completes_on, std::move(fn), fn_runs_on,
                                         std::forward<Retry>(retry)...);
      Op::Start(std::move(op), join);
    }
  }
};

// The executor for the timers of a token such as cancel_after.
template <class Fn>
auto IoExecutorOf(const Fn& fn) {
  if constexpr (std::convertible_to<ExecutorTypeOf<Fn, net::system_executor>,
                                    net::any_io_executor>) {
    return SINGLEFLIGHT_ASIO::ExecutorOf(fn, net::system_executor());
  } else {
    return net::system_executor();
  }
}

// Stands for the initiation of an AsyncDo where a token is only checked.
template <class Value>
struct AnyInitiation {
  template <std::invocable<std::exception_ptr, Result<Value>> Handler>
  void operator()(Handler&& handler) const;
};

template <class Token, class Value>
concept TokenFor = requires(Token&& token) {
  net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(AnyInitiation<Value>(),
                                                                      token);
};

// Whether AsyncDo of this Asio can take these arguments: none belongs to another one.
template <class Fn, class Token>
concept FitsAsio = !OfOtherAsio<Fn, DefaultExecutor> && !OfOtherAsio<Token, DefaultExecutor>;

// AsyncDo, with a copy of the key, and with an OnFailure if it has one.
template <class G, class Fn, class Token, class... OnFailureArg>
auto StartAsyncDo(G& group, typename G::KeyType&& key, Fn&& fn, Token&& token,
                  OnFailureArg... on_failure) {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  // Evaluated here, so that what they say is a compiler's first error.
  static_assert((detail::CheckKept<Fn>(), SINGLEFLIGHT_ASIO::CheckNetFn<G, Kept>(), true));
  static_assert(TokenFor<Token, Value>,
                "the token must be a completion token for the signature "
                "void(std::exception_ptr, singleflight::Result<Value>)");
  using Types = Executors<std::decay_t<Token>, Kept>;  // those of a token that is the handler
  static_cast<void>(SINGLEFLIGHT_ASIO::CheckCanPost<typename Types::OfFn>());
  const auto io_executor = SINGLEFLIGHT_ASIO::IoExecutorOf(fn);
  return net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(
      InitiateAsyncDo<G, std::remove_const_t<decltype(io_executor)>>{&group, io_executor}, token,
      std::move(key), Kept(std::forward<Fn>(fn)), on_failure...);
}

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO
