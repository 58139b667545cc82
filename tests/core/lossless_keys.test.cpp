// SPDX-License-Identifier: MIT

// These tests ask for a key as something of another type. Either it becomes the key that was meant,
// or it is refused: two different things never become the same key.

#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::Group;

namespace {

#ifdef __SIZEOF_INT128__
__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;
#endif

constexpr long long kTwoTo32 = 1LL << 32;

struct OneHash {
  template <class Key>
  std::size_t operator()(const Key&) const {
    return 0;
  }
};
struct TransparentHash : OneHash {
  using is_transparent = void;
};

template <class Key, class Hash = OneHash>
using GroupOf = Group<Key, int, Hash, std::equal_to<Key>>;

// Returns whether a call that is led for `asked` is the call for `key`.
template <class Key, class Hash = OneHash, class Asked>
bool Becomes(const Asked& asked, const Key& key) {
  GroupOf<Key, Hash> group;
  return *group.Do(asked, [&] { return static_cast<int>(group.Callers(key)); }) == 1;
}

template <class Key, class Hash = OneHash, class Asked>
bool IsRefused(const Asked& asked) {
  GroupOf<Key, Hash> group;
  try {
    static_cast<void>(group.Do(asked, [] { return 1; }));
    return false;
  } catch (const std::out_of_range&) {
    return group.GetStats() == singleflight::Stats();
  }
}

template <class Number>
constexpr Number kNaN = std::numeric_limits<Number>::quiet_NaN();
template <class Number>
constexpr Number kInfinity = std::numeric_limits<Number>::infinity();
template <class Number>
constexpr Number kMax = std::numeric_limits<Number>::max();
template <class Number>
constexpr Number kLowest = std::numeric_limits<Number>::lowest();

enum Narrow { kOne = 1, kTwo = 2 };
enum Wide : long long { kWideOne = 1, kFar = kTwoTo32 + 1, kBelow = -1 };

// A class with one conversion function, to a T.
template <class T>
struct To {
  operator T() const { return value; }
  T value;
};
struct ToIntAndInt64 {
  operator int() const { return 1; }
  operator std::int64_t() const { return 1 + kTwoTo32; }
};
struct ToAnything {
  template <class T>
  operator T() const {
    return T(7);
  }
};
struct ToShortUnlessCast {
  operator short() const { return 3; }
  explicit operator int() const { return 4; }
};

struct UserId {
  UserId(std::uint32_t its_number) : number(its_number) {}  // NOLINT: meant to convert
  bool operator==(const UserId&) const = default;
  std::uint32_t number;
};
struct Document {
  template <std::integral T>
  Document(T its_number) : number(its_number) {}                                  // NOLINT
  Document(double its_number) : number(static_cast<std::int64_t>(its_number)) {}  // NOLINT
  Document(const char*) : number(-1) {}                                           // NOLINT
  bool operator==(const Document&) const = default;
  std::int64_t number;
};
struct Modulo10 {                              // its constructor decides that 1 and 11 are the same
  Modulo10(int number) : rest(number % 10) {}  // NOLINT
  bool operator==(const Modulo10&) const = default;
  int rest;
};

struct EqualLongs {
  bool operator()(long long a, long long b) const { return a == b; }
};
struct EqualLongsOrViews {
  using is_transparent = void;
  bool operator()(long long a, long long b) const { return a == b; }
  bool operator()(std::string_view a, const std::string_view& b) const { return a == b; }
};
struct EqualContents {
  bool operator()(const char* a, std::string_view b) const { return a == b; }
};
struct EqualPairs {
  template <class First, class Second>
  bool operator()(const std::pair<First, Second>& a, const std::pair<First, Second>& b) const {
    return a == b;
  }
};
struct Numbered {
  int number;
};
struct Flight : Numbered {  // it has no members of its own, but a conversion that loses some
  explicit Flight(int its_number) : Numbered{its_number} {}
  operator bool() const { return number != 0; }
};
struct EqualNumbered {
  bool operator()(const Numbered& a, const Flight& b) const { return a.number == b.number; }
};
struct EqualAnything {
  template <std::equality_comparable Key>
  bool operator()(const Key& a, const Key& b) const {
    return a == b;
  }
};
struct WideCache {
  std::optional<int> Get(long long) { return 1; }
  void Put(long long, int) {}
};
struct AnyCache {
  template <std::integral Key>
  std::optional<int> Get(Key) {
    return 1;
  }
  template <class Key>
  void Put(const Key&, int) {}
};

}  // namespace

