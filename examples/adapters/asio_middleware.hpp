// SPDX-License-Identifier: MIT
#pragma once

// Coalesce for a coroutine that answers HTTP requests: equal requests that arrive while the
// coroutine runs share its answer.
//
//   ResponseGroup<HttpResponse> items;
//   const HttpHandler handler = Coalesce(items, [](const HttpRequest& request) {
//     return LoadItem(request.target);  // an asio::awaitable<HttpResponse>
//   });
//   HttpResponse response = co_await handler(request);
//
// The rules are those of http_middleware.hpp: two users never see each other's answer. A run of the
// handler belongs to no single request. It continues even if all requests that wait for it time
// out, so a request that comes then finds it under way.

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <singleflight/asio.hpp>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif

#include "../support/asio_http.hpp"
#include "http_key.hpp"
#include "http_sharing.hpp"

namespace http_sharing {

#if __has_include(<asio/as_tuple.hpp>)
using asio::as_tuple;
#else
using asio::experimental::as_tuple;  // before Asio 1.23
#endif

// One coalesced handler. Its coroutines refer to it, and each of them shares its ownership.
struct AsioRoute {
  using Shared = singleflight::Result<Shareable<HttpResponse>>;

  ResponseGroup<HttpResponse>& group;
  HttpHandler handler;
  SharingOptions<HttpRequest> options;
  const std::string id = NextRoute();

  // The `fn` of a call.
  static asio::awaitable<Shareable<HttpResponse>> Run(std::shared_ptr<const AsioRoute> self,
                                                      HttpRequest request) {
    try {
      HttpResponse made = co_await self->handler(request);
      co_return Shareable<HttpResponse>(request, std::move(made));
    } catch (const std::system_error&) {
      throw HandlerError{std::current_exception()};
    }
  }

  static asio::awaitable<HttpResponse> Answer(std::shared_ptr<const AsioRoute> self,
                                              HttpRequest request) {
    using namespace asio::experimental::awaitable_operators;
    std::optional<std::string> key = SharingKey(request, self->options);
    if (!key) co_return co_await self->handler(request);

    key->insert(0, self->id);
    asio::steady_timer timer(co_await asio::this_coro::executor,
                             asio::steady_timer::time_point::max());
    if (self->options.timeout) timer.expires_after(*self->options.timeout);
    // Without as_tuple, `||` would wait for the timer if the call failed.
    const auto run = [self, request] { return Run(self, request); };
    auto ask = singleflight::AsyncDo(self->group, *key, run, as_tuple(asio::use_awaitable));
    auto first = co_await (std::move(ask) || timer.async_wait(asio::use_awaitable));
    std::optional<Shared> result;
    if (first.index() == 0) {
      auto& [error, answer] = std::get<0>(first);
      result = UnlessRefused([&error = error, &answer = answer]() -> Shared {
        if (error != nullptr) std::rethrow_exception(error);
        return std::move(answer);
      });
    }
    if (!result) co_return HttpResponse{"503 Service Unavailable", {{"Retry-After", "1"}}, ""};
    const bool leads = result->role() == singleflight::Role::kLeader;
    if (!leads && !(*result)->Answers(request)) co_return co_await self->handler(request);
    co_return std::move(*result).value().response;
  }
};

}  // namespace http_sharing

// Returns a handler that answers as `handler` does, but runs it once for equal requests.
//
// A request is answered with 503 and Retry-After if a limit of the group refuses it, or if it has
// waited for options.timeout. The timeout applies to the leader as well. It does not apply to a
// request that may not be shared.
//
// Thread: if several threads run the io_context, await the handler in a strand.
// Errors: an exception of `handler` reaches all requests that wait for it. So it must not name a
//   user: instead of throwing, return a response that does.
// Lifetime: the group must outlive the handler's coroutines.
inline HttpHandler Coalesce(ResponseGroup<HttpResponse>& group, HttpHandler handler,
                            SharingOptions<HttpRequest> options = {}) {
  using Route = http_sharing::AsioRoute;
  Route route{group, std::move(handler), std::move(options)};
  return [kept = std::make_shared<const Route>(std::move(route))](const HttpRequest& request) {
    return Route::Answer(kept, request);
  };
}
