// SPDX-License-Identifier: MIT
#pragma once

// The part of HTTP/1.1 that asio_service.hpp needs: a request without a body, a response, and a
// server on Asio with a coroutine for each connection.
//
// Thread: everything runs on the one thread that runs the io_context.

#include <algorithm>
#include <asio.hpp>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method, target;
  HttpHeaders headers;
  bool keep_alive = false;

  // Parses a request up to and including the empty line. Returns nothing if it is no HTTP/1
  // request.
  static std::optional<HttpRequest> Parse(std::string_view head) {
    // Removes the part before `end` from the text, and `end`. Returns the part.
    const auto cut = [](std::string_view& text, std::string_view end) {
      const std::size_t at = std::min(text.find(end), text.size());
      const std::string_view part = text.substr(0, at);
      text.remove_prefix(std::min(at + end.size(), text.size()));
      return part;
    };
    const auto lower = [](std::string_view text) {
      std::string lowered(text);
      for (char& c : lowered) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      return lowered;
    };
    // Another parser might end a line or a name at such a character, and see another request.
    const auto has_control = [](std::string_view line) {
      return std::ranges::any_of(line, [](char c) {
        return c != '\t' && std::iscntrl(static_cast<unsigned char>(c)) != 0;
      });
    };
    HttpRequest request;
    std::string_view version = cut(head, "\r\n");
    if (has_control(version)) return std::nullopt;
    request.method = cut(version, " ");
    request.target = cut(version, " ");
    if (request.method.empty() || !request.target.starts_with('/')) return std::nullopt;
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return std::nullopt;
    request.keep_alive = version == "HTTP/1.1";
    while (!head.starts_with("\r\n")) {
      const std::string_view line = cut(head, "\r\n");
      const std::string_view name = line.substr(0, line.find(':'));
      if (name.size() == line.size() || has_control(line)) return std::nullopt;
      // Another parser might read "Cookie " as a Cookie, which this one would overlook.
      if (name.empty() || name.find_first_of(" \t") != name.npos) return std::nullopt;
      std::string_view value = line.substr(name.size() + 1);
      value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
      value = value.substr(0, value.find_last_not_of(" \t") + 1);
      request.headers.emplace_back(name, value);
      const std::string known = lower(name);
      if (known == "connection" && lower(value).find("close") != std::string::npos) {
        request.keep_alive = false;
      }
      // A body is not read, so the next request on this connection cannot be read either.
      if (known == "content-length" || known == "transfer-encoding") request.keep_alive = false;
    }
    return request;
  }
};

struct HttpResponse {
  std::string status = "200 OK";
  HttpHeaders headers;
  std::string body;

  // Returns the bytes to send in answer to a request of this method. Headers must not contain line
  // breaks.
  std::string Format(std::string_view method, bool keep_alive) const {
    std::ostringstream out;
    out << "HTTP/1.1 " << status << "\r\nContent-Length: " << std::to_string(body.size())
        << "\r\nConnection: " << (keep_alive ? "keep-alive" : "close") << "\r\n";
    for (const auto& [name, value] : headers) out << name << ": " << value << "\r\n";
    out << "\r\n" << (method == "HEAD" ? "" : body);
    return out.str();
  }
};

// Answers a request. The request lives until the coroutine has finished.
using HttpHandler = std::function<asio::awaitable<HttpResponse>(const HttpRequest&)>;

class AsioServer {
 public:
  // Lifetime: the context must outlive the server, and must not run after the server is destroyed.
  AsioServer(asio::io_context& io, HttpHandler handler)
      : acceptor_(io), handler_(std::move(handler)) {}

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
  asio::awaitable<void> Accept() {
    for (;;) {
      asio::error_code error;
      asio::ip::tcp::socket socket =
          co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (!acceptor_.is_open()) co_return;
      if (error) continue;  // the client has hung up, or no descriptor is free at the moment
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
      HttpResponse response{"400 Bad Request", {}, ""};
      if (error == asio::error::not_found) {
        response.status = "431 Request Header Fields Too Large";
      } else if (error) {
        co_return;
      } else if ((request = HttpRequest::Parse(std::string_view(input).substr(0, size)))) {
        try {
          response = co_await handler_(*request);
        } catch (const std::exception& failure) {
          response = {"500 Internal Server Error", {}, failure.what()};
        }
      }
      input.erase(0, size);
      keep_alive = request && request->keep_alive;
      const std::string output = response.Format(request ? request->method : "", keep_alive);
      co_await asio::async_write(socket, asio::buffer(output),
                                 asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
    }
  }

  asio::ip::tcp::acceptor acceptor_;
  const HttpHandler handler_;
};
