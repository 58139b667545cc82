// SPDX-License-Identifier: MIT
#pragma once

// What the middlewares have in common, whatever the HTTP library is: http_middleware.hpp for
// cpp-httplib, asio_middleware.hpp for Asio, beast_middleware.hpp for Boost.Beast.
//
//   ResponseGroup<httplib::Response> pages;
//   server.Get("/prices", Coalesce(pages, ListPrices, {.vary = {"X-Currency"}, .timeout = 2s}));
//   server.Post("/prices", Invalidating(pages, SavePrice));
//
// **A coalesced handler sees only what is in the key.** Its request is a copy with the method, the
// target, Host, the Accept headers, and what SharingOptions names. All other headers and the
// client's address are removed. So an answer cannot depend on something that other clients do not
// share. If you forget to name X-Api-Key, the handler sees a request without one, at the first try.
//
// It is not a cache: an answer is for the requests that came while it was made.
//
// http/rules.hpp has the rules and the options. examples/README.md has them as a table, and shows
// how to write an adapter for another library. An adapter takes a request through these steps:
//
//   HttpAsk ask(route, view);               // what may the handler see of this request?
//   for (;;) {
//     if (ask.SeesAll()) return handler(request with the headers ask.Derived());
//     if (ask.RunsAlone()) {
//       answer = handler(copy of ask.Visible());
//       if (ask.FitsAsLeader(route.Learn(ask.Visible(), answer))) return answer;
//     } else {
//       result = group.calls().Do(ask.Key(), the same, which returns a SharedAnswer);
//       if (it leads ? ask.FitsAsLeader(result->verdict) : ask.FitsAsFollower(result->verdict))
//         return result->response;
//     }
//   }

#include <exception>
#include <optional>
#include <singleflight/call_info.hpp>
#include <singleflight/errors.hpp>
#include <singleflight/group.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "http/memory.hpp"
#include "http/rules.hpp"
#include "http/text.hpp"

// The value of a call. The response is empty if it is for its leader only, who then has it
// elsewhere. Make its copies cheap: let them share one body.
template <class Response>
struct SharedAnswer {
  HttpVerdict verdict = {};
  Response response = {};
};

// The group of coalesced handlers. One may serve all handlers of a program.
//
// Thread: every member may be called from any thread at any time.
template <class Response>
class ResponseGroup {
 public:
  using Calls = singleflight::Group<std::string, SharedAnswer<Response>>;

  explicit ResponseGroup(singleflight::GroupOptions options = {}) : calls_(options) {}

  singleflight::Stats GetStats() const { return calls_.GetStats(); }
  // Returns the runs in flight, with keys for a reader: "GET /users, Host: shop.example".
  std::vector<singleflight::CallInfo<std::string>> Inspect() const {
    auto calls = calls_.Inspect();
    for (auto& call : calls) call.key = HttpAsk::ReadableKey(call.key);
    return calls;
  }

  // Call this after a write and before it is answered. Requests that start later do not join a run
  // from before it (RFC 9111, 4.4). Those that wait for such a run still get its answer. `target`
  // is a path or a URL. Its query does not count, so /items invalidates /items?page=2 as well.
  //
  // Invalidating, in the adapters, does it for a handler.
  void Invalidate(std::string_view method, std::string_view target) {
    sharing_.generations.Advance(method, target);
  }
  void Invalidate(std::string_view target) {
    Invalidate("GET", target);
    Invalidate("HEAD", target);
  }

  // For adapters.
  Calls& calls() { return calls_; }
  HttpSharing& sharing() { return sharing_; }

 private:
  HttpSharing sharing_;
  Calls calls_;
};

// Invalidates the target of a write, and what its answer says that it changed or made (RFC 9111,
// 4.4).
template <class Response>
void InvalidateFor(ResponseGroup<Response>& group, std::string_view target,
                   const HttpAnswerView& answer) {
  group.Invalidate(target);
  for (const char* const name : {"Location", "Content-Location"}) {
    for (const std::string_view made : http_text::ValuesOf(answer.fields, name)) {
      group.Invalidate(http_text::ResolvedPath(target, made));
    }
  }
}

// Wraps an exception of a handler, so that it is not mistaken for one of the group.
struct HandlerError {
  std::exception_ptr error;
};

// Why a request got no answer.
enum class HttpRefusal : unsigned char {
  kBusy,      // a limit of the group refused it
  kTimedOut,  // SharingOptions::timeout passed
  kGone,      // its client has gone
};

// Returns what `ask`, a function that calls a group, returns. If the group refuses this caller,
// returns nothing and sets `refusal`.
//
// Errors: throws every other exception of `ask`.
template <class Ask>
auto UnlessRefused(Ask&& ask, HttpRefusal& refusal) -> std::optional<decltype(ask())> {
  try {
    return ask();
  } catch (const HandlerError& handler) {
    std::rethrow_exception(handler.error);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again) {
      refusal = HttpRefusal::kBusy;
    } else if (error.code() == std::errc::timed_out) {
      refusal = HttpRefusal::kTimedOut;
    } else if (error.code() == std::errc::operation_canceled) {
      refusal = HttpRefusal::kGone;
    } else {
      throw;
    }
    return std::nullopt;
  }
}
