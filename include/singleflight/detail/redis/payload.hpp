// SPDX-License-Identifier: MIT
#pragma once

// Payload: the bytes with which a leader publishes its outcome to followers in other processes.
//
//   0      version of this format
//   1      kind
//   2..9   tag of the value's type, little-endian: see TagOf in redis_codec.hpp
//   10..17 checksum, little-endian: over the lease's token, the bytes before and the body
//   18..   body
//
// Both hashes are 64-bit FNV-1a, specified in RFC 9923. It detects damaged and foreign entries. It
// does not protect against forgery.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace singleflight::redis::detail {

enum class PayloadKind : unsigned char {
  kValue = 1,        // the encoded value
  kException = 2,    // the exception's message
  kSystemError = 3,  // the code, its category's name and the message
  kOwnError = 4,     // what the codec's EncodeError returned
  kAbandoned = 5,    // the leader gave up: another caller must lead
  kRunIt = 6,        // the outcome cannot be told: each process must run `fn` for its callers
};

struct Payload {
  PayloadKind kind;
  std::string_view body;
};

inline constexpr unsigned char kPayloadVersion = 2;
inline constexpr std::size_t kPayloadHeader = 18;

inline std::uint64_t Fnv1a(std::string_view bytes,
                           std::uint64_t hash = 0xcbf29ce484222325U) noexcept {
  for (const char byte : bytes) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
  }
  return hash;
}

inline void AppendNumber(std::string& bytes, std::uint64_t number) {
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(number >> shift);
}
// `bytes` holds at least eight.
inline std::uint64_t ReadNumber(std::string_view bytes) noexcept {
  std::uint64_t number = 0;
  for (std::size_t i = 8; i > 0; --i)
    number = number << 8 | static_cast<unsigned char>(bytes[i - 1]);
  return number;
}

// The checksum covers the lease's `token`, so that the outcome of another call does not decode.
inline std::uint64_t Checksum(std::string_view token, std::string_view head,
                              std::string_view body) noexcept {
  return detail::Fnv1a(body, Fnv1a(head, Fnv1a(token)));
}

inline std::string Pack(const Payload& payload, std::uint64_t tag, std::string_view token) {
  std::string packed;
  packed.reserve(kPayloadHeader + payload.body.size());
  packed += static_cast<char>(kPayloadVersion);
  packed += static_cast<char>(payload.kind);
  detail::AppendNumber(packed, tag);
  detail::AppendNumber(packed, detail::Checksum(token, packed, payload.body));
  return packed += payload.body;
}

// Returns nothing if `packed` is not what a leader with this token packed. The result refers to
// `packed`.
inline std::optional<Payload> Unpack(std::string_view packed, std::uint64_t tag,
                                     std::string_view token) noexcept {
  if (packed.size() < kPayloadHeader) return std::nullopt;
  if (static_cast<unsigned char>(packed[0]) != kPayloadVersion) return std::nullopt;
  const Payload payload{static_cast<PayloadKind>(packed[1]), packed.substr(kPayloadHeader)};
  if (detail::ReadNumber(packed.substr(10)) !=
      detail::Checksum(token, packed.substr(0, 10), payload.body)) {
    return std::nullopt;
  }
  if (detail::ReadNumber(packed.substr(2)) != tag) return std::nullopt;
  return payload;
}

// Whether it is what a leader has packed for values of another type.
inline bool IsOfAnotherType(std::string_view packed, std::uint64_t tag) noexcept {
  return packed.size() >= kPayloadHeader &&
         static_cast<unsigned char>(packed[0]) == kPayloadVersion &&
         detail::ReadNumber(packed.substr(2)) != tag;
}

}  // namespace singleflight::redis::detail
