// SPDX-License-Identifier: MIT
#pragma once

// Address: where a server listens, as an option or another server names it. SocketAddress: where to
// connect to, once the name has been looked up.

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <compare>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace singleflight::redis::detail {

struct Address {
  std::string host = {};
  int port = 0;
  std::string unix_socket = {};  // a path, with which `host` and `port` are not used

  auto operator<=>(const Address&) const = default;  // NOLINT(modernize-use-nullptr)
};

// Returns "host:port", "[::1]:port" or a path, for messages.
inline std::string TextOf(const Address& address) {
  if (!address.unix_socket.empty()) return address.unix_socket;
  const bool is_ipv6 = address.host.find(':') != std::string::npos;
  return (is_ipv6 ? '[' + address.host + ']' : address.host) + ':' + std::to_string(address.port);
}

// Reads a number that is the whole of `digits` and at least zero.
inline std::optional<int> ParseNumber(std::string_view digits) noexcept {
  int number = 0;
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (failed != std::errc() || end != digits.data() + digits.size() || number < 0) {
    return std::nullopt;
  }
  return number;
}

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  int Family() const noexcept { return storage.ss_family; }
  const sockaddr* Get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
};

// The addresses of one name, in the order in which to try them. If there are none, `error` says
// why.
struct LookUpResult {
  std::vector<SocketAddress> addresses = {};
  std::string error = {};
};

// Looks a name up in the system's databases, or reads a numeric address if `flags` is
// AI_NUMERICHOST, which never waits.
inline LookUpResult LookUpNow(const std::string& host, int port, int flags = 0) {
  addrinfo wanted = {};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &list);
  LookUpResult result;
  if (error != 0) {
    result.error = error == EAI_SYSTEM ? std::generic_category().message(errno)
                                       : std::string(::gai_strerror(error));
    return result;
  }
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.size = entry->ai_addrlen;
    result.addresses.push_back(address);
  }
  ::freeaddrinfo(list);
  return result;
}

// Returns the address of what needs no looking up: a Unix socket or a numeric IP address.
inline std::optional<LookUpResult> KnownAddress(const Address& address) {
  if (address.unix_socket.empty()) {
    LookUpResult result = LookUpNow(address.host, address.port, AI_NUMERICHOST);
    if (result.addresses.empty()) return std::nullopt;
    return result;
  }
  SocketAddress socket;
  sockaddr_un path = {};
  path.sun_family = AF_UNIX;
  if (address.unix_socket.size() >= sizeof(path.sun_path)) {
    return LookUpResult{{}, "the path is too long for a Unix socket"};
  }
  address.unix_socket.copy(path.sun_path, sizeof(path.sun_path) - 1);
  std::memcpy(&socket.storage, &path, sizeof(path));
  socket.size = sizeof(path);
  return LookUpResult{{socket}, {}};
}

}  // namespace singleflight::redis::detail
