// SPDX-License-Identifier: MIT
#pragma once

// Finds out, at compile time, how to read what the `fn` of a batch returned: by position, or by
// key. A range that has keys of its own is never read by position, because its order is its own,
// too: whoever asked for Bob would get Ada.

#include <concepts>
#include <cstddef>
#include <functional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <version>

#include "../hash.hpp"
#include "element_outcome.hpp"
#include "keeps_apart.hpp"
#include "key_ref.hpp"

namespace singleflight::detail {

// ---- Entries: pairs, tuples of two, and what has key() and value(), as Qt's iterators have

template <class T>
inline constexpr bool kIsTupleOfTwo = false;
template <class First, class Second>
inline constexpr bool kIsTupleOfTwo<std::tuple<First, Second>> = true;

template <class T>
concept HasKeyAndValue = requires(T&& entry) {
  entry.key();
  entry.value();
};
template <class T>
concept HasFirstAndSecond = requires(T&& entry) {
  entry.first;
  entry.second;
};
template <class T>
concept EntryLike =
    HasKeyAndValue<T> || HasFirstAndSecond<T> || kIsTupleOfTwo<std::remove_cvref_t<T>>;

template <class Entry>
decltype(auto) KeyOf(Entry&& entry) {
  if constexpr (HasKeyAndValue<Entry>) {
    return entry.key();
  } else if constexpr (HasFirstAndSecond<Entry>) {
    return (entry.first);
  } else {
    return std::get<0>(entry);
  }
}

template <class Entry>
decltype(auto) MappedOf(Entry&& entry) {
  if constexpr (HasKeyAndValue<Entry>) {
    return entry.value();
  } else if constexpr (HasFirstAndSecond<Entry>) {
    return (std::forward<Entry>(entry).second);
  } else {
    return std::get<1>(std::forward<Entry>(entry));
  }
}

// The entry at an iterator: the iterator itself if it has key() and value(), else its element.
template <class Iterator>
decltype(auto) EntryOf(Iterator& iterator) {
  if constexpr (HasKeyAndValue<Iterator&>) {
    return (iterator);
  } else {
    return *iterator;
  }
}

template <class Iterator>
using EntryAt = decltype(detail::EntryOf(std::declval<Iterator&>()));

// ---- Keys

// What the group accepts as a key. It is compared with the batch's keys as what LosslessCast makes
// of it: an entry for 2^32 + 1 is not one for key 1.
template <class K, class G>
concept KeyFor = KeyRefOf<G>::template Accepts<K>();

// What stands beside a value and may be the key that it is for.
template <class T, class G>
concept MayBeKey = KeyFor<std::remove_cvref_t<T>, G> ||
    std::is_invocable_r_v<bool, const typename G::KeyEqualType&, const typename G::KeyType&, T>;

// An entry whose key may be one of the group's. (A Value that is a pair itself is no entry.)
template <class T, class G>
concept KeyedElement =
    EntryLike<T> && !std::same_as<std::remove_cvref_t<T>, typename G::ValueType> &&
    MayBeKey<decltype(detail::KeyOf(std::declval<T>())), G>;

template <class Range>
concept HasKeyType = requires {
  typename Range::key_type;
};
template <class Range>
concept HasMappedType = requires {
  typename Range::mapped_type;
};
template <class Range>
concept HasKeyedIterator = requires(Range& range) {
  range.begin().key();
};
template <class Range>
concept ViewOfBase = std::ranges::view<Range> && requires(Range&& view) {
  std::move(view).base();
};

template <class T>
inline constexpr bool kHasConstFirst = false;
template <class First, class Second>
inline constexpr bool kHasConstFirst<std::pair<const First, Second>> = true;

template <class T>
inline constexpr bool kIsElementsView = false;  // views::keys or views::values
#if defined(__cpp_lib_ranges)                   // libc++ has it since version 16
template <class Base, std::size_t Index>
inline constexpr bool kIsElementsView<std::ranges::elements_view<Base, Index>> = true;
#endif

// Whether a range is a map or a set, or a range of pairs that may have keys, or a view that shows
// only a part of these. (A view that transforms pairs may show anything, in any order. One that
// transforms a map has the map's order.)
template <class Range, class G, bool kPairs = true>
constexpr bool HasKeysOfItsOwn() {
  if constexpr (HasKeyType<Range> || HasMappedType<Range> || HasKeyedIterator<Range>) {
    return true;
  } else if constexpr (std::ranges::range<Range&>) {
    using Element = std::ranges::range_reference_t<Range&>;
    using Value = typename G::ValueType;
    using View = std::remove_cv_t<Range>;
    if constexpr (kHasConstFirst<std::remove_cvref_t<Element>>) {
      if (!std::same_as<std::remove_cvref_t<Element>, Value>) return true;
    }
    if constexpr (kPairs && KeyedElement<Element, G>) {
      return true;
    } else if constexpr (ViewOfBase<View>) {
      using Base = std::remove_cvref_t<decltype(std::declval<View>().base())>;
      return HasKeysOfItsOwn<Base, G, kIsElementsView<View>>();
    }
  }
  return false;
}

// ---- Maps

template <class Map>
concept InsertsAlways = requires(std::remove_const_t<Map>& map,
                                 const typename Map::value_type& entry) {
  { map.insert(entry) } -> std::same_as<typename Map::iterator>;
};
template <class Map>
concept HasEqualRange = requires(Map& map, const typename Map::key_type& key) {
  map.equal_range(key);
};
template <class Map>
concept HasSubscript = requires(std::remove_const_t<Map>& map, const typename Map::key_type& key) {
  map[key];
};
template <class Map>
concept HasAt = requires(Map& map, const typename Map::key_type& key) {
  map.at(key);
};

// A map that may have several values for a key.
template <class Map>
concept Multimap = HasMappedType<Map> &&
    (InsertsAlways<Map> || (HasEqualRange<Map> && !HasSubscript<Map> && !HasAt<Map>));

template <class Map, class G>
concept HasFind = requires(Map& map, const typename G::KeyType& key) {
  { map.find(key) == map.end() } -> std::convertible_to<bool>;
};

// The call of a map's find, for KeepsApart.
template <class Map>
struct CallsFind {
  template <class Key, class Its = Map>
  auto operator()(Key&& key) const -> decltype(std::declval<Its&>().find(std::forward<Key>(key)));
  template <class Key, class Given, class Its = Map>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template find<Given>(std::forward<Key>(key)));
};