TEST_CASE("A key that is an integer of another type is the same integer, or is refused") {
  CHECK(Becomes<std::uint8_t>(255, 255));
  CHECK(IsRefused<std::uint8_t>(256));
  CHECK(IsRefused<std::uint8_t>(-1));
  CHECK(Becomes<std::int8_t>(-128L, -128));
  CHECK(IsRefused<std::int8_t>(128U));
  CHECK(IsRefused<unsigned>(1 + kTwoTo32));
  CHECK(IsRefused<unsigned>(-kTwoTo32 + 1));
  CHECK(IsRefused<std::int64_t>(~0ULL));
  CHECK(IsRefused<std::uint64_t>(-1));
  CHECK(Becomes<char16_t>(0xffff, u'\xffff'));
  CHECK(IsRefused<char8_t>(U'\x100'));
  CHECK(IsRefused<char>(L'\x100'));
  CHECK(Becomes<bool>(1, true));
  CHECK(IsRefused<bool>(2));
  CHECK(IsRefused<bool>(-1));
  CHECK(Becomes<int>(true, 1));
  const volatile std::int64_t changing = 1 + kTwoTo32;
  CHECK(IsRefused<int>(changing));
  std::vector<bool> bits = {false, true};
  CHECK(Becomes<int>(bits[1], 1));
}

#ifdef __SIZEOF_INT128__
TEST_CASE("A key that is an integer of 128 bits is the same integer, or is refused") {
  CHECK(Becomes<unsigned>(Uint128{7}, 7U));
  CHECK(IsRefused<unsigned>((Uint128{1} << 32) + 1));
  CHECK(IsRefused<unsigned>((Uint128{1} << 64) + 1));
  CHECK(IsRefused<unsigned>(Int128{-1}));
  CHECK(Becomes<Int128>(-5, Int128{-5}));
  CHECK(IsRefused<Int128>(~Uint128{0}));
  CHECK(IsRefused<Uint128>(-5));
  CHECK(IsRefused<double>((Uint128{1} << 64) + 1));
  CHECK(IsRefused<float>(~Uint128{0}));
  CHECK(Becomes<double>(Uint128{1} << 127, 0x1p127));
  CHECK(IsRefused<Uint128>(0x1p128));
  CHECK(Becomes<Int128>(-0x1p127, Int128{-1} << 127));
  CHECK(IsRefused<unsigned>(To<Uint128>{Uint128{1} << 64}));
  CHECK(IsRefused<UserId>(Uint128{1} << 64));
}
#endif

TEST_CASE("A key that is a floating-point number is the same number, or is refused") {
  CHECK(Becomes<int>(3.0, 3));
  CHECK(Becomes<int>(-0.0, 0));
  CHECK(IsRefused<int>(3.7));
  CHECK(IsRefused<unsigned>(-0.5));
  CHECK(IsRefused<int>(1e300));
  CHECK(IsRefused<int>(-1e30F));
  CHECK(IsRefused<int>(0x1p31));
  CHECK(Becomes<int>(-0x1p31, std::numeric_limits<int>::min()));
  CHECK(IsRefused<std::uint64_t>(0x1p64));
  CHECK(IsRefused<std::int64_t>(static_cast<double>(kMax<std::int64_t>)));  // rounded up to 2^63
  CHECK(IsRefused<bool>(0.5));
  for (const double odd : {kNaN<double>, kInfinity<double>, -kInfinity<double>}) {
    CHECK(IsRefused<int>(odd));
    CHECK(IsRefused<std::uint64_t>(odd));
    CHECK(IsRefused<bool>(odd));
  }
  CHECK(Becomes<float>(16'777'216, 16'777'216.0F));
  CHECK(IsRefused<float>(16'777'217));
  CHECK(IsRefused<double>((1LL << 53) + 1));
  CHECK(IsRefused<double>(kMax<std::uint64_t>));
  CHECK(Becomes<long double>(kMax<std::uint64_t>, static_cast<long double>(kMax<std::uint64_t>)));
  CHECK(Becomes<float>(0.5, 0.5F));
  CHECK(IsRefused<float>(0.1));
  CHECK(IsRefused<float>(kMax<double>));
  CHECK(IsRefused<float>(kLowest<double>));
  CHECK(Becomes<float>(kInfinity<double>, kInfinity<float>));
  CHECK(IsRefused<float>(kNaN<double>));
  CHECK(Becomes<double>(0.1F, static_cast<double>(0.1F)));
}

