// SPDX-License-Identifier: MIT

// Tests the rules in examples/README.md with cpp-httplib.

#include <httplib.h>

#include <string>
#include <utility>

#include "adapters/herd_server.hpp"
#include "adapters/http_middleware.hpp"
#include "examples/work.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

#define TEST_SERVER "cpp-httplib"

namespace {

using test::Reply;
using test::Seen;
using test::Work;

class TestServer {
 public:
  explicit TestServer(const singleflight::GroupOptions& limits) : group_(limits) {}
  ~TestServer() { server_.stop(); }

  void Serve(const std::string& path, const Work& work, const SharingOptions& options) {
    server_.Get(path, Coalesce(group_, Plain(work), options));
  }
  void ServeStoppable(const std::string& path, const Work& work, const SharingOptions& options) {
    const StoppableHandler handler = [work](const auto& request, auto& response,
                                            test::StopToken stop) {
      Handle(work, request, response, stop);
    };
    server_.Get(path, Coalesce(group_, handler, options));
  }
  void ServeWrite(const std::string& path, const Work& work) {
    server_.Post(path, Invalidating(group_, Plain(work)));
  }

  int Start() {
    const int port = server_.Bind(0);
    REQUIRE(port > 0);
    thread_ = test::JoiningThread([this] { server_.listen_after_bind(); });
    test::Await([this] { return server_.is_running(); });
    return port;
  }

  singleflight::Stats GetStats() const { return group_.GetStats(); }

 private:
  static httplib::Server::Handler Plain(const Work& work) {
    return [work](const httplib::Request& request, httplib::Response& response) {
      Handle(work, request, response, {});
    };
  }

  static void Handle(const Work& work, const httplib::Request& request, httplib::Response& response,
                     const test::StopToken& stop) {
    const Seen seen{request.method,
                    request.target,
                    {request.headers.begin(), request.headers.end()},
                    request.remote_addr};
    bool begins = true;
    test::Await([&] { return work.ready(seen, std::exchange(begins, false), stop); });
    const Reply reply = work.reply(seen);
    response.status = reply.status;
    for (const auto& [name, value] : reply.headers) response.headers.emplace(name, value);
    if (!reply.body.empty()) response.set_content(reply.body, "text/plain");
  }

  ResponseGroup<httplib::Response> group_;
  HerdServer server_{32};
  test::JoiningThread thread_;
};

}  // namespace

#include "examples/rules_table.hpp"
