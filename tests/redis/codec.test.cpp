// SPDX-License-Identifier: MIT

// Tests the bytes that values become on their way to another process.

#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <singleflight/redis_codec.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "support/catch.hpp"

using namespace std::chrono_literals;
using namespace std::string_literals;
using singleflight::redis::Codec;
using singleflight::redis::CopyBytes;

namespace {

enum class Color : std::uint8_t { kRed = 7 };
enum Flag : bool { kOff, kOn };

// Names of types that have a "]" or a ";" inside.
template <class Array, class Unit = void>
struct Scaled {};
template <char, int>
struct Marked {};

struct Padded {
  char letter;
  std::int64_t number;
  bool flag;
  bool operator==(const Padded&) const = default;
};
struct Address {
  char street[200];
  std::array<std::int32_t, 2> numbers;
  short grid[2][3];
  bool operator==(const Address&) const = default;
};
struct Order {
  Padded lines[2];
  std::optional<Padded> gift;
  std::pair<int, Color> paint;
  std::variant<int, Padded> extra;
  std::chrono::year_month_day date;
  std::optional<int> discount = 5;
  bool operator==(const Order&) const = default;
};
struct Nothing {
  bool operator==(const Nothing&) const = default;
};

// A number as libraries write it: any number converts to it, but nothing else does.
struct Decimal {
  Decimal() = default;
  template <class Number>
  requires std::is_arithmetic_v<Number> Decimal(Number number)
      : hundredths(static_cast<std::int64_t>(number * 100)) {}
  bool operator==(const Decimal&) const = default;
  std::int64_t hundredths = 0;
};
// Anything at all is tried as its content.
struct Box {
  Box() = default;
  template <class T>
  Box(T&& its_content) : content(std::forward<T>(its_content)) {}
  bool operator==(const Box&) const = default;
  int content = 0;
};
struct Row {
  Decimal price;
  std::array<Decimal, 2> discounts;
  Nothing note;
  Decimal total[2];
  Box box;
  bool operator==(const Row&) const = default;
};

// These hide their members. Money has no default constructor.
class Money {
 public:
  Money(int its_currency, int its_cents) : currency_(its_currency), cents_(its_cents) {}
  bool operator==(const Money&) const = default;

 private:
  int currency_;
  int cents_;
};
class Id {
 public:
  Id() = default;
  explicit Id(std::uint64_t its_number) : number_(its_number) {}
  bool operator==(const Id&) const = default;

 private:
  std::uint64_t number_ = 0;
};
struct Edge {
  Id from, to;
  bool operator==(const Edge&) const = default;
};

}  // namespace

template <>
struct singleflight::redis::Codec<Padded> : singleflight::redis::CopyBytes<Padded> {};
template <>
struct singleflight::redis::Codec<Address> : singleflight::redis::CopyBytes<Address> {};
template <>
struct singleflight::redis::Codec<Order> : singleflight::redis::CopyBytes<Order> {};
template <>
struct singleflight::redis::Codec<Nothing> : singleflight::redis::CopyBytes<Nothing> {};
template <>
struct singleflight::redis::Codec<Decimal> : singleflight::redis::CopyBytes<Decimal> {};
template <>
struct singleflight::redis::Codec<Box> : singleflight::redis::CopyBytes<Box> {};
template <>
struct singleflight::redis::Codec<Row> : singleflight::redis::CopyBytes<Row> {};
template <>
struct singleflight::redis::Codec<Money> : singleflight::redis::CopyBytes<Money> {};
template <>
struct singleflight::redis::Codec<Id> : singleflight::redis::CopyBytes<Id> {};
template <>
struct singleflight::redis::Codec<Edge> : singleflight::redis::CopyBytes<Edge> {};

