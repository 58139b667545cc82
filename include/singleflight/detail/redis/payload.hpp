// SPDX-License-Identifier: MIT
#pragma once

// Payload: the bytes with which a leader publishes its outcome to followers in other processes.
//
//   0     version of this format
//   1     kind
//   2..9  checksum, little-endian: 64-bit FNV-1a over the lease's token, bytes 0 and 1 and the body
//   10..  body: the encoded value, or the exception's message
//
// FNV-1a is specified in RFC 9923. It detects damaged and foreign entries. It does not protect
// against forgery.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace singleflight::redis::detail {

enum class PayloadKind : unsigned char {
  kValue = 1,
  kException = 2,
  kAbandoned = 3,  // the leader gave up: another caller must run `fn`
};

struct Payload {
  PayloadKind kind;
  std::string_view body;
};

inline constexpr unsigned char kPayloadVersion = 1;
inline constexpr std::size_t kPayloadHeader = 10;

inline std::uint64_t Fnv1a(std::string_view bytes, std::uint64_t hash) noexcept {
  for (const char byte : bytes) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
  }
  return hash;
}

// The checksum covers the lease's `token`, so that the outcome of another call does not decode.
inline std::uint64_t Checksum(std::string_view token, std::string_view head,
                              std::string_view body) noexcept {
  return Fnv1a(body, Fnv1a(head, Fnv1a(token, 0xcbf29ce484222325U)));
}

inline std::string Pack(const Payload& payload, std::string_view token) {
  std::string packed;
  packed.reserve(kPayloadHeader + payload.body.size());
  packed += static_cast<char>(kPayloadVersion);
  packed += static_cast<char>(payload.kind);
  const std::uint64_t checksum = Checksum(token, packed, payload.body);
  for (int shift = 0; shift < 64; shift += 8) packed += static_cast<char>(checksum >> shift);
  return packed += payload.body;
}

// Returns nothing if `packed` is not what a leader with this token packed. The result refers to
// `packed`.
inline std::optional<Payload> Unpack(std::string_view packed, std::string_view token) noexcept {
  if (packed.size() < kPayloadHeader) return std::nullopt;
  if (static_cast<unsigned char>(packed[0]) != kPayloadVersion) return std::nullopt;
  std::uint64_t checksum = 0;
  for (std::size_t i = kPayloadHeader; i > 2; --i) {
    checksum = checksum << 8 | static_cast<unsigned char>(packed[i - 1]);
  }
  const Payload payload{static_cast<PayloadKind>(packed[1]), packed.substr(kPayloadHeader)};
  if (checksum != Checksum(token, packed.substr(0, 2), payload.body)) return std::nullopt;
  return payload;
}

}  // namespace singleflight::redis::detail
