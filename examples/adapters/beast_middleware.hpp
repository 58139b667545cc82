// SPDX-License-Identifier: MIT
#pragma once

// Coalesce for a coroutine that answers HTTP requests of Boost.Beast: equal requests that arrive
// while the coroutine runs share its answer.
//
//   ResponseGroup<BeastResponse> items;
//   const BeastHandler handler = Coalesce(items, [](const BeastRequest& request) {
//     return LoadItem(request.target());  // a boost::asio::awaitable<BeastResponse>
//   });
//   BeastResponse response = co_await handler(request);  // then prepare_payload(), async_write
//
// http_coalescing.hpp says what the handler sees, and who shares.

#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/beast/http.hpp>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/boost_asio.hpp>
#include <singleflight/stop_token.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#if __has_include(<boost/asio/as_tuple.hpp>)
#include <boost/asio/as_tuple.hpp>
#else
#include <boost/asio/experimental/as_tuple.hpp>
#endif

#include "http/coroutine_route.hpp"
#include "http_coalescing.hpp"

// A body that all copies of a response share.
struct BeastBody {
  using value_type = std::shared_ptr<const std::string>;
  static std::uint64_t size(const value_type& body) { return body == nullptr ? 0 : body->size(); }
  struct writer {
    using const_buffers_type = boost::asio::const_buffer;
    template <bool kIsRequest, class Fields>
    writer(const boost::beast::http::header<kIsRequest, Fields>&, const value_type& its_body)
        : body(its_body) {}
    void init(boost::beast::error_code& error) { error = {}; }
    auto get(boost::beast::error_code& error) {
      error = {};
      using Part = std::pair<const_buffers_type, bool>;
      return body == nullptr ? boost::none
                             : boost::optional<Part>({boost::asio::buffer(*body), false});
    }
    const value_type& body;
  };
};

struct BeastRequest : boost::beast::http::request<boost::beast::http::string_body> {
  std::string peer = {};                         // the client's address
  singleflight::StopToken client_has_gone = {};  // its stop is requested on the request's strand
};
using BeastResponse = boost::beast::http::response<BeastBody>;
template <class... Args>
using BeastFunction = std::function<boost::asio::awaitable<BeastResponse>(Args...)>;
using BeastHandler = BeastFunction<const BeastRequest&>;
using StoppableBeastHandler = BeastFunction<const BeastRequest&, singleflight::StopToken>;

// What coroutine_route.hpp needs to know of this library.
struct BeastLibrary {
  using Request = BeastRequest;
  using Response = BeastResponse;
  using Timer = boost::asio::steady_timer;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;

  static HttpRequestView ViewOf(const Request& request) {
    return {request.method_string(), request.target(), FieldsOf(request), request.peer};
  }
  static HttpAnswerView ViewOf(const Response& response) {
    return {.status = static_cast<int>(response.result_int()), .fields = FieldsOf(response)};
  }
  static HttpFieldViews FieldsOf(const auto& message) {
    HttpFieldViews fields;
    for (const auto& field : message) fields.emplace_back(field.name_string(), field.value());
    return fields;
  }
  static Request CopyOf(const HttpVisible& visible) {
    Request copy;
    copy.method_string(visible.method);
    copy.target(visible.target);
    for (const auto& [name, value] : visible.fields) copy.insert(name, value);
    return copy;
  }
  static void SetHeader(Request& request, const std::string& name, const std::string& value) {
    request.set(name, value);
  }
  static singleflight::StopToken ClientHasGone(const Request& request) {
    return request.client_has_gone;
  }
  static Response Refusal() {
    Response response(boost::beast::http::status::service_unavailable, 11);
    response.set(boost::beast::http::field::retry_after, "1");
    return response;
  }
  static void BecomeNotModified(Response& response) {
    response.result(boost::beast::http::status::not_modified);
    response.body() = nullptr;
  }

  static Awaitable<Timer> MakeTimer() {
    co_return Timer(co_await boost::asio::this_coro::executor);
  }
  static Awaitable<void> Wait(Timer& timer, bool& cancelled) {
    boost::system::error_code error;
    co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, error));
    cancelled = error == boost::asio::error::operation_aborted;
  }
  template <class Calls, class Run, class Result>
  static Awaitable<bool> Ask(Calls& calls, const std::string& key, const Run& run,
                             Awaitable<void> leave, std::exception_ptr& error,
                             std::optional<Result>& result) {
    using namespace boost::asio::experimental::awaitable_operators;
#if __has_include(<boost/asio/as_tuple.hpp>)
    const auto token = boost::asio::as_tuple(boost::asio::use_awaitable);
#else
    const auto token = boost::asio::experimental::as_tuple(boost::asio::use_awaitable);
#endif
    auto join = singleflight::AsyncDo(calls, key, run, token);
    auto first = co_await (std::move(join) || std::move(leave));
    if (first.index() != 0) co_return false;
    error = std::get<0>(std::get<0>(first));
    if (error == nullptr) result.emplace(std::get<1>(std::move(std::get<0>(first))));
    co_return true;
  }
};

// As in asio_middleware.hpp.
inline BeastHandler Coalesce(ResponseGroup<BeastResponse>& group, BeastHandler handler,
                             SharingOptions options = {}) {
  return CoalesceCoroutine<BeastLibrary>(group, std::move(handler), std::move(options));
}
inline BeastHandler Coalesce(ResponseGroup<BeastResponse>& group, StoppableBeastHandler handler,
                             SharingOptions options = {}) {
  return CoalesceCoroutine<BeastLibrary>(group, std::move(handler), std::move(options));
}
inline BeastHandler Invalidating(ResponseGroup<BeastResponse>& group, BeastHandler handler) {
  return [&group, kept = std::make_shared<const BeastHandler>(std::move(handler))](
             const BeastRequest& request) {
    return WriteAndInvalidate<BeastLibrary>(group, kept, request);
  };
}
