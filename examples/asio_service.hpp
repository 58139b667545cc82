// SPDX-License-Identifier: MIT
#pragma once

// A small HTTP/1.1 service on Asio, a coroutine per connection, that asks its upstream once for all
// equal requests that wait: asio_server.cpp runs it, and tests/asio_server.test.cpp tests it.
//
//   GET /item?...   what the upstream says to this target; 504 if that takes too long
//   GET /stats      what has been counted, as JSON
//
// All of it runs on the one thread that runs the io_context.

#include <sys/resource.h>

#include <algorithm>
#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <singleflight/asio.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

// A connection costs a descriptor, and most shells allow 1,024. Returns how many there may be now.
inline std::size_t RaiseDescriptorLimit() {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(limit.rlim_cur);
}

struct HttpRequest {
  std::string method, target;
  bool keep_alive = false;

  // Of the part up to and including the empty line; nothing if that is no HTTP/1 request.
  static std::optional<HttpRequest> Parse(std::string_view head) {
    const auto cut = [&head](std::string_view end) {  // what comes before `end`
      const std::size_t at = std::min(head.find(end), head.size());
      const std::string_view part = head.substr(0, at);
      head.remove_prefix(std::min(at + end.size(), head.size()));
      return part;
    };
    const auto lower = [](std::string_view text) {
      std::string lowered(text);
      for (char& c : lowered) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      return lowered;
    };
    HttpRequest request;
    request.method = cut(" ");
    request.target = cut(" ");
    const std::string_view version = cut("\r\n");
    if (request.method.empty() || !request.target.starts_with('/')) return std::nullopt;
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return std::nullopt;
    request.keep_alive = version == "HTTP/1.1";
    while (!head.starts_with("\r\n")) {
      const std::string_view line = cut("\r\n");
      const std::string name = lower(line.substr(0, line.find(':')));
      if (name.size() == line.size()) return std::nullopt;  // no colon
      const std::string value = lower(line.substr(name.size() + 1));
      if (name == "connection" && value.find("close") != value.npos) request.keep_alive = false;
      // A body is not read; so what follows it on this connection cannot be either.
      if (name == "content-length" || name == "transfer-encoding") request.keep_alive = false;
    }
    return request;
  }
};

class AsioService {
 public:
  using Responses = singleflight::Group<std::string, std::string>;
  using Upstream = std::function<asio::awaitable<std::string>(std::string target)>;

  // Declare the group before the context, and that before the service: the context then ends the
  // calls that are led on it while there still is a group, which would wait for them in vain.
  AsioService(Responses& group, asio::io_context& io, Upstream upstream,
              std::chrono::milliseconds timeout)
      : group_(group), acceptor_(io), upstream_(std::move(upstream)), timeout_(timeout) {}

  // On this machine only; 0 chooses a free port. Returns the port, or throws std::system_error.
  std::uint16_t Listen(std::uint16_t port) {
    const asio::ip::tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
    asio::co_spawn(acceptor_.get_executor(), Accept(), asio::detached);
    return acceptor_.local_endpoint().port();
  }

  // Takes no more connections; those that there are go on.
  void Close() { acceptor_.close(); }

  std::string StatsAsJson() const {
    const singleflight::Stats stats = group_.GetStats();
    std::ostringstream json;
    json << "{\"requests\": " << requests_ << ", \"executions\": " << stats.executions
         << ", \"shared\": " << shared_ << ", \"followers\": " << stats.followers
         << ", \"failures\": " << stats.failures << ", \"left\": " << stats.left
         << ", \"in_flight\": " << stats.in_flight << "}\n";
    return json.str();
  }

 private:
  struct Response {
    const char* status;
    std::string body;
  };

  asio::awaitable<void> Accept() {
    for (;;) {
      asio::error_code error;
      asio::ip::tcp::socket socket =
          co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (!acceptor_.is_open()) co_return;
      if (error) continue;  // this client has gone, or no descriptor is free just now
      asio::co_spawn(acceptor_.get_executor(), Serve(std::move(socket)), asio::detached);
    }
  }

  asio::awaitable<void> Serve(asio::ip::tcp::socket socket) {
    constexpr std::size_t kMaxHead = 8192;
    std::string input;
    for (bool keep_alive = true; keep_alive;) {
      asio::error_code error;
      const std::size_t size =
          co_await asio::async_read_until(socket, asio::dynamic_buffer(input, kMaxHead), "\r\n\r\n",
                                          asio::redirect_error(asio::use_awaitable, error));
      std::optional<HttpRequest> request;
      Response response{"400 Bad Request", ""};
      if (error == asio::error::not_found) {
        response.status = "431 Request Header Fields Too Large";
      } else if (error) {
        co_return;
      } else if ((request = HttpRequest::Parse(std::string_view(input).substr(0, size)))) {
        response = co_await Handle(*request);
      }
      input.erase(0, size);
      keep_alive = request && request->keep_alive;
      const std::string output = Format(response, keep_alive);
      co_await asio::async_write(socket, asio::buffer(output),
                                 asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
    }
  }

  static std::string Format(const Response& response, bool keep_alive) {
    std::ostringstream out;
    out << "HTTP/1.1 " << response.status << "\r\nContent-Length: " << response.body.size()
        << "\r\nConnection: " << (keep_alive ? "keep-alive" : "close");
    if (std::string_view(response.status).starts_with("405")) out << "\r\nAllow: GET";
    out << "\r\n\r\n" << response.body;
    return out.str();
  }

  asio::awaitable<Response> Handle(const HttpRequest& request) {
    using namespace asio::experimental::awaitable_operators;
    if (request.method != "GET") co_return Response{"405 Method Not Allowed", ""};
    const std::string path = request.target.substr(0, request.target.find('?'));
    if (path == "/stats") co_return Response{"200 OK", StatsAsJson()};
    if (path != "/item") co_return Response{"404 Not Found", ""};
    ++requests_;
    asio::steady_timer timer(acceptor_.get_executor(), timeout_);
    auto first = co_await (Fetch(request.target) || timer.async_wait(asio::use_awaitable));
    if (first.index() == 1) co_return Response{"504 Gateway Timeout", ""};
    co_return std::move(*std::get_if<0>(&first));
  }

  // The target is the key, as all requests are equal but for that. A failure becomes an answer in
  // here, since `||` waits for the timer if the other side throws.
  asio::awaitable<Response> Fetch(std::string target) {
    const auto ask = [this, target] { return upstream_(target); };
    try {
      const auto result = co_await singleflight::AsyncDo(group_, target, ask, asio::use_awaitable);
      if (result.shared()) ++shared_;
      co_return Response{"200 OK", *result};
    } catch (const std::exception& error) {
      co_return Response{"502 Bad Gateway", error.what()};
    }
  }

  Responses& group_;
  asio::ip::tcp::acceptor acceptor_;
  const Upstream upstream_;
  const std::chrono::milliseconds timeout_;
  std::size_t requests_ = 0;  // for an item
  std::size_t shared_ = 0;    // requests whose answer others got as well
};
