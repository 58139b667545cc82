// SPDX-License-Identifier: MIT
#pragma once

// HerdServer: cpp-httplib's server, for many clients that cannot all be trusted.
//
//   HerdServer server(256);
//   server.Get("/users", Coalesce(pages, ListUsers));
//   const int port = server.Bind(8080);
//   server.listen_after_bind();
//
// Beyond what httplib::Server does:
//
// - It notices that a client has gone while its handler runs: see http_middleware.hpp.
// - It refuses what another server might read as a different request (RFC 9112): a request with
//   no Host or with two, with a header's name that is not one, or with an unclear length of its
//   body. It then closes the connection, as it does after a body that nobody has read.
// - It refuses what httplib would do without a limit: it decompresses no bodies (415), and sends no
//   more than a few ranges at once (416). A client cannot send REMOTE_ADDR and the other headers
//   under which httplib gives a handler the addresses.
// - A request must arrive within a few seconds, a byte at a time does not count. Heads and bodies
//   have limits, which are answered with 431 and 413.
// - Answers are sent without Nagle's delay, and connections are kept alive for many requests.
//
// It needs Linux. It is not for TLS.

#include <httplib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client_watch.hpp"
#include "http/framing.hpp"
#include "http/text.hpp"

struct HerdLimits {
  std::size_t head_bytes = 16'384;
  std::size_t body_bytes = 1'048'576;
  std::chrono::milliseconds request_time = std::chrono::seconds(10);  // from its first byte on
  std::chrono::milliseconds idle_time = std::chrono::seconds(5);      // until the next request
};

// One connection, as httplib sees it.
class HerdStream final : public httplib::Stream {
 public:
  HerdStream(socket_t socket, const HerdLimits& limits) : socket_(socket), limits_(limits) {}

