// SPDX-License-Identifier: MIT
#pragma once

// Coalesce for a handler of cpp-httplib: equal requests that arrive while the handler runs share
// its answer.
//
//   ResponseGroup<httplib::Response> pages;
//   server.Get("/users", Coalesce(pages, ListUsers));
//   server.Post("/users", Invalidating(pages, SaveUser));
//   server.Get("/prices", Coalesce(pages, ListPrices, {.vary = {"X-Currency"}, .timeout = 2s}));
//   ServeStats(server, [&] { return singleflight::Metrics().Add("pages", pages); });
//   ServeDebugPage(server, [&] { return DebugPage().Add("pages", pages); });
//
// http_coalescing.hpp says what the handler sees, and who shares. A response whose body comes from
// a content provider is for its leader only.
//
// If `server` is a HerdServer (herd_server.hpp), a client that closes its connection is a caller
// that has left.

#include <httplib.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/observe.hpp>
#include <singleflight/stop_token.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "client_watch.hpp"
#include "debug_page.hpp"
#include "http_coalescing.hpp"

// A handler that is asked to stop when no client waits for it any more. It then runs again for the
// requests that come later.
using StoppableHandler =
    std::function<void(const httplib::Request&, httplib::Response&, singleflight::StopToken)>;

namespace httplib_adapter {

// Larger bodies are not copied for each follower, but sent from the one response. httplib can
// neither compress these, nor finish sending them if the server is stopped.
inline constexpr std::size_t kCopied = 65'536;

inline HttpFieldViews FieldsOf(const httplib::Headers& headers) {
  return {headers.begin(), headers.end()};
}

// Whether the body is not in the response, but comes from a source that is read only once.
template <class Response>
bool IsStreamed(const Response& response) {
  if constexpr (requires { response.file_content_path_; }) {  // from cpp-httplib 0.17 on
    if (!response.file_content_path_.empty()) return true;
  }
  return response.content_provider_ != nullptr || response.content_provider_resource_releaser_;
}

inline HttpAnswerView ViewOf(const httplib::Response& response) {
  return {.status = response.status < 0 ? 200 : response.status,
          .fields = FieldsOf(response.headers),
          .streamed = IsStreamed(response)};
}

// Returns a request that has only what is visible.
template <class Request>
Request CopyOf(const HttpVisible& visible, const Request& request) {
  Request copy;
  copy.method = visible.method;
  copy.target = visible.target;
  copy.path = request.path;
  copy.version = "HTTP/1.1";
  copy.matches = request.matches;  // refers to the path of `request`
  if constexpr (requires { copy.path_params; }) copy.path_params = request.path_params;
  for (const auto& [name, value] : visible.fields) copy.headers.emplace(name, value);
  const std::size_t query_at = visible.target.find('?');
  if (query_at != visible.target.npos) {
    if (visible.target == request.target) {
      copy.params = request.params;
    } else {
      // Parses the query as the server does.
      httplib::detail::parse_query_text(visible.target.substr(query_at + 1), copy.params);
    }
  }
  return copy;
}

// Returns a copy of the request, whose headers of these names are these.
template <class Request>
Request WithHeaders(const HttpFields& headers, const Request& request) {
  Request copy = request;  // its matches refer to the path of `request`
  for (const auto& [name, value] : headers) copy.headers.erase(name);
  for (const auto& [name, value] : headers) copy.headers.emplace(name, value);
  return copy;
}

// Adds the handler's response to what the server had put into `response` before.
inline void Fill(httplib::Response& response, httplib::Response&& made) {
  if (made.has_header("Content-Type")) response.headers.erase("Content-Type");
  for (const auto& [name, value] : made.headers) response.headers.emplace(name, value);
  made.headers = std::move(response.headers);
  made.version = response.version;
  response = std::move(made);
  made.content_provider_resource_releaser_ = nullptr;  // a moved-from response may have kept it
}

// The same for a response that others get, too. A large body stays where it is.
template <class Result>
void FillShared(httplib::Response& response, Result result) {
  const httplib::Response& made = result->response;
  if (!result.shared()) return Fill(response, std::move(result).value().response);
  if (made.body.size() <= kCopied) return Fill(response, httplib::Response(made));
  httplib::Response copy;
  copy.status = made.status;
  copy.reason = made.reason;
  copy.location = made.location;
  copy.headers = made.headers;
  Fill(response, std::move(copy));
  response.content_length_ = made.body.size();
  response.content_provider_ = [kept = std::move(result)](std::size_t offset, std::size_t size,
                                                          httplib::DataSink& sink) {
    return sink.write(kept->response.body.data() + offset, size);
  };
}

inline void Refuse(httplib::Response& response) {
  response.status = 503;
  response.set_header("Retry-After", "1");
}

template <class Handler>
class Route {
 public:
  Route(ResponseGroup<httplib::Response>& group, Handler handler, SharingOptions options)
      : group_(group),
        handler_(std::move(handler)),
        rules_(std::make_shared<const HttpRoute>(group.sharing(), std::move(options))) {}