namespace {

// Whether `value` arrives in another process as it is, in so many bytes. Neither fewer nor more
// bytes are taken for it.
template <class Value>
bool Arrives(const Value& value, std::size_t size) {
  const std::string bytes = Codec<Value>::Encode(value);
  if (bytes.size() != size) return false;
  if (!bytes.empty() && Codec<Value>::Decode(std::string_view(bytes).substr(1))) return false;
  if (Codec<Value>::Decode(bytes + "x")) return false;
  const std::optional<Value> decoded = Codec<Value>::Decode(bytes);
  return decoded && *decoded == value && Codec<Value>::Encode(*decoded) == bytes;
}

// Makes a Value in memory that is full of `garbage`.
template <class Value, class Assign>
std::string EncodeOver(unsigned char garbage, Assign&& assign) {
  alignas(Value) std::array<unsigned char, sizeof(Value)> memory;
  memory.fill(garbage);
  auto* const value = new (memory.data()) Value;
  assign(*value);
  return Codec<Value>::Encode(*value);
}

}  // namespace

TEST_CASE("redis: numbers and enumerators reach other processes without a codec of their own") {
  CHECK(Arrives(true, 1));
  CHECK(Arrives('a', 1));
  CHECK(Arrives(std::byte{0xff}, 1));
  CHECK(Arrives(u'\xffff', 2));
  CHECK(Arrives(-7, sizeof(int)));
  CHECK(Arrives(std::numeric_limits<std::uint64_t>::max(), 8));
  CHECK(Arrives(-0.5F, 4));
  CHECK(Arrives(1e300, 8));
  CHECK(Arrives(1.0L / 3, std::numeric_limits<long double>::digits == 64 ? 10 : sizeof(1.0L)));
  CHECK(Arrives(Color::kRed, 1));
  CHECK(Arrives(kOn, 1));
}