  // Waits until the next request begins. Returns false if none comes in time, or if `stopped()`.
  // While it has to wait, it also returns false if `unwanted()`.
  template <class Stopped, class Unwanted>
  bool AwaitRequest(Stopped stopped, Unwanted unwanted) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + limits_.idle_time;
    while (begin_ == end_ && !Ready(POLLIN, std::chrono::milliseconds(20))) {
      if (stopped() || unwanted() || Clock::now() >= end) return false;
    }
    if (stopped()) return false;
    deadline_ = Clock::now() + limits_.request_time;
    in_head_ = true;
    head_.clear();
    bytes_ = 0;
    return true;
  }

  // Called when httplib has read the head. Returns false if the request is refused. httplib itself
  // overlooks headers that it does not understand.
  bool CheckHead() {
    in_head_ = false;
    bytes_ = 0;
    HttpHead head;
    refusal_ = ParseHead(head_, limits_.body_bytes, head);
    body_ = head.body_size;
    chunked_ = head.chunked;
    if (refusal_.empty()) refusal_ = CheckForHttplib(head);
    return refusal_.empty();
  }

  // Ends a request. Returns whether the connection can be used for another one.
  bool EndRequest() {
    if (refusal_.empty()) return !failed_ && !in_head_ && !chunked_ && bytes_ >= body_;
    const std::string answer =
        "HTTP/1.1 " + std::string(refusal_) + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    Send(answer.data(), answer.size());
    return false;
  }

  // Reads what the client still sends, for a moment. Otherwise the system could drop the answer to
  // a request that was refused, because not all of it has been read.
  void Drain() {
    if (refusal_.empty() || failed_) return;
    ::shutdown(socket_, SHUT_WR);
    deadline_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (bool open = true; open;) open = Receive();
  }

  // What httplib calls. Its versions have different functions, so none is marked `override`.
  // NOLINTBEGIN(modernize-use-override)
  bool is_readable() const { return begin_ != end_ || Ready(POLLIN, {}); }
  bool wait_readable() const { return begin_ != end_ || Ready(POLLIN, limits_.idle_time); }
  bool is_writable() const { return Ready(POLLOUT, limits_.idle_time); }
  bool wait_writable() const { return is_writable(); }
  socket_t socket() const { return socket_; }
  time_t duration() const { return 0; }

  ssize_t read(char* to, std::size_t size) {
    if (!refusal_.empty() || failed_) return -1;
    if (begin_ == end_ && !Receive()) return failed_ ? -1 : 0;
    size = std::min(size, end_ - begin_);
    std::copy_n(buffer_.data() + begin_, size, to);
    begin_ += size;
    bytes_ += size;
    if (!in_head_) {
      // httplib does not limit a chunked body, nor the text around its chunks.
      if (bytes_ > limits_.body_bytes) Refuse("413 Content Too Large");
      return refusal_.empty() ? static_cast<ssize_t>(size) : -1;
    }
    head_.append(to, size);
    if (bytes_ > limits_.head_bytes) Refuse("431 Request Header Fields Too Large");
    // httplib would accept such an end of a line, and read on while others have seen it all.
    if (head_.ends_with('\n') && !head_.ends_with("\r\n")) Refuse("400 Bad Request");
    return refusal_.empty() ? static_cast<ssize_t>(size) : -1;
  }

  // What httplib says about a request that was refused is dropped.
  ssize_t write(const char* from, std::size_t size) {
    if (!refusal_.empty()) return static_cast<ssize_t>(size);
    return Send(from, size) ? static_cast<ssize_t>(size) : -1;
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const {
    Describe(::getpeername, ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const {
    Describe(::getsockname, ip, port);
  }
  // NOLINTEND(modernize-use-override)

 private:
  // Refuses what httplib would take in a way that the client can misuse.
  static std::string_view CheckForHttplib(const HttpHead& head) {
    const bool has_length = head.chunked || http_text::Has(head.fields, "Content-Length");
    if (!has_length &&
        http_text::HasName(std::array{"POST", "PUT", "PATCH", "DELETE", "PRI"}, head.method)) {
      return "411 Length Required";  // it would read until the client hangs up
    }
    for (const auto& [name, value] : head.fields) {
      // It gives the handler the addresses under these names, behind those of the client.
      constexpr std::array kAddresses = {"REMOTE_ADDR", "REMOTE_PORT", "LOCAL_ADDR", "LOCAL_PORT"};
      if (http_text::HasName(kAddresses, name)) return "400 Bad Request";
      // It decompresses without a limit.
      if (http_text::SameName(name, "Content-Encoding") &&
          !http_text::SameName(value, "identity")) {
        return "415 Unsupported Media Type";
      }
      // It makes one body of all ranges, however often they ask for the same bytes.
      if (http_text::SameName(name, "Range") && std::ranges::count(value, ',') >= kMaxRanges) {
        return "416 Range Not Satisfiable";
      }
    }
    return {};
  }

  void Refuse(std::string_view why) { refusal_ = why; }

  bool Receive() {
    using std::chrono::milliseconds;
    const auto left =
        std::chrono::duration_cast<milliseconds>(deadline_ - std::chrono::steady_clock::now());
    if (!Ready(POLLIN, std::max(left, milliseconds(0)))) {
      Refuse("408 Request Timeout");
      failed_ = true;
      return false;
    }
    const ssize_t size = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (size < 0) failed_ = true;
    begin_ = 0;
    end_ = size > 0 ? static_cast<std::size_t>(size) : 0;
    return size > 0;
  }

  bool Send(const char* from, std::size_t size) {
    while (size > 0) {
      if (!Ready(POLLOUT, limits_.request_time)) return !(failed_ = true);
      const ssize_t sent = ::send(socket_, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN && errno != EINTR) return !(failed_ = true);
      if (sent <= 0) continue;
      from += sent;
      size -= static_cast<std::size_t>(sent);
    }
    return true;
  }

  bool Ready(short events, std::chrono::milliseconds time) const {
    pollfd poll_for = {.fd = socket_, .events = events, .revents = 0};
    int ready = 0;
    do {
      ready = ::poll(&poll_for, 1, static_cast<int>(time.count()));
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
  }

  template <class Ask>
  void Describe(Ask ask, std::string& ip, int& port) const {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    std::array<char, NI_MAXHOST> host = {};
    std::array<char, NI_MAXSERV> service = {};
    if (ask(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
    if (::getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host.data(), host.size(),
                      service.data(), service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
      return;
    }
    ip = host.data();
    port = std::stoi(service.data());
  }

  static constexpr int kMaxRanges = 8;

  const socket_t socket_;
  const HerdLimits& limits_;
  std::chrono::steady_clock::time_point deadline_ = {};
  std::string_view refusal_;  // the status, if the request is refused
  bool failed_ = false;       // nothing can be read or written any more
  bool in_head_ = false;
  bool chunked_ = false;
  std::string head_;       // as much of it as has been read
  std::size_t body_ = 0;   // the length of the body
  std::size_t bytes_ = 0;  // how much of the head or the body has been read
  std::size_t begin_ = 0;  // buffer_ from begin_ to end_ was received, but not read
  std::size_t end_ = 0;
  std::array<char, 4096> buffer_ = {};
};

// A pool of threads that counts its unfinished tasks, of which some may not have begun.
class HerdThreads final : public httplib::TaskQueue {
 public:
  HerdThreads(std::size_t threads, std::atomic<std::size_t>& tasks)
      : tasks_(tasks), pool_(threads) {}

  // Newer versions of httplib return whether it was taken.
  auto enqueue(std::function<void()> task)
      -> decltype(std::declval<httplib::TaskQueue&>().enqueue(task)) override {
    ++tasks_;
    // Counts down when the task has finished, or was not taken.
    std::shared_ptr<void> counted(nullptr, [this](void*) { --tasks_; });
    return pool_.enqueue([task = std::move(task), counted = std::move(counted)] { task(); });
  }
  void shutdown() override { pool_.shutdown(); }

 private:
  std::atomic<std::size_t>& tasks_;
  httplib::ThreadPool pool_;
};

class HerdServer : public httplib::Server {
 public:
  // A request that waits keeps its thread, so at most `threads` requests are in progress. A
  // connection between two requests keeps its thread until another connection needs it.
  explicit HerdServer(std::size_t threads, HerdLimits limits = {})
      : threads_(threads), limits_(limits) {
    new_task_queue = [this, threads] { return new HerdThreads(threads, connections_); };
    set_payload_max_length(limits.body_bytes);
    set_keep_alive_max_count(100'000);
    set_tcp_nodelay(true);
    set_socket_options([](socket_t socket) {  // httplib's default would share a port in use
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
  }

  // Binds to a port of the loopback address. 0 chooses a free port. Returns the port, or -1 if the
  // port cannot be had.
  int Bind(int port) {
    const char* const host = "127.0.0.1";
    if (port == 0) {
      port = bind_to_any_port(host);
    } else if (!bind_to_port(host, port)) {
      port = -1;
    }
    // httplib lets 5 connections wait to be accepted. In a larger burst some connections would be
    // dropped, and would be tried again seconds or even minutes later.
    if (port > 0) ::listen(svr_sock_, SOMAXCONN);
    return port;
  }

 private:
  struct Refused {};

  // httplib calls this on a thread of its pool for each connection.
  bool process_and_close_socket(socket_t socket) override {
    const int yes = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    HerdStream stream(socket, limits_);
    bool answered = true;
    bool closed = false;
    for (std::size_t left = keep_alive_max_count_; left > 0 && answered && !closed; --left) {
      const bool is_first = left == keep_alive_max_count_;
      const auto stopped = [this] { return svr_sock_ == INVALID_SOCKET; };
      const auto unwanted = [&] { return !is_first && connections_ > threads_; };
      if (!stream.AwaitRequest(stopped, unwanted)) break;
      const ClientConnection client(watch_, socket);
      try {
        const auto check = [&stream](const httplib::Request&) {
          if (!stream.CheckHead()) throw Refused();  // before any handler runs
        };
        answered = Process(*this, stream, left == 1, closed, check);
      } catch (const Refused&) {
      }
      closed = !stream.EndRequest() || closed;
    }
    stream.Drain();
    ::shutdown(socket, SHUT_RDWR);
    ::close(socket);
    return answered;
  }

  // Serves one request. The function of httplib that does so has other parameters from 0.14 on.
  template <class Server, class Check>
  static bool Process(Server& server, HerdStream& stream, bool last, bool& closed,
                      const Check& check) {
    if constexpr (requires { server.process_request(stream, last, closed, check); }) {
      return server.process_request(stream, last, closed, check);
    } else {
      std::string remote, local;
      int remote_port = 0, local_port = 0;
      stream.get_remote_ip_and_port(remote, remote_port);
      stream.get_local_ip_and_port(local, local_port);
      return server.process_request(stream, remote, remote_port, local, local_port, last, closed,
                                    check);
    }
  }

  const std::size_t threads_;
  const HerdLimits limits_;
  ClientWatch watch_;
  std::atomic<std::size_t> connections_ = 0;  // served by a thread, or waiting for one
};