  void operator()(const httplib::Request& request, httplib::Response& response) const {
    const singleflight::StopToken gone = ClientConnection::HasGone();
    HttpAsk ask(*rules_,
                {request.method, request.target, FieldsOf(request.headers), request.remote_addr});
    if (!ask.SeesAll()) ask.FitsAsFollower(rules_->Judge(ask.Visible(), ViewOf(response)));
    for (bool done = false; !done;) {
      if (ask.SeesAll()) {
        if (ask.Derived().empty()) return Handle(request, response, gone);
        return Handle(WithHeaders(ask.Derived(), request), response, gone);
      }
      if (ask.RunsAlone()) {
        const HttpVisible visible = ask.Visible();
        httplib::Response made;
        Handle(CopyOf(visible, request), made, gone);
        done = ask.FitsAsLeader(rules_->Learn(visible, ViewOf(made)));
        if (done) Fill(response, std::move(made));
      } else {
        done = Share(ask, request, response, gone);
      }
    }
    if (ask.NotModified(ViewOf(response))) BecomeNotModified(response);
  }

 private:
  static constexpr bool kStoppable =
      std::is_invocable_v<const Handler&, const httplib::Request&, httplib::Response&,
                          singleflight::StopToken>;

  void Handle(const httplib::Request& request, httplib::Response& response,
              singleflight::StopToken stop) const {
    if constexpr (kStoppable) {
      handler_(request, response, std::move(stop));
    } else {
      handler_(request, response);
    }
  }

  // Joins a run, or leads one. Returns whether `response` is what the client gets.
  bool Share(HttpAsk& ask, const httplib::Request& request, httplib::Response& response,
             const singleflight::StopToken& gone) const {
    httplib::Response own;  // this request's, if it leads and its answer is not shared
    std::exception_ptr failure;
    const auto run = [&](singleflight::StopToken stop) -> SharedAnswer<httplib::Response> {
      const HttpVisible visible = ask.Visible();
      const ClientConnection::Hidden hidden;  // the handler may ask another coalesced handler
      try {
        Handle(CopyOf(visible, request), own, std::move(stop));
      } catch (...) {
        failure = std::current_exception();
        if (failure == nullptr) throw;  // the thread is cancelled
        const HttpVerdict verdict =
            rules_->Judge(visible, {.status = 500, .fields = FieldsOf(own.headers)});
        if (!verdict.shareable || !verdict.unseen.empty()) return {};
        throw HandlerError{failure};
      }
      SharedAnswer<httplib::Response> answer{.verdict = rules_->Learn(visible, ViewOf(own))};
      if (answer.verdict.shareable) answer.response = std::exchange(own, {});
      return answer;
    };
    const auto& options = rules_->options();
    const auto join = [&](auto fn) {
      return group_.calls().Do(ask.Key(), fn, {.timeout = options.timeout, .stop = gone});
    };
    HttpRefusal refusal = {};
    auto result = UnlessRefused(
        [&] {
          if constexpr (kStoppable) {
            return join(run);
          } else {
            return join([&run] { return run({}); });
          }
        },
        refusal);
    if (failure != nullptr) std::rethrow_exception(failure);
    if (!result) {
      if (refusal == HttpRefusal::kTimedOut && options.on_timeout == OnTimeout::kRunAlone) {
        ask.RunAlone();
        return false;
      }
      Refuse(response);
      return true;
    }
    const HttpVerdict& verdict = (*result)->verdict;
    const bool leads = result->role() == singleflight::Role::kLeader;
    if (!(leads ? ask.FitsAsLeader(verdict) : ask.FitsAsFollower(verdict))) return false;
    if (verdict.shareable) {
      FillShared(response, std::move(*result));
    } else {
      Fill(response, std::move(own));
    }
    return true;
  }

