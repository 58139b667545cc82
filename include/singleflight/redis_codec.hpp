// SPDX-License-Identifier: MIT
#pragma once

// Codec: turns a value into the bytes that travel between processes, and back. Strings and
// trivially copyable types need nothing. For other types, specialize Codec or give the Group a
// class of your own:
//
//   template <>
//   struct singleflight::redis::Codec<User> {
//     static std::string Encode(const User& user) { return ToJson(user); }
//     static std::optional<User> Decode(std::string_view json) { return ParseUser(json); }
//   };
//
// Decode returns std::nullopt for bytes that it cannot read, say those of a newer version of the
// program. This process then carries on as if the other had died, and does the same if Decode
// throws. What Encode throws reaches the callers as if `fn` had thrown it.

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>

#include "detail/require_cxx20.hpp"

namespace singleflight::redis {

namespace detail {

template <class Value>
inline constexpr bool kIsReferenceWrapper = false;
template <class Referred>
inline constexpr bool kIsReferenceWrapper<std::reference_wrapper<Referred>> = true;

// True of types that can be trivially copyable and still mean nothing in another process.
template <class Value>
inline constexpr bool kIsPointerLike =
    std::is_pointer_v<Value> || std::is_member_pointer_v<Value> || std::is_null_pointer_v<Value> ||
    std::ranges::view<Value> || kIsReferenceWrapper<Value>;

}  // namespace detail

template <class Value>
struct Codec {
  static_assert(std::is_trivially_copyable_v<Value>,
                "this Value has no Codec: specialize singleflight::redis::Codec<Value> with "
                "Encode(const Value&) and Decode(std::string_view), or give the Group a codec");
  static_assert(!detail::kIsPointerLike<Value>,
                "a pointer or a view means nothing in another process: use what it points to");

  // Copies the bytes as they are: all processes must be built with the same layout of Value.
  static std::string Encode(const Value& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(Value));
  }
  static std::optional<Value> Decode(std::string_view bytes) {
    std::array<std::byte, sizeof(Value)> copy;
    if (bytes.size() != copy.size()) return std::nullopt;
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    return std::bit_cast<Value>(copy);
  }
};

template <>
struct Codec<std::string> {
  static const std::string& Encode(const std::string& value) { return value; }
  static std::optional<std::string> Decode(std::string_view bytes) { return std::string(bytes); }
};

// A Group<void> has no value to encode: its followers learn only that the call has landed.
template <>
struct Codec<void> {};

// Says what a Group requires of its codec. A Group<void> requires nothing.
template <class ValueCodec, class Value>
concept CodecFor = std::is_void_v<Value> || requires(const Value& value, std::string_view bytes) {
  { ValueCodec::Encode(value) } -> std::convertible_to<std::string_view>;
  { ValueCodec::Decode(bytes) } -> std::same_as<std::optional<Value>>;
};

}  // namespace singleflight::redis
