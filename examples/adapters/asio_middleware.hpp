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
// http_coalescing.hpp says what the handler sees, and who shares. A run of the handler belongs to
// no single request. It continues even if all requests that wait for it time out, so a request that
// comes then finds it under way.

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/asio.hpp>
#include <stop_token>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif

#include "../support/asio_http.hpp"
#include "http_coalescing.hpp"

// A handler that is asked to stop when no client waits for it any more, also by a cancellation of
// its coroutine. It then runs again for the requests that come later.
using StoppableHttpHandler =
    std::function<asio::awaitable<HttpResponse>(const HttpRequest&, std::stop_token)>;

namespace asio_adapter {

#if __has_include(<asio/as_tuple.hpp>)
using asio::as_tuple;
#else
using asio::experimental::as_tuple;  // before Asio 1.23
#endif

inline HttpRequestView ViewOf(const HttpRequest& request) {
  HttpRequestView view{request.method, request.target, {}, request.peer};
  view.fields.assign(request.headers.begin(), request.headers.end());
  return view;
}

inline HttpAnswerView ViewOf(const HttpResponse& response) {
  HttpAnswerView view{.status = std::atoi(response.status.c_str())};
  view.fields.assign(response.headers.begin(), response.headers.end());
  return view;
}

// Returns a request that has only what is visible.
inline HttpRequest CopyOf(const HttpVisible& visible) {
  return {.method = visible.method, .target = visible.target, .headers = visible.fields};
}

inline HttpResponse Refusal() { return {"503 Service Unavailable", {{"Retry-After", "1"}}, ""}; }

// What the run of one request leaves for that request alone.
struct Own {
  bool begun = false;  // this request leads
  HttpResponse response = {};
};

// One coalesced handler. Its coroutines refer to it, and each of them shares its ownership.
template <class Handler>
class Route {
 public:
  using Answer = SharedAnswer<HttpResponse>;
  using Result = singleflight::Result<Answer>;
  using Shared = std::shared_ptr<const Route>;

  Route(ResponseGroup<HttpResponse>& group, Handler handler, SharingOptions options)
      : group_(group), handler_(std::move(handler)), rules_(group.sharing(), std::move(options)) {}

  static asio::awaitable<HttpResponse> Serve(Shared self, HttpRequest request) {
    HttpAsk ask(self->rules_, ViewOf(request));
    for (;;) {
      if (ask.SeesAll()) co_return co_await self->Handle(request, request.client_has_gone);
      std::optional<HttpResponse> response;
      if (ask.RunsAlone()) {
        const HttpVisible visible = ask.Visible();
        const HttpRequest copy = CopyOf(visible);
        response = co_await self->Handle(copy, request.client_has_gone);
        if (!ask.FitsAsLeader(self->rules_.Learn(visible, ViewOf(*response)))) response.reset();
      } else {
        response = co_await Share(self, ask, request.client_has_gone);
      }
      if (!response) continue;  // it sees more now, or runs alone
      if (ask.NotModified(ViewOf(*response))) {
        response->status = "304 Not Modified";
        response->body = {};
      }
      co_return std::move(*response);
    }
  }

 private:
  static constexpr bool kStoppable =
      std::is_invocable_v<const Handler&, const HttpRequest&, std::stop_token>;

  asio::awaitable<HttpResponse> Handle(const HttpRequest& request, std::stop_token stop) const {
    if constexpr (kStoppable) {
      return handler_(request, std::move(stop));
    } else {
      return handler_(request);
    }
  }

  // The `fn` of a call.
  static asio::awaitable<Answer> Run(Shared self, HttpVisible visible, std::shared_ptr<Own> own,
                                     std::stop_token stop) {
    own->begun = true;
    const HttpRequest copy = CopyOf(visible);
    try {
      HttpResponse made = co_await self->Handle(copy, std::move(stop));
      Answer answer{.verdict = self->rules_.Learn(visible, ViewOf(made))};
      (answer.verdict.shareable ? answer.response : own->response) = std::move(made);
      co_return answer;
    } catch (const std::system_error&) {
      throw HandlerError{std::current_exception()};
    }
  }