TEST_CASE("An enumerator as a key is its number, or is refused") {
  CHECK(Becomes<unsigned>(kTwo, 2U));
  CHECK(Becomes<unsigned>(kWideOne, 1U));
  CHECK(IsRefused<unsigned>(kFar));
  CHECK(IsRefused<unsigned>(kBelow));
  CHECK(IsRefused<float>(static_cast<Wide>((1 << 24) + 1)));
  CHECK(Becomes<Wide>(kFar, kFar));
  struct {
    Wide wide : 40;
    unsigned narrow : 3;
  } const fields = {kFar, 5};
  CHECK(IsRefused<unsigned>(fields.wide));
  CHECK(Becomes<long long>(fields.wide, kFar));
  CHECK(Becomes<std::uint8_t>(fields.narrow, 5));
}

TEST_CASE("An object that converts to a number is the same number as a key, or is refused") {
  CHECK(IsRefused<unsigned>(To<std::int64_t>{1 + kTwoTo32}));
  CHECK(Becomes<unsigned>(To<std::int64_t>{1}, 1U));
  CHECK(IsRefused<unsigned>(To<Wide>{kFar}));
  CHECK(IsRefused<int>(To<double>{1.5}));
  CHECK(IsRefused<int>(To<double>{kNaN<double>}));
  CHECK(Becomes<int>(To<bool>{true}, 1));
  CHECK(Becomes<bool>(To<bool>{true}, true));
  CHECK(IsRefused<unsigned>(std::integral_constant<long long, 1 + kTwoTo32>()));
  CHECK(IsRefused<unsigned>(std::atomic<long long>(1 + kTwoTo32)));
  long long number = 1 + kTwoTo32;
  CHECK(IsRefused<unsigned>(std::ref(number)));
  CHECK(IsRefused<unsigned>(std::cref(number)));
  number = 1;
  CHECK(Becomes<unsigned>(std::ref(number), 1U));
  bool yes = true;
  CHECK(Becomes<bool>(std::ref(yes), true));
}

TEST_CASE("An object that converts to the Key itself becomes just that key") {
  CHECK(Becomes<int>(ToIntAndInt64(), 1));
  CHECK(Becomes<std::int64_t>(ToIntAndInt64(), 1 + kTwoTo32));
  CHECK(Becomes<unsigned>(ToAnything(), 7U));
  CHECK(Becomes<int>(ToShortUnlessCast(), 3));
  CHECK(Becomes<UserId>(To<UserId>{5U}, UserId(5)));
  CHECK(Becomes<std::optional<std::uint8_t>>(To<std::optional<std::uint8_t>>{{5}},
                                             std::optional<std::uint8_t>(5)));
}

TEST_CASE("A number reaches the constructor of a user's own Key unchanged, or is refused") {
  CHECK(Becomes(7, UserId(7)));
  CHECK(Becomes(7LL, UserId(7)));
  CHECK(Becomes(kOne, UserId(1)));
  CHECK(Becomes(7.0, UserId(7)));
  CHECK(IsRefused<UserId>(7 + kTwoTo32));
  CHECK(IsRefused<UserId>(kFar));
  CHECK(IsRefused<UserId>(-1));
  CHECK(IsRefused<UserId>(7.5));
  CHECK(IsRefused<Modulo10>(1 + kTwoTo32));
  CHECK(Becomes(11, Modulo10(1)));
  CHECK(Becomes(1 + kTwoTo32, Document(1 + kTwoTo32)));
  CHECK(Becomes("text", Document(-1)));
  CHECK(Becomes(1.5, Document(1)));
  CHECK(IsRefused<std::complex<float>>(0.1));
  CHECK(Becomes(2, std::complex<float>(2)));
}

