// SPDX-License-Identifier: MIT
#pragma once

// What a Redis Cluster says: HashSlot, where a key belongs, ParseRedirect, where a command
// should have been sent, and ParseSlots, which node has which keys.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "address.hpp"
#include "reply.hpp"

namespace singleflight::redis::detail {

inline constexpr unsigned kSlots = 16384;

// What a byte makes of the CRC-16/XMODEM, by the remainder's upper half.
inline constexpr std::array<std::uint16_t, 256> kCrcSteps = [] {
  std::array<std::uint16_t, 256> steps = {};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ ((crc & 0x8000) != 0 ? 0x1021U : 0U);
    steps[byte] = static_cast<std::uint16_t>(crc);
  }
  return steps;
}();

// Returns the slot of a key: the CRC-16/XMODEM of what is between its first opening brace and the
// next closing one. If that is empty or missing, the whole key counts. Source: "Key distribution
// model" in the Redis Cluster specification.
inline unsigned HashSlot(std::string_view key) noexcept {
  const std::size_t open = key.find('{');
  const std::size_t close = key.find('}', open);
  if (close != std::string_view::npos && close > open + 1) {
    key = key.substr(open + 1, close - open - 1);
  }
  unsigned crc = 0;
  for (const char byte : key) {
    crc = (crc << 8 & 0xffff) ^ kCrcSteps[crc >> 8 ^ static_cast<unsigned char>(byte)];
  }
  return crc % kSlots;
}

// Returns the host that a node named. It may not know its own, and then leaves it out: it is the
// one at which that node was asked. Over a Unix socket, that is this machine.
inline std::string HostOf(std::string_view named, const Address& asked) {
  if (!named.empty() && named != "?") return std::string(named);
  return asked.host.empty() ? "127.0.0.1" : asked.host;
}

// "MOVED 3999 10.0.0.2:6381": another node has the slot. "ASK ...": it does for this command only,
// since the slot is on its way.
struct Redirect {
  bool is_ask;
  unsigned slot;
  Address to;
};

// `asked` is the node that answered.
inline std::optional<Redirect> ParseRedirect(std::string_view error, const Address& asked) {
  Redirect redirect{error.starts_with("ASK "), 0, {}};
  if (!redirect.is_ask && !error.starts_with("MOVED ")) return std::nullopt;
  error.remove_prefix(error.find(' ') + 1);
  const std::size_t space = error.find(' ');
  const std::size_t colon = error.rfind(':');  // the last one: an IPv6 address has some, too
  if (space == std::string_view::npos || colon == std::string_view::npos || colon <= space) {
    return std::nullopt;
  }
  const std::optional<int> slot = ParseNumber(error.substr(0, space));
  const std::optional<int> port = ParseNumber(error.substr(colon + 1));
  if (!slot || *slot >= static_cast<int>(kSlots) || !port || *port == 0 || *port > 65535) {
    return std::nullopt;
  }
  redirect.slot = static_cast<unsigned>(*slot);
  redirect.to.host = HostOf(error.substr(space + 1, colon - space - 1), asked);
  redirect.to.port = *port;
  return redirect;
}

struct SlotRange {
  unsigned first, last;
  Address master;
};

// Reads the reply to CLUSTER SLOTS, [[first, last, [host, port, ...], replicas...], ...], and
// leaves out what it does not understand.
inline std::vector<SlotRange> ParseSlots(const Reply& reply, const Address& asked) {
  std::vector<SlotRange> ranges;
  for (const Reply& entry : reply.elements) {
    if (entry.elements.size() < 3 || entry.elements[2].elements.size() < 2) continue;
    const long long first = entry.elements[0].integer;
    const long long last = entry.elements[1].integer;
    const std::string& host = entry.elements[2].elements[0].text;
    const long long port = entry.elements[2].elements[1].integer;
    if (first < 0 || last < first || last >= kSlots || port <= 0 || port > 65535) continue;
    ranges.push_back({static_cast<unsigned>(first),
                      static_cast<unsigned>(last),
                      {HostOf(host, asked), static_cast<int>(port)}});
  }
  return ranges;
}

}  // namespace singleflight::redis::detail