  static void BecomeNotModified(httplib::Response& response) {
    response.status = 304;
    response.body.clear();
    response.content_length_ = 0;
    response.content_provider_ = nullptr;
    response.headers.erase("Content-Type");
  }

  ResponseGroup<httplib::Response>& group_;
  const Handler handler_;
  const std::shared_ptr<const HttpRoute> rules_;
};

}  // namespace httplib_adapter

// Returns a handler that answers as `handler` does, but runs it once for equal requests.
//
// `handler` gets a copy of the request, with what it may see, and a new response without the
// headers that the server has set before, by default or in a pre-routing handler. Each request
// keeps these. They may also say that the answer is for one client. Headers that a post-routing
// handler adds come too late for that.
//
// A request is answered with 503 and Retry-After if a limit of the group refuses it, or if it has
// followed for options.timeout.
//
// Thread: `handler` runs on the leader's thread. Followers block their threads. Several threads may
//   run `handler` at the same time.
// Leaving: a follower whose client has gone leaves. A leader finishes its run. A `handler` that
//   takes a stop token is asked to stop when no client is left.
// Errors: an exception of `handler` reaches the leader and its followers. If the response already
//   says that it is for one client, or has a Vary that the handler does not see, the exception
//   reaches the leader alone, and each follower runs the handler itself. Coalesce throws
//   std::invalid_argument for options that cannot be right: see HttpRoute.
// Lifetime: the group must outlive the handler.
inline httplib::Server::Handler Coalesce(ResponseGroup<httplib::Response>& group,
                                         httplib::Server::Handler handler,
                                         SharingOptions options = {}) {
  return httplib_adapter::Route(group, std::move(handler), std::move(options));
}
inline httplib::Server::Handler Coalesce(ResponseGroup<httplib::Response>& group,
                                         StoppableHandler handler, SharingOptions options = {}) {
  return httplib_adapter::Route(group, std::move(handler), std::move(options));
}

// Returns a handler for writes. It answers as `handler` does. Requests that start after its answer
// do not join a run from before it.
//
// Lifetime: the group must outlive the handler.
inline httplib::Server::Handler Invalidating(ResponseGroup<httplib::Response>& group,
                                             httplib::Server::Handler handler) {
  return [&group, handler = std::move(handler)](const httplib::Request& request,
                                                httplib::Response& response) {
    try {
      handler(request, response);
    } catch (...) {
      group.Invalidate(request.target);  // it may have written something
      throw;
    }
    InvalidateFor(group, request.target, httplib_adapter::ViewOf(response));
  };
}

// Installs the routes /stats (JSON) and /metrics (for Prometheus).
//
// Thread: `read` is called for each request to them, on any thread.
inline void ServeStats(httplib::Server& server, std::function<singleflight::Metrics()> read) {
  server.Get("/stats", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(singleflight::WriteJson(read()), singleflight::kJsonType);
  });
  server.Get("/metrics", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(singleflight::WritePrometheus(read()), singleflight::kPrometheusType);
  });
}

// Installs the route /debug/singleflight, with the page that `read` returns: see debug_page.hpp for
// who gets it.
//
// Thread: `read` is called for each request to it, on any thread.
inline void ServeDebugPage(httplib::Server& server, std::function<DebugPage()> read) {
  server.Get("/debug/singleflight", [read = std::move(read)](const httplib::Request& request,
                                                             httplib::Response& response) {
    DebugAnswer answer =
        AnswerDebugPage({request.method, request.target, httplib_adapter::FieldsOf(request.headers),
                         request.remote_addr},
                        read);
    response.status = answer.status;
    response.body = std::move(answer.body);
    for (const auto& [name, value] : answer.fields) response.set_header(name, value);
  });
}