  // Joins a run, or leads one. Returns nothing if this request must ask again.
  static asio::awaitable<std::optional<HttpResponse>> Share(Shared self, HttpAsk& ask,
                                                            std::stop_token gone) {
    using namespace asio::experimental::awaitable_operators;
    if (gone.stop_requested()) co_return Refusal();
    const auto own = std::make_shared<Own>();
    const auto run = [self, visible = ask.Visible(), own] {
      if constexpr (kStoppable) {
        return [=](std::stop_token stop) { return Run(self, visible, own, std::move(stop)); };
      } else {
        return [=] { return Run(self, visible, own, {}); };
      }
    }();
    const std::string key = ask.Key();
    asio::steady_timer timer(co_await asio::this_coro::executor);
    // Without as_tuple, `||` would wait for the timer if the call failed.
    auto join =
        singleflight::AsyncDo(self->group_.calls(), key, run, as_tuple(asio::use_awaitable));
    auto first = co_await (std::move(join) || self->Leave(timer, gone, *own));
    std::optional<Result> result;
    HttpRefusal refusal = gone.stop_requested() ? HttpRefusal::kGone : HttpRefusal::kTimedOut;
    if (first.index() == 0) {
      auto& [error, answer] = std::get<0>(first);
      result = UnlessRefused(
          [&error = error, &answer = answer]() -> Result {
            if (error != nullptr) std::rethrow_exception(error);
            return std::move(answer);
          },
          refusal);
    }
    if (!result) {
      if (refusal == HttpRefusal::kTimedOut &&
          self->rules_.options().on_timeout == OnTimeout::kRunAlone) {
        ask.RunAlone();
        co_return std::nullopt;
      }
      co_return Refusal();
    }
    const HttpVerdict& verdict = (*result)->verdict;
    const bool leads = result->role() == singleflight::Role::kLeader;
    if (!(leads ? ask.FitsAsLeader(verdict) : ask.FitsAsFollower(verdict))) co_return std::nullopt;
    if (!verdict.shareable) co_return std::move(own->response);
    co_return std::move(*result).value().response;
  }

  // Returns when the request is to wait no longer: its client has gone, or its timeout has passed.
  // A leader that could run alone after its timeout does so already.
  asio::awaitable<void> Leave(asio::steady_timer& timer, std::stop_token gone,
                              const Own& own) const {
    timer.expires_at(asio::steady_timer::time_point::max());
    if (rules_.options().timeout) timer.expires_after(*rules_.options().timeout);
    const std::stop_callback wake(gone, [&timer] { timer.cancel(); });
    while (!gone.stop_requested()) {
      asio::error_code error;
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      if (!own.begun || rules_.options().on_timeout == OnTimeout::kRefuse) co_return;
      timer.expires_at(asio::steady_timer::time_point::max());
    }
  }

  ResponseGroup<HttpResponse>& group_;
  const Handler handler_;
  const HttpRoute rules_;
};

template <class Handler>
HttpHandler MakeHandler(ResponseGroup<HttpResponse>& group, Handler handler,
                        SharingOptions options) {
  auto route =
      std::make_shared<const Route<Handler>>(group, std::move(handler), std::move(options));
  return [route = std::move(route)](const HttpRequest& request) {
    return Route<Handler>::Serve(route, request);
  };
}

inline asio::awaitable<HttpResponse> Write(ResponseGroup<HttpResponse>& group,
                                           std::shared_ptr<const HttpHandler> handler,
                                           const HttpRequest& request) {
  HttpResponse response;
  try {
    response = co_await (*handler)(request);
  } catch (...) {
    group.Invalidate(request.target);  // it may have written something
    throw;
  }
  InvalidateFor(group, request.target, ViewOf(response));
  co_return response;
}

}  // namespace asio_adapter

// Returns a handler that answers as `handler` does, but runs it once for equal requests. `handler`
// gets a copy of the request, with what it may see.
//
// A request is answered with 503 and Retry-After if a limit of the group refuses it, or if it has
// waited for options.timeout. The timeout applies to the leader as well, unless it is
// OnTimeout::kRunAlone. It does not apply to a request that may not be shared.
//
// Thread: if several threads run the io_context, await the handler in a strand, and request
//   HttpRequest::client_has_gone there.
// Leaving: a request whose client has gone leaves. A `handler` that takes a std::stop_token is
//   asked to stop when no client is left.
// Errors: an exception of `handler` reaches all requests that wait for it. Coalesce throws
//   std::invalid_argument for options that cannot be right: see HttpRoute.
// Lifetime: the group must outlive the handler's coroutines.
inline HttpHandler Coalesce(ResponseGroup<HttpResponse>& group, HttpHandler handler,
                            SharingOptions options = {}) {
  return asio_adapter::MakeHandler(group, std::move(handler), std::move(options));
}
inline HttpHandler Coalesce(ResponseGroup<HttpResponse>& group, StoppableHttpHandler handler,
                            SharingOptions options = {}) {
  return asio_adapter::MakeHandler(group, std::move(handler), std::move(options));
}

// Returns a handler for writes. It answers as `handler` does. Requests that start after its answer
// do not join a run from before it.
//
// Lifetime: the group must outlive the handler's coroutines.
inline HttpHandler Invalidating(ResponseGroup<HttpResponse>& group, HttpHandler handler) {
  return [&group, kept = std::make_shared<const HttpHandler>(std::move(handler))](
             const HttpRequest& request) { return asio_adapter::Write(group, kept, request); };
}
