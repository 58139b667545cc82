// SPDX-License-Identifier: MIT
#pragma once

// Codec: turns a value into the bytes that travel between processes, and back.
//
// Strings, numbers and enumerators need nothing. Neither do a std::array, std::optional, std::pair,
// std::tuple, std::variant, std::complex or std::bitset of numbers, nor most std::chrono types. For
// a struct of numbers and of these, say that it consists of nothing else:
//
//   struct Point { int x; double y; };
//
//   template <>
//   struct singleflight::redis::Codec<Point> : singleflight::redis::CopyBytes<Point> {};
//
// For any other type, specialize Codec or give the Group a class of your own:
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
//
// What one type's codec has written is never given to another's: leases and outcomes carry a tag.
// It is the name of the Value's type, as the compiler writes it. Declare one if programs that
// different compilers have built work together, and change it with the format:
//
//     static constexpr std::string_view kTag = "User, version 2";
//
// Exceptions travel as their messages, and a std::system_error with its code. For others of your
// own, a codec may have these two. Both return what is empty for those that they do not know:
//
//     static std::optional<std::string> EncodeError(const std::exception_ptr& error);
//     static std::exception_ptr DecodeError(std::string_view bytes);

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "detail/aggregate.hpp"
#include "detail/wire_bytes.hpp"

namespace singleflight::redis {

namespace detail {

// Refuses what holds a pointer that can be seen.
template <class T>
constexpr bool CheckPointers() {
  constexpr Portability kPortability = detail::PortabilityOf<T>();
  static_assert(kPortability != Portability::kPointer,
                "a pointer or a view means nothing in another process: use what it points to");
  static_assert(kPortability != Portability::kLocal,
                "each machine counts the time of a steady clock from another moment: use "
                "std::chrono::system_clock");
  return true;
}

struct CheckMembers {
  template <class... Members>
  void operator()(Members&...) const {
    (Check<std::remove_const_t<Members>>(), ...);
  }

