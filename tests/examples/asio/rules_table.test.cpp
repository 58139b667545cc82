// SPDX-License-Identifier: MIT

// Tests the rules in examples/README.md with Asio.

#include <asio.hpp>
#include <map>
#include <string>
#include <utility>

#include "adapters/asio_middleware.hpp"
#include "examples/work.hpp"
#include "support/asio_http.hpp"

#define TEST_SERVER "Asio"

namespace {

using test::Reply;
using test::Seen;
using test::Work;

class TestServer {
 public:
  explicit TestServer(const singleflight::GroupOptions& limits) : group_(limits) {}
  ~TestServer() { io_.stop(); }

  void Serve(const std::string& path, const Work& work, const SharingOptions& options) {
    const HttpHandler handler = [this, work](const HttpRequest& request) {
      return Handle(work, request, {});
    };
    routes_["GET " + path] = routes_["HEAD " + path] = Coalesce(group_, handler, options);
  }
  void ServeStoppable(const std::string& path, const Work& work, const SharingOptions& options) {
    const StoppableHttpHandler handler = [this, work](const HttpRequest& request,
                                                      test::StopToken stop) {
      return Handle(work, request, std::move(stop));
    };
    routes_["GET " + path] = Coalesce(group_, handler, options);
  }
  void ServeWrite(const std::string& path, const Work& work) {
    const HttpHandler handler = [this, work](const HttpRequest& request) {
      return Handle(work, request, {});
    };
    routes_["POST " + path] = Invalidating(group_, handler);
  }

  int Start() {
    const int port = server_.Listen(0);
    thread_ = test::JoiningThread([this] { io_.run(); });
    return port;
  }

  singleflight::Stats GetStats() const { return group_.GetStats(); }

 private:
  asio::awaitable<HttpResponse> Route(const HttpRequest& request) {
    const std::string path = request.target.substr(0, request.target.find('?'));
    return routes_.at(request.method + " " + path)(request);
  }

  asio::awaitable<HttpResponse> Handle(Work work, const HttpRequest& request,
                                       test::StopToken stop) {
    const Seen seen{request.method, request.target, request.headers, request.peer};
    for (bool begins = true; !work.ready(seen, begins, stop); begins = false) {
      co_await asio::post(io_, asio::use_awaitable);
    }
    const Reply reply = work.reply(seen);
    co_return HttpResponse{std::to_string(reply.status) + " Status", reply.headers, reply.body};
  }

  ResponseGroup<HttpResponse> group_;
  asio::io_context io_{1};
  std::map<std::string, HttpHandler> routes_;
  AsioServer server_{io_, [this](const HttpRequest& request) { return Route(request); }};
  test::JoiningThread thread_;
};

}  // namespace

#include "examples/rules_table.hpp"
