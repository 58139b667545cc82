// SPDX-License-Identifier: MIT
#pragma once

// A client that sends what no real one would, or hangs up at any moment.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace test {

// One connection to a server on this host. Its functions block.
class RawClient {
 public:
  RawClient() = default;  // not connected so far
  explicit RawClient(int port) { Connect(port); }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void Connect(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Close();
  }

  // Stops in the middle if the server closes the connection.
  void Send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  void Get(const std::string& target, const std::string& headers = {}) {
    Send("GET " + target + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n");
  }

  // Returns everything that the server sends until it closes the connection.
  std::string ReceiveAll() {
    std::string text;
    char buffer[4096];
    for (;;) {
      const ssize_t size = ::recv(socket_, buffer, sizeof(buffer), 0);
      if (size <= 0) return text;
      text.append(buffer, static_cast<std::size_t>(size));
    }
  }

  // Returns whether something can be received within this time.
  bool HearsWithin(int milliseconds) {
    pollfd poll_for = {.fd = socket_, .events = POLLIN, .revents = 0};
    return ::poll(&poll_for, 1, milliseconds) > 0;
  }

  // Tells the server that nothing more will be sent.
  void EndSending() { ::shutdown(socket_, SHUT_WR); }

  void Close() {
    const int socket = std::exchange(socket_, -1);
    if (socket >= 0) ::close(socket);
  }

 private:
  int socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
};

// Returns how many responses a text has, whose bodies look like none.
inline std::size_t CountAnswers(const std::string& text) {
  std::size_t count = 0;
  for (std::size_t at = text.find("HTTP/1.1 "); at != text.npos;
       at = text.find("HTTP/1.1 ", at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace test