 private:
  template <class Member>
  static constexpr void Check() {
    static_assert(detail::CheckPointers<Member>());
    static_assert(detail::PortabilityOf<Member>() != Portability::kUnknown,
                  "a member of this struct is of a class that does not copy its bytes: first "
                  "derive that class's Codec from CopyBytes, or, as for a std::string, write "
                  "Encode and Decode for this struct");
  }
};

// Refuses a class whose bytes are not its value in another process, as far as that can be seen.
template <class Value>
constexpr bool CheckBytes() {
  static_assert(!kIsPointerLike<Value>,
                "a pointer or a view means nothing in another process: use what it points to");
  static_assert(!std::is_union_v<Value>,
                "nobody can tell which member a union holds: write Encode and Decode");
  static_assert(std::is_move_assignable_v<Value>,
                "a class that cannot be assigned may have a reference, which means nothing in "
                "another process, or a const member: write Encode and Decode");
  if constexpr (Wire<Value>::kPortability != Portability::kUnknown) {
    static_assert(detail::CheckPointers<Value>());
  } else if constexpr (!std::is_aggregate_v<Value>) {
    static_assert(std::is_trivially_copyable_v<Value>,
                  "the bytes of a class that is not trivially copyable are not its value: write "
                  "Encode and Decode");
    static_assert(
        std::has_unique_object_representations_v<Value>,
        "this class hides its members, and there may be padding between them, which would "
        "give away what was in memory before: write Encode and Decode");
  } else {
    using singleflight::detail::CountMembers;
    constexpr bool kSeesMembers = CountMembers<Value>() != singleflight::detail::kUnknownCount;
    static_assert(kSeesMembers,
                  "CopyBytes cannot see the members of this struct: it has a base class, a member "
                  "that is constructed from anything, a flexible array, more than 24 members, or "
                  "an array of more than 256 elements that is not a std::array: write Encode and "
                  "Decode");
    if constexpr (kSeesMembers) {
      constexpr bool kHasUnion = singleflight::detail::HasUnion<Value>();
      static_assert(!kHasUnion,
                    "nobody can tell which member a union holds: write Encode and Decode");
      if constexpr (!kHasUnion) {
        using Checked [[maybe_unused]] =
            decltype(detail::VisitMembers(std::declval<Value&>(), CheckMembers()));
      }
    }
  }
  return true;
}

template <class Value>
struct BytesCodec {
  static std::string Encode(const Value& value) {
    std::string bytes;
    detail::Append(bytes, value);
    return bytes;
  }
  static std::optional<Value> Decode(std::string_view bytes) {
    if constexpr (std::default_initializable<Value>) {
      std::optional<Value> value(std::in_place);
      if (!detail::Read(bytes, *value) || !bytes.empty()) value.reset();
      return value;
    } else {
      static_assert(
          Wire<Value>::kPortability == Portability::kUnknown && !std::is_aggregate_v<Value>,
          "a value that is read part by part needs a default constructor: write Encode "
          "and Decode");
      std::array<std::byte, sizeof(Value)> copy;
      if (bytes.size() != copy.size()) return std::nullopt;
      std::memcpy(copy.data(), bytes.data(), bytes.size());
      return std::bit_cast<Value>(copy);
    }
  }
};

// The base of a Codec that is missing.
struct NoCodec {};

template <class ValueCodec, class Value>
constexpr bool CheckCodec() {
  if constexpr (std::is_base_of_v<NoCodec, ValueCodec>) {
    static_assert(detail::CheckPointers<Value>());
    static_assert(detail::PortabilityOf<Value>() == Portability::kPortable,
                  "this Value has no Codec: derive singleflight::redis::Codec<Value> from "
                  "CopyBytes<Value>, specialize it with Encode(const Value&) and "
                  "Decode(std::string_view), or give the Group a codec");
  }
  return true;
}

template <class ValueCodec, class Value>
concept Encodes = requires(const Value& value, std::string_view bytes) {
  { ValueCodec::Encode(value) } -> std::convertible_to<std::string_view>;
  { ValueCodec::Decode(bytes) } -> std::same_as<std::optional<Value>>;
};

}  // namespace detail

// A Codec that copies the bytes of a struct's members, one after the other, without the padding
// between them. A Codec that derives from it says that a struct is nothing but these bytes. All
// processes must be built with the same members.
//
// Members that are pointers, views, references and the like are refused. A member of another class
// of yours needs such a Codec, too, which must be declared first. A bit-field, an anonymous struct
// and a flexible array are refused, too, but by the compiler: C++20 has no way to ask about them.
//
// A class that is not an aggregate hides its members. That it holds no pointer is then your word.
// It must be trivially copyable, without padding and without floating-point numbers: compilers do
// not tell these two apart, and padding would give away what was in memory before.
//
// Decode refuses the bytes of a bool that is neither true nor false. C++20 does not tell whether
// such a class hides a bool, nor which values an enumeration has. Their bytes are taken as they
// are, so write a Decode that checks them if a program that you do not trust can write to the
// server.
template <class Value>
struct CopyBytes : detail::BytesCodec<Value> {
  static_assert(detail::CheckBytes<Value>());
};

template <class Value>
struct Codec
    : std::conditional_t<detail::Wire<Value>::kPortability == detail::Portability::kPortable,
                         detail::BytesCodec<Value>, detail::NoCodec> {};

template <>
struct Codec<std::string> {
  static constexpr std::string_view kTag = "string";
  static const std::string& Encode(const std::string& value) { return value; }
  static std::optional<std::string> Decode(std::string_view bytes) { return std::string(bytes); }
};

// A Group<void> has no value to encode: its followers learn only that the call has landed.
template <>
struct Codec<void> {};

namespace detail {

// Returns a text in which the name of T is: "... [with T = int; ...]" or "... [T = int]".
template <class T>
constexpr std::string_view SignatureOf() noexcept {
  return __PRETTY_FUNCTION__;
}

// Returns the name of T, as this compiler writes it. It may itself have a "]" or a "; ", as int[3]
// does, so it is what differs from the text for void.
template <class T>
constexpr std::string_view NameOf() noexcept {
  constexpr std::string_view kOfVoid = detail::SignatureOf<void>();
  constexpr std::size_t kBegin = kOfVoid.find("T = ") + 4;
  constexpr std::size_t kAround = kOfVoid.size() - std::string_view("void").size();
  constexpr std::string_view kText = detail::SignatureOf<T>();
  return kText.substr(kBegin, kText.size() - kAround);
}

// Returns what tells values of this codec from others.
template <class Value, class ValueCodec>
constexpr std::string_view TagOf() noexcept {
  if constexpr (requires { std::string_view(ValueCodec::kTag); }) {
    return ValueCodec::kTag;
  } else {
    return detail::NameOf<Value>();
  }
}

}  // namespace detail

// Says what a Group requires of its codec. A Group<void> requires nothing.
template <class ValueCodec, class Value>
concept CodecFor = std::is_void_v<Value> ||
    (detail::CheckCodec<ValueCodec, Value>() && detail::Encodes<ValueCodec, Value>);

}  // namespace singleflight::redis
