// SPDX-License-Identifier: MIT
#pragma once

// A small HTTP/1.1 server on Asio, with a coroutine for each connection, for asio_service.hpp.
//
// - It refuses what another server might read as a different request (RFC 9112), such as one with
//   no Host or with two, and then closes the connection.
// - A request must arrive within a few seconds. Heads and bodies have limits.
// - It notices that a client has gone while its handler runs.
// - If no descriptor is free, it waits a moment before it accepts again.
//
// Thread: everything runs on the one thread that runs the io_context.

#include <algorithm>
#include <array>
#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <singleflight/stop_token.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../adapters/http/framing.hpp"
#include "../adapters/http/text.hpp"

using HttpHeaders = HttpFields;

struct HttpRequest {
  std::string method, target;
  HttpHeaders headers = {};
  bool keep_alive = false;
  std::string body = {};
  std::string peer = {};                         // the client's address
  singleflight::StopToken client_has_gone = {};  // the stop is requested on the server's thread

  // Returns a request without its body.
  static HttpRequest From(const HttpHead& head) {
    HttpRequest request{.method = std::string(head.method), .target = std::string(head.target)};
    request.headers.assign(head.fields.begin(), head.fields.end());
    request.keep_alive = head.version == "HTTP/1.1";
    for (const std::string_view options : http_text::ValuesOf(head.fields, "Connection")) {
      if (http_text::Mentions(options, "close")) request.keep_alive = false;
    }
    return request;
  }
};

// The body of a response. Copies of it share one text.
class HttpBody {
 public:
  HttpBody() = default;
  HttpBody(std::string text) : text_(std::make_shared<const std::string>(std::move(text))) {}
  HttpBody(const char* text) : HttpBody(std::string(text)) {}

  std::string_view Text() const { return text_ == nullptr ? std::string_view() : *text_; }

 private:
  std::shared_ptr<const std::string> text_;
};

struct HttpResponse {
  std::string status = "200 OK";
  HttpHeaders headers = {};
  HttpBody body = {};

  // Whether the status does not allow a body (RFC 9110, 15.3.5 and 15.4.5).
  bool IsEmpty() const { return status.starts_with("204") || status.starts_with("304"); }

  // Returns the status line and the headers. Headers must not contain line breaks.
  std::string Head(bool keep_alive) const {
    std::string head = "HTTP/1.1 " + status + "\r\n";
    if (!IsEmpty()) {
      head += "Content-Length: " + std::to_string(body.Text().size()) + "\r\n";
    }
    head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
    for (const auto& [name, value] : headers) {
      head += name;
      head += ": ";
      head += value;
      head += "\r\n";
    }
    head += "\r\n";
    return head;
  }
};

// Answers a request. The request lives until the coroutine has finished.
using HttpHandler = std::function<asio::awaitable<HttpResponse>(const HttpRequest&)>;

struct AsioLimits {
  std::size_t head_bytes = 8192;
  std::size_t body_bytes = 1'048'576;
  // How long a request may take to arrive, and a client to take some more of its answer.
  std::chrono::milliseconds request_time = std::chrono::seconds(10);
};

class AsioServer {
 public:
  // Lifetime: the context must outlive the server, and must not run after the server is destroyed.
  AsioServer(asio::io_context& io, HttpHandler handler, AsioLimits limits = {})
      : acceptor_(io), handler_(std::move(handler)), limits_(limits) {}

  // Listens on a port of the loopback address. 0 chooses a free port. Returns the port.
  //
  // Errors: throws std::system_error if the port cannot be had.
  std::uint16_t Listen(std::uint16_t port) {
    const asio::ip::tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen();
    asio::co_spawn(acceptor_.get_executor(), Accept(), asio::detached);
    return acceptor_.local_endpoint().port();
  }

  // Accepts no more connections. Those that are open stay open.
  void Close() { acceptor_.close(); }

 private:
  using Socket = asio::ip::tcp::socket;

  // One connection. A timer that has expired may refer to it for a moment longer.
  struct Connection : std::enable_shared_from_this<Connection> {
    explicit Connection(Socket accepted)
        : socket(std::move(accepted)), timer(socket.get_executor()) {}

    // Closes the connection after this time, unless it is called again.
    void CloseAfter(std::chrono::milliseconds time) {
      timer.expires_after(time);
      timer.async_wait([self = shared_from_this()](asio::error_code cancelled) {
        if (cancelled || self->timer.expiry() > std::chrono::steady_clock::now()) return;
        self->timed_out = true;
        asio::error_code ignored;
        self->socket.cancel(ignored);
      });
    }
    void StayOpen() { timer.expires_at(std::chrono::steady_clock::time_point::max()); }

    Socket socket;
    asio::steady_timer timer;
    bool timed_out = false;
    std::string input = {};  // received, but not used
    bool handling = false;
    singleflight::StopSource gone = {};
  };
  using Shared = std::shared_ptr<Connection>;

  asio::awaitable<void> Accept() {
    for (;;) {
      asio::error_code error;
      Socket socket =
          co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (!acceptor_.is_open()) co_return;
      if (error == asio::error::connection_aborted) continue;  // the client has hung up
      if (error) {  // no descriptor or no memory is free: accepting at once would fail again
        asio::steady_timer pause(acceptor_.get_executor(), std::chrono::milliseconds(20));
        co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
        if (!acceptor_.is_open()) co_return;
        continue;
      }
      socket.set_option(asio::ip::tcp::no_delay(true), error);
      asio::co_spawn(acceptor_.get_executor(),
                     Serve(std::make_shared<Connection>(std::move(socket))), asio::detached);
    }
  }

