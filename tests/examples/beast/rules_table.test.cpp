// SPDX-License-Identifier: MIT

// Tests the rules in examples/README.md with Boost.Beast.

#include <sys/socket.h>

#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <exception>
#include <map>
#include <string>
#include <utility>

#include "adapters/beast_middleware.hpp"
#include "examples/work.hpp"

#define TEST_SERVER "Beast"

namespace {

using test::Reply;
using test::Seen;
using test::Work;

namespace net = boost::asio;
namespace http = boost::beast::http;

class TestServer {
 public:
  explicit TestServer(const singleflight::GroupOptions& limits) : group_(limits) {}
  ~TestServer() { io_.stop(); }

  void Serve(const std::string& path, const Work& work, const SharingOptions& options) {
    routes_["GET " + path] = routes_["HEAD " + path] = Coalesce(group_, Plain(work), options);
  }
  void ServeStoppable(const std::string& path, const Work& work, const SharingOptions& options) {
    const StoppableBeastHandler handler = [this, work](const BeastRequest& request,
                                                       test::StopToken stop) {
      return Handle(work, request, std::move(stop));
    };
    routes_["GET " + path] = Coalesce(group_, handler, options);
  }
  void ServeWrite(const std::string& path, const Work& work) {
    routes_["POST " + path] = Invalidating(group_, Plain(work));
  }

  int Start() {
    acceptor_.listen();
    net::co_spawn(io_, Accept(), net::detached);
    thread_ = test::JoiningThread([this] { io_.run(); });
    return acceptor_.local_endpoint().port();
  }

  singleflight::Stats GetStats() const { return group_.GetStats(); }

 private:
  using Socket = net::ip::tcp::socket;

  BeastHandler Plain(const Work& work) {
    return [this, work](const BeastRequest& request) { return Handle(work, request, {}); };
  }

  net::awaitable<BeastResponse> Handle(Work work, const BeastRequest& request,
                                       test::StopToken stop) {
    Seen seen{request.method_string(), request.target(), {}, request.peer};
    for (const auto& field : request) seen.headers.emplace_back(field.name_string(), field.value());
    for (bool begins = true; !work.ready(seen, begins, stop); begins = false) {
      co_await net::post(io_, net::use_awaitable);
    }
    const Reply reply = work.reply(seen);
    BeastResponse response;
    response.result(static_cast<unsigned>(reply.status));
    for (const auto& [name, value] : reply.headers) response.insert(name, value);
    response.body() = std::make_shared<const std::string>(reply.body);
    co_return response;
  }

  net::awaitable<void> Accept() {
    for (;;) {
      Socket socket = co_await acceptor_.async_accept(net::use_awaitable);
      net::co_spawn(io_, Connection(std::move(socket)), net::detached);
    }
  }

  net::awaitable<void> Connection(Socket socket) {
    using namespace net::experimental::awaitable_operators;
    boost::beast::flat_buffer buffer;
    boost::system::error_code error;
    for (bool keep_alive = true; keep_alive && !error;) {
      BeastRequest request;
      http::request<http::string_body>& message = request;
      co_await http::async_read(socket, buffer, message,
                                net::redirect_error(net::use_awaitable, error));
      if (error) break;
      test::StopSource gone;
      request.client_has_gone = gone.get_token();
      request.peer = socket.remote_endpoint().address().to_string();
      BeastResponse response;
      bool answered = false;
      co_await (Answer(socket, request, response, answered) && Watch(socket, gone, answered));
      keep_alive = request.keep_alive();
      response.version(11);
      response.keep_alive(keep_alive);
      const bool head = request.method() == http::verb::head;
      if (response.result() != http::status::not_modified) response.prepare_payload();
      if (head) response.body() = nullptr;
      http::response_serializer<BeastBody> serializer(response);
      co_await http::async_write(socket, serializer,
                                 net::redirect_error(net::use_awaitable, error));
    }
  }

  net::awaitable<void> Answer(Socket& socket, const BeastRequest& request, BeastResponse& response,
                              bool& answered) {
    const std::string path(request.target().substr(0, request.target().find('?')));
    try {
      response = co_await routes_.at(std::string(request.method_string()) + " " + path)(request);
    } catch (const std::exception&) {
      response.result(http::status::internal_server_error);
    }
    answered = true;
    socket.cancel();  // Watch returns
  }

  // Notices that the client has gone, until its request is answered.
  static net::awaitable<void> Watch(Socket& socket, test::StopSource gone, const bool& answered) {
    if (answered) co_return;
    boost::system::error_code cancelled;
    co_await socket.async_wait(Socket::wait_read,
                               net::redirect_error(net::use_awaitable, cancelled));
    char next = 0;
    if (!cancelled && ::recv(socket.native_handle(), &next, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
      gone.request_stop();
    }
  }

  ResponseGroup<BeastResponse> group_;
  net::io_context io_{1};
  std::map<std::string, BeastHandler> routes_;
  net::ip::tcp::acceptor acceptor_{io_, {net::ip::address_v4::loopback(), 0}};
  test::JoiningThread thread_;
};

}  // namespace

#include "examples/rules_table.hpp"