template <class Map, class G>
inline constexpr bool kFindTakesKeysAsTheyAre =
    detail::KeepsApart<CallsFind<Map>, typename G::KeyType>();

// A map that can be asked for a key. One whose find takes another type may look for another.
template <class Map, class G>
concept Finds = HasFind<Map, G> && kFindTakesKeysAsTheyAre<Map, G>;

template <class T, class Key>
inline constexpr bool kIsStdEqual =
    std::same_as<T, std::equal_to<Key>> || std::same_as<T, std::equal_to<>>;
template <class T, class Key>
inline constexpr bool kIsStdOrder =
    std::same_as<T, std::less<Key>> || std::same_as<T, std::less<>> ||
    std::same_as<T, std::greater<Key>> || std::same_as<T, std::greater<>>;

// Whether a map's find compares keys just as the group does. An order is known to agree with an
// equality only for integers and strings: a floating-point number may be NaN, and a user's
// operator< may look at other members than operator==.
template <class Map, class G>
constexpr bool ComparesAsGroup() {
  using Key = typename G::KeyType;
  using Equal = typename G::KeyEqualType;
  if constexpr (requires { requires std::same_as<typename Map::key_type, Key>; }) {
    if constexpr (requires { typename Map::key_equal; }) {
      using MapEqual = typename Map::key_equal;
      return (std::same_as<MapEqual, Equal> && std::is_empty_v<Equal>) ||
             (kIsStdEqual<MapEqual, Key> && kIsStdEqual<Equal, Key>);
    } else if constexpr (requires { typename Map::key_compare; }) {
      constexpr bool kIsString = requires { typename StringView<Key>::type::traits_type; };
      return (std::integral<Key> || kIsString) && kIsStdEqual<Equal, Key> &&
             kIsStdOrder<typename Map::key_compare, Key>;
    }
  }
  return false;
}

// ---- Whose the elements are

struct ReadElement {
  template <class Iterator>
  decltype(auto) operator()(Iterator& iterator) const {
    return *iterator;
  }
};
struct ReadMapped {  // only its type is used
  template <class Iterator>
  auto operator()(Iterator& iterator) const
      -> decltype(detail::MappedOf(detail::EntryOf(iterator)));
};

// Whether what `Read` gives for an iterator may be moved out of what `fn` returned. It may be if
// that was returned by value and owns it. It does if what it gives is const where it is const
// itself, which is not so for a span.
template <class Returned, class Read>
constexpr bool OwnsElements() {
  using Range = std::remove_cvref_t<Returned>;
  if constexpr (!std::is_lvalue_reference_v<Returned> && !std::ranges::view<Range> &&
                !std::ranges::enable_borrowed_range<Range> &&
                requires(const Range& range) { range.begin(); }) {
    using Iterator = decltype(std::declval<const Range&>().begin());
    using Element = decltype(Read()(std::declval<Iterator&>()));
    return !std::is_lvalue_reference_v<Element> ||
           std::is_const_v<std::remove_reference_t<Element>>;
  } else {
    return false;
  }
}

// What an element is read as: an rvalue if it is moved out.
template <bool kMove, class Element>
decltype(auto) Take(Element&& element) {
  if constexpr (kMove) {
    return static_cast<std::remove_reference_t<Element>&&>(element);
  } else {
    return std::forward<Element>(element);
  }
}
template <class Returned, class Read, class Element>
using Taken = decltype(detail::Take<OwnsElements<Returned, Read>()>(std::declval<Element>()));

