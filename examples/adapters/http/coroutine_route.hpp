// SPDX-License-Identifier: MIT
#pragma once

// HttpCoroutineRoute takes requests through a coalesced handler that is a coroutine of Asio. It is
// what asio_middleware.hpp and beast_middleware.hpp have in common.
//
// A run of the handler belongs to no single request. It continues even if all requests that wait
// for it time out, so a request that comes then finds it under way.

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/stop_token.hpp>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include "../http_coalescing.hpp"

// One coalesced handler. Its coroutines refer to it, and each of them shares its ownership.
//
// `Library` has these members, which asio_middleware.hpp shows:
//
//   Request, Response, Awaitable<T>, Timer
//   HttpRequestView ViewOf(const Request&)           HttpAnswerView ViewOf(const Response&)
//   Request CopyOf(const HttpVisible&)               StopToken ClientHasGone(const Request&)
//   void SetHeader(Request&, name, value)            in place of all headers of this name
//   Response Refusal()                               void BecomeNotModified(Response&)
//   Awaitable<Timer> MakeTimer()                     on the executor of this coroutine
//   Awaitable<void> Wait(Timer&, bool& cancelled)
//   Awaitable<bool> Ask(calls, key, run, leave, error, result)
//
// Ask calls AsyncDo, and awaits it or `leave`, an Awaitable<void>, whatever ends first. It returns
// whether that was the call. The other one is cancelled.
template <class Library, class Handler>
class HttpCoroutineRoute {
 public:
  using Request = typename Library::Request;
  using Response = typename Library::Response;
  using Answer = SharedAnswer<Response>;
  using Shared = std::shared_ptr<const HttpCoroutineRoute>;
  template <class T>
  using Awaitable = typename Library::template Awaitable<T>;

  HttpCoroutineRoute(ResponseGroup<Response>& group, Handler handler, SharingOptions options)
      : group_(group), handler_(std::move(handler)), rules_(group.sharing(), std::move(options)) {}

  static Awaitable<Response> Serve(Shared self, Request request) {
    HttpAsk ask(self->rules_, Library::ViewOf(request));
    const singleflight::StopToken gone = Library::ClientHasGone(request);
    for (;;) {
      if (ask.SeesAll()) {
        if (ask.Derived().empty()) co_return co_await self->Handle(request, gone);
        Request copy = request;  // `ask` refers to the request
        for (const auto& [name, value] : ask.Derived()) Library::SetHeader(copy, name, value);
        co_return co_await self->Handle(copy, gone);
      }
      std::optional<Response> response;
      if (ask.RunsAlone()) {
        const HttpVisible visible = ask.Visible();
        const Request copy = Library::CopyOf(visible);
        response.emplace(co_await self->Handle(copy, gone));
        const HttpVerdict verdict = self->rules_.Learn(visible, Library::ViewOf(*response));
        if (!ask.FitsAsLeader(verdict)) response.reset();
      } else {
        response = co_await Share(self, ask, gone);
      }
      if (!response) continue;  // it sees more now, or runs alone
      if (ask.NotModified(Library::ViewOf(*response))) Library::BecomeNotModified(*response);
      co_return std::move(*response);
    }
  }

 private:
  static constexpr bool kStoppable =
      std::is_invocable_v<const Handler&, const Request&, singleflight::StopToken>;

  // What a run leaves for the request that started it.
  struct Own {
    bool begun = false;
    Response response = {};
  };

  Awaitable<Response> Handle(const Request& request, singleflight::StopToken stop) const {
    if constexpr (kStoppable) {
      return handler_(request, std::move(stop));
    } else {
      return handler_(request);
    }
  }

  // The `fn` of a call.
  static Awaitable<Answer> Run(Shared self, HttpVisible visible, std::shared_ptr<Own> own,
                               singleflight::StopToken stop) {
    own->begun = true;
    const Request copy = Library::CopyOf(visible);
    try {
      Response made = co_await self->Handle(copy, std::move(stop));
      Answer answer{.verdict = self->rules_.Learn(visible, Library::ViewOf(made))};
      (answer.verdict.shareable ? answer.response : own->response) = std::move(made);
      co_return answer;
    } catch (const std::system_error&) {
      throw HandlerError{std::current_exception()};
    }
  }