  asio::awaitable<void> Serve(Shared connection) {
    for (bool keep_alive = true; keep_alive;) {
      HttpRequest request;
      HttpResponse response;
      response.status = co_await Receive(*connection, request);
      if (response.status.empty()) break;
      const bool served = response.status.starts_with('2');
      if (served) {
        keep_alive = request.keep_alive;
        co_await Handle(*connection, request, response);
      } else {
        keep_alive = false;
      }
      if (connection->gone.stop_requested()) keep_alive = false;  // it may still be reading
      const std::string head = response.Head(keep_alive);
      const bool with_body = request.method != "HEAD" && !response.IsEmpty();
      const std::string_view body = with_body ? response.body.Text() : std::string_view();
      if (!co_await Send(*connection, head, body)) break;
      if (!served) co_await Drain(*connection);
    }
    connection->StayOpen();  // the timer no longer keeps the connection
  }

  // Sends an answer, as long as the client takes some of it in time. Returns whether it was sent.
  asio::awaitable<bool> Send(Connection& connection, std::string_view head, std::string_view body) {
    std::array<asio::const_buffer, 2> left = {asio::buffer(head), asio::buffer(body)};
    while (left[0].size() + left[1].size() > 0) {
      asio::error_code error;
      connection.CloseAfter(limits_.request_time);
      const std::size_t sent = co_await connection.socket.async_write_some(
          left, asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return false;
      const std::size_t of_head = std::min(sent, left[0].size());
      left[0] += of_head;
      left[1] += sent - of_head;
    }
    co_return true;
  }

  // Receives a request. Returns the status "200 OK", or that of a refusal, or nothing if there is
  // nobody to answer.
  asio::awaitable<std::string> Receive(Connection& connection, HttpRequest& request) {
    asio::error_code error;
    connection.CloseAfter(limits_.request_time);
    auto input = asio::dynamic_buffer(connection.input, limits_.head_bytes);
    const std::size_t head_size = co_await asio::async_read_until(
        connection.socket, input, "\r\n\r\n", asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::not_found) co_return "431 Request Header Fields Too Large";
    if (error && connection.timed_out && !connection.input.empty()) co_return "408 Request Timeout";
    if (error) co_return "";
    HttpHead head;
    const std::string_view text = std::string_view(connection.input).substr(0, head_size);
    const std::string_view refusal = ParseHead(text, limits_.body_bytes, head);
    if (!refusal.empty()) co_return std::string(refusal);
    if (!head.target.starts_with('/')) co_return "400 Bad Request";
    if (head.chunked) co_return "501 Not Implemented";
    request = HttpRequest::From(head);
    const std::size_t body_size = head.body_size;
    connection.input.erase(0, head_size);
    if (http_text::Has(request.headers, "Expect") && connection.input.size() < body_size) {
      const std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(connection.socket, asio::buffer(go_on),
                                 asio::redirect_error(asio::use_awaitable, error));
    }
    if (!error && connection.input.size() < body_size) {
      auto rest = asio::dynamic_buffer(connection.input);
      const std::size_t missing = body_size - connection.input.size();
      co_await asio::async_read(connection.socket, rest, asio::transfer_exactly(missing),
                                asio::redirect_error(asio::use_awaitable, error));
    }
    if (error && connection.timed_out) co_return "408 Request Timeout";
    if (error) co_return "";
    request.body = connection.input.substr(0, body_size);
    connection.input.erase(0, body_size);
    const auto peer = connection.socket.remote_endpoint(error);
    if (!error) request.peer = peer.address().to_string();
    request.client_has_gone = connection.gone.get_token();
    co_return "200 OK";
  }

  asio::awaitable<void> Handle(Connection& connection, const HttpRequest& request,
                               HttpResponse& response) {
    using namespace asio::experimental::awaitable_operators;
    connection.StayOpen();
    connection.handling = true;
    co_await (RunHandler(connection, request, response) && Watch(connection));
  }

  asio::awaitable<void> RunHandler(Connection& connection, const HttpRequest& request,
                                   HttpResponse& response) {
    try {
      response = co_await handler_(request);
    } catch (const std::exception& failure) {
      response = {"500 Internal Server Error", {}, failure.what()};
    } catch (...) {
      response = {"500 Internal Server Error", {}, ""};
    }
    connection.handling = false;
    asio::error_code ignored;
    connection.socket.cancel(ignored);  // Watch returns
  }

  // Notices that the client has gone, until the handler has finished. What the client sends
  // meanwhile belongs to its next request.
  asio::awaitable<void> Watch(Connection& connection) {
    std::array<char, 1024> buffer;
    while (connection.handling && connection.input.size() < limits_.head_bytes) {
      asio::error_code error;
      // Asio would drop what is more than Receive's limit.
      const std::size_t room = limits_.head_bytes - connection.input.size();
      const std::size_t size = co_await connection.socket.async_read_some(
          asio::buffer(buffer, room), asio::redirect_error(asio::use_awaitable, error));
      connection.input.append(buffer.data(), size);
      if (error && connection.handling) {
        connection.gone.request_stop();
        co_return;
      }
    }
  }

  // Reads what the client still sends, for a moment. Otherwise the system could drop the answer to
  // a request that was refused, because not all of it has been read.
  asio::awaitable<void> Drain(Connection& connection) {
    asio::error_code error;
    connection.socket.shutdown(Socket::shutdown_send, error);
    connection.CloseAfter(std::chrono::seconds(1));
    std::array<char, 1024> buffer;
    while (!error) {
      co_await connection.socket.async_read_some(asio::buffer(buffer),
                                                 asio::redirect_error(asio::use_awaitable, error));
    }
  }

  asio::ip::tcp::acceptor acceptor_;
  const HttpHandler handler_;
  const AsioLimits limits_;
};