// ---- How to read it

enum class Reading {
  kNothing,  // a group of void, and fn returned void
  kByPosition,
  kByFind,
  kByEntries,  // every entry is read, and its key is compared as the group compares keys
  // The rest is refused.
  kMultimap,
  kUnreadableKeys,
  kUncopyable,
  kWrong,
};

template <class Entry, class G, class Returned>
concept ReadableEntry = EntryLike<Entry> &&
    KeyFor<std::remove_cvref_t<decltype(detail::KeyOf(std::declval<Entry>()))>, G> &&
    ElementFor<typename G::ValueType,
               Taken<Returned, ReadMapped, decltype(detail::MappedOf(std::declval<Entry>()))>>;

template <class G, class Returned>
constexpr Reading ReadingByKey() {
  using Map = std::remove_reference_t<Returned>;
  bool finds = false;
  if constexpr (Multimap<Map>) return Reading::kMultimap;
  if constexpr (Finds<Map, G>) {
    using Found = decltype(std::declval<Map&>().find(std::declval<const typename G::KeyType&>()));
    finds = ReadableEntry<EntryAt<Found>, G, Returned>;
  }
  if (finds && ComparesAsGroup<Map, G>()) return Reading::kByFind;
  if constexpr (std::ranges::input_range<Map&>) {
    using Iterator = std::ranges::iterator_t<Map&>;
    if constexpr (EntryLike<EntryAt<Iterator>>) {
      if (!std::same_as<std::remove_cvref_t<EntryAt<Iterator>>, typename G::ValueType> &&
          ReadableEntry<EntryAt<Iterator>, G, Returned>) {
        return Reading::kByEntries;
      }
    }
  }
  return finds ? Reading::kByFind : Reading::kUnreadableKeys;
}

template <class G, class Returned>
constexpr Reading ReadingOf() {
  using Range = std::remove_reference_t<Returned>;
  using Value = typename G::ValueType;
  if constexpr (std::is_void_v<Returned>) {
    return std::is_void_v<Value> ? Reading::kNothing : Reading::kWrong;
  } else if constexpr (HasKeysOfItsOwn<Range, G>()) {
    return ReadingByKey<G, Returned>();
  } else if constexpr (std::ranges::input_range<Range&>) {
    using Element = std::ranges::range_reference_t<Range&>;
    if constexpr (ElementFor<Value, Taken<Returned, ReadElement, Element>>) {
      return Reading::kByPosition;
    } else if constexpr (std::same_as<std::remove_cvref_t<Element>, Value>) {
      return Reading::kUncopyable;
    } else {
      return Reading::kWrong;
    }
  } else {
    return Reading::kWrong;
  }
}

// Whether an element, or the value of an entry, is or holds a Cached.
template <class Value, class Range>
constexpr bool HasCached() {
  if constexpr (std::is_void_v<Range>) {
    return false;
  } else if constexpr (std::ranges::range<Range&>) {
    using Iterator = std::ranges::iterator_t<Range&>;
    using Element = std::ranges::range_reference_t<Range&>;
    if constexpr (detail::IsOrHoldsCached<Value, Element>()) {
      return true;
    } else if constexpr (!std::same_as<std::remove_cvref_t<Element>, Value> &&
                         EntryLike<EntryAt<Iterator>>) {
      using Mapped = decltype(detail::MappedOf(std::declval<EntryAt<Iterator>>()));
      return detail::IsOrHoldsCached<Value, Mapped>();
    }
  }
  return false;
}

// Refuses what cannot be read. True if it can be.
template <class G, class Returned>
constexpr bool CheckReturned() {
  static_assert(!detail::HasCached<typename G::ValueType, std::remove_reference_t<Returned>>(),
                "the fn of a batch cannot return Cached: let it return the Values themselves");
  constexpr Reading kReading = ReadingOf<G, Returned>();
  constexpr bool kVoid = std::is_void_v<typename G::ValueType>;
  static_assert(kReading != Reading::kMultimap,
                "fn returned a map that may have several values for a key: return a map with one "
                "value for each, or the values in the order of fn's keys");
  static_assert(kReading != Reading::kUnreadableKeys,
                "fn returned a range that has keys of its own, as a set has, and is not a map from "
                "the group's Key to its Value: return such a map, a range of (key, value) pairs, "
                "or the values in the order of fn's keys");
  static_assert(kReading != Reading::kUncopyable,
                "fn returned a range that does not own its values, and this Value cannot be "
                "copied: return a container by value");
  static_assert(kReading != Reading::kWrong || kVoid,
                "fn must return the values, in the order of its keys, or a map from key to value");
  static_assert(kReading != Reading::kWrong || !kVoid,
                "fn must return nothing, or for each key what may hold an error: a range or a map "
                "of std::exception_ptr, std::expected or KeyResult<void>");
  return kReading < Reading::kMultimap;
}

}  // namespace singleflight::detail