  // Joins a run, or leads one. Returns nothing if the request must ask again.
  static Awaitable<std::optional<Response>> Share(Shared self, HttpAsk& ask,
                                                  singleflight::StopToken gone) {
    if (gone.stop_requested()) co_return Library::Refusal();
    const SharingOptions& options = self->rules_.options();
    const auto own = std::make_shared<Own>();
    const auto run = [self, visible = ask.Visible(), own] {
      if constexpr (kStoppable) {
        return
            [=](singleflight::StopToken stop) { return Run(self, visible, own, std::move(stop)); };
      } else {
        return [=] { return Run(self, visible, own, {}); };
      }
    }();
    const std::string key = ask.Key();
    auto timer = co_await Library::MakeTimer();
    auto leave = self->Leave(timer, gone, *own);
    std::exception_ptr error;
    std::optional<singleflight::Result<Answer>> result;
    const bool landed =
        co_await Library::Ask(self->group_.calls(), key, run, std::move(leave), error, result);
    HttpRefusal refusal = gone.stop_requested() ? HttpRefusal::kGone : HttpRefusal::kTimedOut;
    const bool answered = landed && UnlessRefused([&error] { return Rethrow(error); }, refusal);
    if (!answered) {
      if (refusal != HttpRefusal::kTimedOut || options.on_timeout == OnTimeout::kRefuse) {
        co_return Library::Refusal();
      }
      ask.RunAlone();
      co_return std::nullopt;
    }
    const HttpVerdict& verdict = (*result)->verdict;
    const bool leads = result->role() == singleflight::Role::kLeader;
    if (!(leads ? ask.FitsAsLeader(verdict) : ask.FitsAsFollower(verdict))) co_return std::nullopt;
    if (!verdict.shareable) co_return std::move(own->response);
    co_return std::move(*result).value().response;
  }

  static bool Rethrow(const std::exception_ptr& error) {
    if (error != nullptr) std::rethrow_exception(error);
    return true;
  }

  // Returns when the request is to wait no longer: its client has gone, or its timeout has passed.
  // A leader that could run alone after its timeout does so already.
  Awaitable<void> Leave(typename Library::Timer& timer, singleflight::StopToken gone,
                        const Own& own) const {
    timer.expires_at(Library::Timer::time_point::max());
    if (rules_.options().timeout) timer.expires_after(*rules_.options().timeout);
    const singleflight::StopCallback wake(gone, [&timer] { timer.cancel(); });
    while (!gone.stop_requested()) {
      bool cancelled = false;
      co_await Library::Wait(timer, cancelled);
      if (cancelled) co_return;
      if (!own.begun || rules_.options().on_timeout == OnTimeout::kRefuse) co_return;
      timer.expires_at(Library::Timer::time_point::max());
    }
  }

  ResponseGroup<Response>& group_;
  const Handler handler_;
  const HttpRoute rules_;
};

// Returns a function that takes a request through a coalesced handler.
template <class Library, class Handler>
auto CoalesceCoroutine(ResponseGroup<typename Library::Response>& group, Handler handler,
                       SharingOptions options) {
  using Route = HttpCoroutineRoute<Library, Handler>;
  auto route = std::make_shared<const Route>(group, std::move(handler), std::move(options));
  return [route = std::move(route)](const typename Library::Request& request) {
    return Route::Serve(route, request);
  };
}

// Awaits a handler for writes, and invalidates what it has written to.
template <class Library, class Handler>
typename Library::template Awaitable<typename Library::Response> WriteAndInvalidate(
    ResponseGroup<typename Library::Response>& group, std::shared_ptr<const Handler> handler,
    const typename Library::Request& request) {
  const HttpRequestView view = Library::ViewOf(request);
  std::optional<typename Library::Response> response;
  try {
    response.emplace(co_await (*handler)(request));
  } catch (...) {
    group.Invalidate(view.target);  // it may have written something
    throw;
  }
  InvalidateFor(group, view.target, Library::ViewOf(*response));
  co_return std::move(*response);
}