TEST_CASE("redis: what the standard library makes of numbers needs no codec of its own, either") {
  CHECK(Arrives(std::array{1, -2, 3}, 3 * sizeof(int)));
  CHECK(Arrives(std::array<bool, 2>{true, false}, 2));
  CHECK(Arrives(std::array<int, 0>(), 0));
  CHECK(Arrives(std::optional<int>(), 1));
  CHECK(Arrives(std::optional(std::int32_t{7}), 5));
  CHECK(Arrives(std::pair('a', std::int64_t{7}), 9));
  CHECK(Arrives(std::tuple('a', std::int64_t{7}, true), 10));
  CHECK(Arrives(std::tuple(), 0));
  CHECK(Arrives(std::variant<std::monostate, char, double>(), 4));
  CHECK(Arrives(std::variant<std::monostate, char, double>('a'), 5));
  CHECK(Arrives(std::variant<char, char>(std::in_place_index<1>, 'a'), 5));
  CHECK(Arrives(std::complex(0.5, -1.5), 16));
  CHECK(Arrives(1500ms, 8));
  CHECK(Arrives(std::chrono::sys_seconds(1'700'000'000s), 8));
  CHECK(Arrives(std::chrono::local_seconds(1'700'000'000s), 8));
  CHECK(Arrives(std::optional(std::chrono::local_seconds()), 9));
  CHECK(Arrives(std::chrono::year_month_day(std::chrono::sys_days()), 4));
  CHECK(Arrives(std::bitset<70>("1011"), 9));
  CHECK(Arrives(std::bitset<0>(), 0));
  CHECK(Arrives(std::optional(std::array{std::pair(1ms, 'a'), std::pair(2ms, 'b')}), 19));
}

TEST_CASE("redis: a struct whose codec derives from CopyBytes arrives member by member") {
  CHECK(Arrives(Padded{'a', 7, true}, 10));
  CHECK(Arrives(Nothing(), 0));
  Address address{"Main Street", {1, 2}, {{1, 2, 3}, {4, 5, 6}}};
  CHECK(Arrives(address, 200 + 8 + 12));
  Order order{{{'a', 1, true}, {'b', 2, false}},
              Padded{'c', 3, true},
              {4, Color::kRed},
              5,
              std::chrono::year_month_day(std::chrono::sys_days()),
              std::nullopt};
  CHECK(Arrives(order, 20 + 11 + 5 + 8 + 4 + 1));
  order.gift.reset();
  order.extra = Padded{'d', 6, false};
  order.discount = 6;
  CHECK(Arrives(order, 20 + 1 + 5 + 14 + 4 + 5));
  CHECK(Arrives(std::optional(Padded{'a', 7, true}), 11));
  CHECK(Arrives(std::array{Padded{'a', 7, true}, Padded{'b', 8, false}}, 20));
}

TEST_CASE("redis: a class that hides its members arrives as its bytes if its codec says so") {
  CHECK(Arrives(Money(978, 150), sizeof(Money)));
  CHECK(Arrives(Id(7), 8));
  CHECK(Arrives(Edge{Id(7), Id(8)}, 16));
  CHECK(Arrives(std::optional(Id(7)), 9));
}

TEST_CASE("redis: no member is left out because its class converts from other types") {
  CHECK(Arrives(Row{1.5, {2, 3}, {}, {4, 5}, 6}, 5 * 8 + sizeof(int)));
}

TEST_CASE("redis: what was in memory between the members does not reach other processes") {
  const auto padded = [](Padded& value) {
    value.letter = 'a';
    value.number = 7;
    value.flag = true;
  };
  CHECK(EncodeOver<Padded>(0x55, padded) == EncodeOver<Padded>(0xaa, padded));
  const auto number = [](long double& value) { value = 1.5L; };
  CHECK(EncodeOver<long double>(0x55, number) == EncodeOver<long double>(0xaa, number));
  using Numbers = std::array<long double, 2>;
  const auto numbers = [](Numbers& value) { value = {1.5L, 2.5L}; };
  CHECK(EncodeOver<Numbers>(0x55, numbers) == EncodeOver<Numbers>(0xaa, numbers));
  using Optional = std::optional<std::int64_t>;
  const auto empty = [](Optional& value) { value.reset(); };
  CHECK(EncodeOver<Optional>(0x55, empty) == EncodeOver<Optional>(0xaa, empty));
}

TEST_CASE("redis: bytes that no value has are not decoded") {
  CHECK(Codec<bool>::Decode("\2"s) == std::nullopt);
  CHECK(Codec<Flag>::Decode("\2"s) == std::nullopt);
  CHECK((Codec<std::array<bool, 2>>::Decode("\1\2"s) == std::nullopt));
  CHECK(Codec<std::optional<char>>::Decode("\2a"s) == std::nullopt);
  CHECK(Codec<std::optional<char>>::Decode("\0a"s) == std::nullopt);
  CHECK((Codec<std::variant<char, bool>>::Decode("\2\0\0\0a"s) == std::nullopt));
  CHECK((Codec<std::variant<char, bool>>::Decode("\1\0\0\0a"s) == std::nullopt));
  CHECK(Codec<std::bitset<3>>::Decode("\10"s) == std::nullopt);
  CHECK(Codec<std::bitset<3>>::Decode("\7"s) == std::bitset<3>(7));
  std::string padded = Codec<Padded>::Encode({'a', 7, true});
  padded.back() = '\2';
  CHECK(Codec<Padded>::Decode(padded) == std::nullopt);
}

TEST_CASE("redis: types that differ in their last template argument have tags that differ") {
  using singleflight::redis::detail::NameOf;
  CHECK(NameOf<Scaled<float[3], struct Meters>>() != NameOf<Scaled<float[3], struct Feet>>());
  CHECK(NameOf<Scaled<int[3]>>() != NameOf<Scaled<int[30]>>());
  CHECK(NameOf<Marked<']', 1>>() != NameOf<Marked<']', 2>>());
  CHECK(NameOf<Marked<';', 1>>() != NameOf<Marked<';', 2>>());
  CHECK(NameOf<int>() == "int");
  CHECK(NameOf<void>() == "void");
  CHECK(NameOf<std::string_view>().ends_with('>'));
  const auto name = NameOf<Marked<';', 7>>();
  CHECK((name.ends_with("7>") && name.find(" = ") == name.npos));
}

TEST_CASE("redis: CopyBytes can be the codec of one group only") {
  struct Local {
    int x;
    double y;
  };
  const std::string bytes = CopyBytes<Local>::Encode({1, 0.5});
  CHECK(bytes.size() == 12);
  REQUIRE(CopyBytes<Local>::Decode(bytes));
  CHECK(CopyBytes<Local>::Decode(bytes)->y == 0.5);
  CHECK(singleflight::redis::CodecFor<CopyBytes<Local>, Local>);
}
