// SPDX-License-Identifier: MIT
#pragma once

// Coalesce for a coroutine that answers HTTP requests: equal requests that arrive while the
// coroutine runs share its answer.
//
//   ResponseGroup<HttpResponse> items;
//   const HttpHandler handler = Coalesce(items, [](const HttpRequest& request) {
//     return LoadItem(request.target);  // an asio::awaitable<HttpResponse>
//   });
//   const HttpHandler writer = Invalidating(items, SaveItem);
//   HttpResponse response = co_await handler(request);
//
// http_coalescing.hpp says what the handler sees, and who shares.

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/asio.hpp>
#include <singleflight/stop_token.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>
#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif

#include "../support/asio_http.hpp"
#include "http/coroutine_route.hpp"
#include "http_coalescing.hpp"

// A handler that is asked to stop when no client waits for it any more, also by a cancellation of
// its coroutine. It then runs again for the requests that come later.
using StoppableHttpHandler =
    std::function<asio::awaitable<HttpResponse>(const HttpRequest&, singleflight::StopToken)>;

// What coroutine_route.hpp needs to know of this library.
struct AsioLibrary {
  using Request = HttpRequest;
  using Response = HttpResponse;
  using Timer = asio::steady_timer;
  template <class T>
  using Awaitable = asio::awaitable<T>;

  static HttpRequestView ViewOf(const HttpRequest& request) {
    HttpRequestView view{request.method, request.target, {}, request.peer};
    view.fields.assign(request.headers.begin(), request.headers.end());
    return view;
  }
  static HttpAnswerView ViewOf(const HttpResponse& response) {
    HttpAnswerView view{.status = std::atoi(response.status.c_str())};
    view.fields.assign(response.headers.begin(), response.headers.end());
    return view;
  }
  static HttpRequest CopyOf(const HttpVisible& visible) {
    return {.method = visible.method, .target = visible.target, .headers = visible.fields};
  }
  static void SetHeader(HttpRequest& request, const std::string& name, const std::string& value) {
    std::erase_if(request.headers,
                  [&](const auto& header) { return http_text::SameName(header.first, name); });
    request.headers.emplace_back(name, value);
  }
  static singleflight::StopToken ClientHasGone(const HttpRequest& request) {
    return request.client_has_gone;
  }
  static HttpResponse Refusal() { return {"503 Service Unavailable", {{"Retry-After", "1"}}, ""}; }
  static void BecomeNotModified(HttpResponse& response) {
    response.status = "304 Not Modified";
    response.body = {};
  }

  static asio::awaitable<Timer> MakeTimer() { co_return Timer(co_await asio::this_coro::executor); }
  static asio::awaitable<void> Wait(Timer& timer, bool& cancelled) {
    asio::error_code error;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
    cancelled = error == asio::error::operation_aborted;
  }
  template <class Calls, class Run, class Result>
  static asio::awaitable<bool> Ask(Calls& calls, const std::string& key, const Run& run,
                                   asio::awaitable<void> leave, std::exception_ptr& error,
                                   std::optional<Result>& result) {
    using namespace asio::experimental::awaitable_operators;
#if __has_include(<asio/as_tuple.hpp>)
    const auto token = asio::as_tuple(asio::use_awaitable);
#else
    const auto token = asio::experimental::as_tuple(asio::use_awaitable);  // before Asio 1.23
#endif
    // Without as_tuple, `||` would wait for `leave` if the call failed.
    auto join = singleflight::AsyncDo(calls, key, run, token);
    auto first = co_await (std::move(join) || std::move(leave));
    if (first.index() != 0) co_return false;
    error = std::get<0>(std::get<0>(first));
    if (error == nullptr) result.emplace(std::get<1>(std::move(std::get<0>(first))));
    co_return true;
  }
};

// Returns a handler that answers as `handler` does, but runs it once for equal requests. `handler`
// gets a copy of the request, with what it may see.
//
// A request is answered with 503 and Retry-After if a limit of the group refuses it, or if it has
// waited for options.timeout. The timeout applies to the leader as well, unless it is
// OnTimeout::kRunAlone. It does not apply to a request that may not be shared.
//
// Thread: if several threads run the io_context, await the handler in a strand, and request
//   HttpRequest::client_has_gone there.
// Leaving: a request whose client has gone leaves. A `handler` that takes a stop token is asked to
//   stop when no client is left.
// Errors: an exception of `handler` reaches all requests that wait for it. Coalesce throws
//   std::invalid_argument for options that cannot be right: see HttpRoute.
// Lifetime: the group must outlive the handler's coroutines.
inline HttpHandler Coalesce(ResponseGroup<HttpResponse>& group, HttpHandler handler,
                            SharingOptions options = {}) {
  return CoalesceCoroutine<AsioLibrary>(group, std::move(handler), std::move(options));
}
inline HttpHandler Coalesce(ResponseGroup<HttpResponse>& group, StoppableHttpHandler handler,
                            SharingOptions options = {}) {
  return CoalesceCoroutine<AsioLibrary>(group, std::move(handler), std::move(options));
}

// Returns a handler for writes. It answers as `handler` does. Requests that start after its answer
// do not join a run from before it.
//
// Lifetime: the group must outlive the handler's coroutines.
inline HttpHandler Invalidating(ResponseGroup<HttpResponse>& group, HttpHandler handler) {
  return [&group, kept = std::make_shared<const HttpHandler>(std::move(handler))](
             const HttpRequest& request) {
    return WriteAndInvalidate<AsioLibrary>(group, kept, request);
  };
}