TEST_CASE("With a transparent hash, an explicit conversion does not change a number, either") {
  struct Id {
    explicit Id(std::uint32_t its_number) : number(its_number) {}
    bool operator==(const Id&) const = default;
    std::uint32_t number;
  };
  CHECK(Becomes<Id, TransparentHash>(7, Id(7)));
  CHECK(IsRefused<Id, TransparentHash>(7 + kTwoTo32));
  CHECK(IsRefused<Id, TransparentHash>(To<long long>{7 + kTwoTo32}));
  CHECK(Becomes<std::chrono::seconds, TransparentHash>(7, std::chrono::seconds(7)));
  using Ticks = std::chrono::duration<std::int8_t>;
  CHECK(IsRefused<Ticks, TransparentHash>(257));
  using Time = std::chrono::sys_time<std::chrono::nanoseconds>;
  CHECK(Becomes<Time, TransparentHash>(std::chrono::hours(1), Time(std::chrono::hours(1))));
  CHECK(IsRefused<Time, TransparentHash>(std::chrono::hours::max()));
  struct ExplicitlyInt {
    explicit operator int() const { return 5; }
  };
  CHECK(Becomes<int, TransparentHash>(ExplicitlyInt(), 5));
}

TEST_CASE("A bitset as a key has all bits of the number, or the number is refused") {
  CHECK(Becomes(5, std::bitset<3>(5)));
  CHECK(Becomes(5UL, std::bitset<3>(5)));
  CHECK(IsRefused<std::bitset<3>>(8 + 5));
  CHECK(IsRefused<std::bitset<3>>(8UL + 5));
  CHECK(IsRefused<std::bitset<64>>(-1));
  CHECK(Becomes(~0ULL, std::bitset<80>(~0ULL)));
}

TEST_CASE("An optional key holds what was asked for, or it is refused") {
  using Key = std::optional<std::uint8_t>;
  CHECK(Becomes(7, Key(7)));
  CHECK(IsRefused<Key>(257));
  CHECK(Becomes(std::optional<int>(7), Key(7)));
  CHECK(IsRefused<Key>(std::optional<int>(257)));
  CHECK(Becomes(std::optional<int>(), Key()));
  CHECK(Becomes(std::nullopt, Key()));
  CHECK(IsRefused<Key>(kFar));
  using Nested = std::optional<std::optional<std::uint8_t>>;
  CHECK(IsRefused<Nested>(std::optional<int>(257)));
  CHECK(Becomes(std::optional<int>(), Nested(std::in_place)));
  CHECK(Becomes(std::nullopt, Nested()));
  CHECK(IsRefused<Nested>(257));
}

TEST_CASE("A pair or a tuple as a key holds the elements that were asked for, or it is refused") {
  using Key = std::pair<std::uint8_t, std::string>;
  CHECK(Becomes(std::pair(7, "a"), Key(7, "a")));
  CHECK(IsRefused<Key>(std::pair(257, "a")));
  using Triple = std::tuple<std::uint8_t, Key, std::optional<std::int8_t>>;
  CHECK(Becomes(std::tuple(7, std::pair(8L, "a"s), 9), Triple(7, Key(8, "a"), 9)));
  CHECK(IsRefused<Triple>(std::tuple(263, std::pair(8L, "a"s), 9)));
  CHECK(IsRefused<Triple>(std::tuple(7, std::pair(264L, "a"s), 9)));
  CHECK(IsRefused<Triple>(std::tuple(7, std::pair(8L, "a"s), 265)));
  CHECK(IsRefused<std::tuple<std::uint8_t>>(257));
  CHECK(IsRefused<std::tuple<std::uint8_t>>(std::tuple(257)));
  CHECK(IsRefused<std::tuple<std::uint8_t, bool>>(std::pair(7, 2)));
  const int number = 257;
  const bool yes = true;
  CHECK(IsRefused<std::tuple<std::uint8_t, bool>>(std::tie(number, yes)));
  CHECK(IsRefused<std::pair<UserId, int>>(std::pair(1 + kTwoTo32, 1)));
  struct Named : std::pair<int, int> {
    using pair::pair;
  };
  CHECK(IsRefused<std::pair<std::uint8_t, std::uint8_t>>(Named(257, 1)));
  CHECK(Becomes(Named(7, 1), std::pair<std::uint8_t, std::uint8_t>(7, 1)));
}

TEST_CASE("A variant as a key holds what was asked for, or it is refused") {
  using Key = std::variant<std::optional<std::uint8_t>, std::string, std::chrono::nanoseconds>;
  CHECK(Becomes("text", Key("text"s)));
  CHECK(Becomes(7, Key(std::optional<std::uint8_t>(7))));
  CHECK(IsRefused<Key>(257));
  CHECK(Becomes(std::chrono::hours(1), Key(std::chrono::nanoseconds(std::chrono::hours(1)))));
  CHECK(IsRefused<Key>(std::chrono::hours::max()));
  CHECK(Becomes(7, std::variant<long, std::string>(7L)));
  CHECK(IsRefused<std::variant<UserId, std::string>>(1 + kTwoTo32));
}

TEST_CASE("A duration as a key is as long as the one that was asked for, or it is refused") {
  using namespace std::chrono;
  CHECK(Becomes(1h, nanoseconds(1h)));
  CHECK(IsRefused<nanoseconds>(hours::max()));
  CHECK(IsRefused<nanoseconds>(hours::min()));
  CHECK(IsRefused<nanoseconds>(seconds(9'223'372'037)));
  CHECK(Becomes(seconds(9'223'372'036), nanoseconds(9'223'372'036'000'000'000)));
  CHECK(Becomes(seconds(-9'223'372'036), nanoseconds(-9'223'372'036'000'000'000)));
  using Small = duration<std::int8_t, std::milli>;
  CHECK(Becomes(-128ms, Small(-128)));
  CHECK(IsRefused<Small>(128ms));
  CHECK(IsRefused<Small>(1s));
  CHECK(Becomes(0s, Small(0)));
  using Unsigned = duration<unsigned, std::milli>;
  CHECK(IsRefused<Unsigned>(-1s));
  CHECK(IsRefused<Unsigned>(-1ms));
  using Fraction = duration<double>;
  CHECK(Becomes(1ms, Fraction(1ms)));
  CHECK(
      Becomes(microseconds(1'700'000'000'000'001), Fraction(microseconds(1'700'000'000'000'001))));
  CHECK(IsRefused<Fraction>(nanoseconds(1'700'000'000'000'000'001)));
  CHECK(IsRefused<Fraction>(nanoseconds::max()));
  CHECK(IsRefused<Fraction>(seconds((1LL << 53) + 1)));
  CHECK(IsRefused<duration<float>>(Fraction(0.1)));
  CHECK(Becomes(days(3), hours(72)));
}

TEST_CASE("A point in time as a key is the one that was asked for, or it is refused") {
  using namespace std::chrono;
  using Key = sys_time<nanoseconds>;
  CHECK(Becomes(sys_days(1d / January / 2026), Key(sys_days(1d / January / 2026))));
  CHECK(IsRefused<Key>(sys_days(1d / January / 2500)));
  CHECK(IsRefused<Key>(sys_time<hours>::max()));
}

TEST_CASE("A string is asked for by a pointer to it, and a null pointer is refused") {
  const char* const null = nullptr;
  char* const mutable_null = nullptr;
  Group<std::string, int> group;
  CHECK_THROWS_AS(group.Callers(null), std::invalid_argument);
  CHECK_THROWS_AS(group.Callers(mutable_null), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(group.Do(null, [] { return 1; })), std::invalid_argument);
  CHECK_THROWS_AS(singleflight::DoAsync(group, null, [] { return 1; }), std::invalid_argument);
  CHECK_THROWS_AS(singleflight::DoMany(group, std::array{"a", null},
                                       [](auto keys) { return std::vector<int>(keys.size()); }),
                  std::invalid_argument);
  CHECK(group.GetStats() == singleflight::Stats());
  const wchar_t* const wide_null = nullptr;
  CHECK_THROWS_AS((Group<std::wstring, int>().Callers(wide_null)), std::invalid_argument);
  CHECK_THROWS_AS((Group<std::string_view, int>().Callers(null)), std::invalid_argument);
  CHECK_THROWS_AS((GroupOf<std::string>().Callers(null)), std::invalid_argument);
  using Pair = std::pair<std::string, int>;
  CHECK_THROWS_AS(GroupOf<Pair>().Callers(std::pair(null, 1)), std::invalid_argument);
  CHECK_THROWS_AS(GroupOf<std::optional<std::string>>().Callers(null), std::invalid_argument);
  struct CString {
    operator const char*() const { return text; }  // NOLINT
    const char* text;
  };
  CHECK_THROWS_AS(group.Callers(CString{nullptr}), std::invalid_argument);
  CHECK(*group.Do(CString{"a"}, [&] { return static_cast<int>(group.Callers("a")); }) == 1);
}

TEST_CASE("An array of characters without a zero at its end is asked for as a whole") {
  const char unterminated[3] = {'a', 'b', 'c'};
  const char terminated[5] = {'a', 'b', 'c', '\0', 'x'};
  Group<std::string, int> group;
  CHECK(*group.Do(unterminated, [&] { return static_cast<int>(group.Callers("abc")); }) == 1);
  CHECK(*group.Do(terminated, [&] { return static_cast<int>(group.Callers("abc")); }) == 1);
  CHECK(Becomes(unterminated, "abc"s));
  CHECK(Becomes<std::string_view>(terminated, "abc"));
}

TEST_CASE("A key derived from a class that converts what it holds is not changed, either") {
  struct Pair : std::pair<std::uint8_t, int> {
    using pair::pair;
  };
  CHECK(Becomes(std::pair(7, 1), Pair(7, 1)));
  CHECK(IsRefused<Pair>(std::pair(257, 1)));
  CHECK(IsRefused<std::pair<Pair, int>>(std::pair(std::pair(257, 1), 1)));
  struct Tuple : std::tuple<std::uint8_t, int> {
    using tuple::tuple;
  };
  CHECK(Becomes(std::tuple(7, 1), Tuple(std::uint8_t{7}, 1)));
  CHECK(IsRefused<Tuple>(std::tuple(257, 1)));
  CHECK(IsRefused<Tuple>(std::pair(257, 1)));
  struct Optional : std::optional<std::uint8_t> {
    using optional::optional;
    bool operator==(const Optional&) const = default;
  };
  CHECK(Becomes(7, Optional(std::uint8_t{7})));
  CHECK(IsRefused<Optional>(257));
  CHECK(IsRefused<Optional>(std::optional(257)));
  struct Variant : std::variant<std::optional<std::uint8_t>, std::string> {
    using variant::variant;
    bool operator==(const Variant& other) const { return index() == other.index(); }
  };
  CHECK(IsRefused<Variant>(257));
  using std::chrono::hours;
  struct Nanoseconds : std::chrono::nanoseconds {
    using duration::duration;
  };
  CHECK(Becomes(hours(1), Nanoseconds(hours(1))));
  CHECK(IsRefused<Nanoseconds>(hours::max()));
  struct Time : std::chrono::sys_time<std::chrono::nanoseconds> {
    using time_point::time_point;
  };
  CHECK(Becomes(std::chrono::sys_time<hours>(hours(1)), Time(hours(1))));
  CHECK(IsRefused<Time>(std::chrono::sys_time<hours>::max()));
}

TEST_CASE("A constructor of a derived key's own gets its argument as it is") {
  struct Rounded : std::chrono::nanoseconds {
    using duration::duration;
    Rounded(std::chrono::hours time)  // NOLINT
        : duration(time > std::chrono::hours(1) ? max() : duration(time)) {}
  };
  CHECK(Becomes(std::chrono::hours::max(), Rounded(std::chrono::nanoseconds::max().count())));
  CHECK(Becomes(To<Rounded>{Rounded(5)}, Rounded(5)));
}

TEST_CASE("Every way of asking refuses a number that the Key cannot represent") {
  using singleflight::DoAsync;
  using singleflight::DoMany;
  struct Cache {
    std::optional<int> Get(unsigned) { return 1; }
    void Put(unsigned, int) {}
    void Erase(unsigned) {}
  };
  const long long far = 1 + kTwoTo32;
  const auto fn = [] { return 1; };
  Group<unsigned, int> group;
  CHECK_THROWS_AS(static_cast<void>(group.Do(far, fn, {})), std::out_of_range);
  CHECK_THROWS_AS(group.Forget(far), std::out_of_range);
  CHECK_THROWS_AS(group.ForgetUnshared(kFar), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(group, far, fn), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(group, kFar, fn), std::out_of_range);
  const auto many = [](auto keys) { return std::vector<int>(keys.size()); };
  CHECK_THROWS_AS(DoMany(group, std::vector{1LL, far}, many), std::out_of_range);
  CHECK_THROWS_AS(DoMany(group, std::array{kFar}, many), std::out_of_range);
  CHECK_THROWS_AS(DoMany(group, std::vector{1.0, kNaN<double>}, many), std::out_of_range);
  CHECK(group.GetStats() == singleflight::Stats());
  singleflight::ReadThrough<unsigned, int, Cache> cached(Cache{});
  CHECK_THROWS_AS(static_cast<void>(cached.Get(far, fn)), std::out_of_range);
  CHECK_THROWS_AS(cached.Invalidate(far), std::out_of_range);
  CHECK(cached.GetStats() == singleflight::ReadThroughStats());
}

TEST_CASE("A KeyEqual and a cache may take keys as a type that tells all of them apart") {
  CHECK(*Group<int, int, OneHash, EqualLongs>().Do(7, [] { return 1; }) == 1);
  CHECK(*Group<long, int, OneHash, EqualAnything>().Do(7, [] { return 1; }) == 1);
  const auto fn = [] { return 2; };
  CHECK(*singleflight::ReadThrough<Narrow, int, WideCache>(WideCache{}).Get(kOne, fn) == 1);
  CHECK(*singleflight::ReadThrough<int, int, WideCache>(WideCache{}).Get(7, fn) == 1);
  CHECK(*singleflight::ReadThrough<std::uint64_t, int, AnyCache>(AnyCache{}).Get(7, fn) == 1);
}

TEST_CASE(
    "A KeyEqual may take keys of a class as a template, a view or a base that is all of them") {
  const auto fn = [] { return 1; };
  CHECK(*Group<int, int, OneHash, EqualLongsOrViews>().Do(7, fn) == 1);
  CHECK(*Group<std::string, int, OneHash, EqualLongsOrViews>().Do("key", fn) == 1);
  CHECK(*Group<std::string, int, TransparentHash, EqualLongsOrViews>().Do("key", fn) == 1);
  CHECK(*Group<std::string, int, OneHash, EqualAnything>().Do("key", fn) == 1);
  CHECK(*Group<const char*, int, OneHash, EqualContents>().Do("key", fn) == 1);
  CHECK(*Group<std::pair<int, int>, int, OneHash, EqualPairs>().Do({1, 2}, fn) == 1);
  using Referred = std::reference_wrapper<const std::string>;
  const std::string key = "key";
  CHECK(*Group<Referred, int, OneHash, std::equal_to<std::string>>().Do(std::cref(key), fn) == 1);
  Group<Flight, int, OneHash, EqualNumbered> flights;
  CHECK(*flights.Do(Flight(1), [&] {
    return static_cast<int>(flights.Callers(Flight(1)) + 10 * flights.Callers(Flight(2)));
  }) == 1);
}
