// SPDX-License-Identifier: MIT
#pragma once

// Runs the `fn` of a batch, reads what it returned, and lands each of its keys.

#include <concepts>
#include <cstddef>
#include <exception>
#include <functional>
#include <iterator>
#include <optional>
#include <ranges>
#include <span>
#include <stdexcept>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "../stop_token.hpp"
#include "awaitable.hpp"
#include "element_outcome.hpp"
#include "errors.hpp"
#include "hash_mixer.hpp"
#include "key_ref.hpp"
#include "outcome.hpp"
#include "returned_range.hpp"

namespace singleflight::detail {

// How `fn` of a batch is called: as fn(std::span<const Key>) or
// fn(std::span<const Key>, StopToken).
template <class G, class Fn>
class BatchFn {
  using Keys = std::span<const typename G::KeyType>;

 public:
  static constexpr bool kTakesStop = std::is_invocable_v<Fn&, Keys, StopToken>;
  static constexpr bool kCallable = kTakesStop || std::is_invocable_v<Fn&, Keys>;

  static decltype(auto) Call(Fn& fn, Keys keys, StopToken stop) requires kCallable {
    if constexpr (kTakesStop) {
      return std::invoke(fn, keys, std::move(stop));
    } else {
      return std::invoke(fn, keys);
    }
  }
};

template <class G, class Fn>
using ReturnedBy = decltype(BatchFn<G, Fn>::Call(
    std::declval<Fn&>(), std::span<const typename G::KeyType>(), StopToken()));

// These refuse an `fn` that cannot be called, or whose result cannot be read. True if it can be.
template <class G, class Fn>
constexpr bool CheckCallable() {
  constexpr bool kHasSpans = !std::same_as<typename G::KeyType, bool>;
  static_assert(kHasSpans,
                "there is no span of a std::vector<bool>: give the group another type of key");
  static_assert(BatchFn<G, Fn>::kCallable,
                "fn must be callable as fn(std::span<const Key>) or "
                "fn(std::span<const Key>, singleflight::StopToken)");
  return kHasSpans && BatchFn<G, Fn>::kCallable;
}

// For an `fn` whose result is not awaited.
template <class G, class Fn>
constexpr bool CheckBatchFn() {
  if constexpr (detail::CheckCallable<G, Fn>()) {
    using Returned = ReturnedBy<G, Fn>;
    static_assert(!Awaitable<Returned>,
                  "fn returned an awaitable, and nobody would await it: only the fn of CoDoMany "
                  "may return one");
    if constexpr (!Awaitable<Returned>) return detail::CheckReturned<G, Returned>();
  }
  return false;
}

// Returns the outcome that `make()` returns. What it throws becomes the outcome.
template <class Value, class Make>
Outcome<Value> OutcomeOf(Make&& make) {
  try {
    return make();
  } catch (...) {
    return Outcome<Value>(Caught());
  }
}

template <class Value>
Outcome<Value> NoValue() {
  return Outcome<Value>(MakeError(std::errc::no_message,
                                  "singleflight: fn of a batch returned no value for this key"));
}

[[noreturn]] inline void ThrowWrongCount() {
  detail::Throw(std::errc::invalid_argument,
                "singleflight: fn of a batch returned more or fewer values than it got keys");
}

// Finds the places of a batch's keys, by the group's hash and equality. It copies no key.
template <class G>
class PlacesOfKeys {
  using Key = typename G::KeyType;
  using Ref = KeyRefOf<G>;

 public:
  explicit PlacesOfKeys(std::span<const Key> keys) {
    places_.reserve(keys.size());
    for (const Key& key : keys) places_.emplace(Ref(Ref::Adapt(key)), places_.size());
  }

  // None if the batch did not ask for `key`, or if the group cannot have it as a key.
  template <class K>
  std::optional<std::size_t> Find(const K& key) const {
    if constexpr (std::same_as<K, Key>) {
      return PlaceOf(key);
    } else {
      std::optional<std::remove_cvref_t<decltype(Ref::Adapt(key))>> adapted;
      try {
        adapted.emplace(Ref::Adapt(key));
      } catch (const std::out_of_range&) {
        return std::nullopt;
      } catch (const std::invalid_argument&) {  // a null pointer, where the keys are strings
        return std::nullopt;
      }
      return PlaceOf(*adapted);
    }
  }

 private:
  struct HashRef {
    std::size_t operator()(Ref key) const {
      return static_cast<std::size_t>(mixer->HashOf(hash, key.get()));
    }
    const HashMixer* mixer = &detail::ProcessMixer();
    [[no_unique_address]] typename G::HashType hash{};
  };
  struct EqualRefs {
    bool operator()(Ref one, Ref other) const { return equal(one.get(), other.get()); }
    [[no_unique_address]] typename G::KeyEqualType equal{};
  };

  template <class Adapted>
  std::optional<std::size_t> PlaceOf(const Adapted& key) const {
    const auto found = places_.find(Ref(key));
    return found != places_.end() ? std::optional(found->second) : std::nullopt;
  }

  std::unordered_map<Ref, std::size_t, HashRef, EqualRefs> places_;
};

// Not inlined, because GCC 12 warns falsely that an inlined one is uninitialized.
[[gnu::noinline]] inline Outcome<void> Success() { return Outcome<void>(std::in_place); }

// For a group of void.
template <class Land>
void LandSuccesses(std::size_t count, Land&& land) {
  for (std::size_t place = 0; place < count; ++place) land(place, Success());
}

// Calls `land(place, Outcome)` once for each of `keys`, in their order. `Returned` is what `fn`
// returned, as decltype says it, but not void.
//
// Each element is read once. What reading it throws is the outcome of its key alone. What else is
// thrown here, is thrown: `land` has then been called for none of the keys, or only for the first.
template <class G, class Returned>
class LandKeys {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using Outcome = detail::Outcome<Value>;
  using Range = std::remove_reference_t<Returned>;

  static constexpr Reading kReading = ReadingOf<G, Returned>();

 public:
  template <class Land>
  static void From(Range& returned, std::span<const Key> keys, Land&& land) {
    if constexpr (kReading == Reading::kByFind) {
      Find(returned, keys, land);
    } else if constexpr (kReading == Reading::kByEntries) {
      ReadEntries(returned, keys, land);
    } else if constexpr (std::ranges::sized_range<Range&>) {
      ReadSized(returned, keys.size(), land);
    } else {
      ReadToTheEnd(returned, keys.size(), land);
    }
  }

 private:
  template <class Element>
  static Outcome FromElement(Element&& element) {
    return detail::ToOutcome<Value>(
        detail::Take<OwnsElements<Returned, ReadElement>()>(std::forward<Element>(element)));
  }
  template <class Entry>
  static Outcome FromEntry(Entry&& entry) {
    return detail::ToOutcome<Value>(detail::Take<OwnsElements<Returned, ReadMapped>()>(
        detail::MappedOf(std::forward<Entry>(entry))));
  }

  // The size is compared first, so each key can land as soon as its element has been read.
  template <class Land>
  static void ReadSized(Range& returned, std::size_t count, Land& land) {
    const auto size = std::ranges::size(returned);
    using Size = std::remove_const_t<decltype(size)>;  // may be narrow, or wider than std::size_t
    if (static_cast<std::size_t>(size) != count || static_cast<Size>(count) != size) {
      ThrowWrongCount();
    }
    auto iterator = std::ranges::begin(returned);
    const auto end = std::ranges::end(returned);
    for (std::size_t place = 0; place < count; ++place) {
      if (place > 0) ++iterator;
      if (iterator == end) ThrowWrongCount();  // the size was not true
      land(place, OutcomeOf<Value>([&] { return FromElement(*iterator); }));
    }
  }

  // No key lands before the number of elements is known to be right. At most one too many is
  // looked for, because there may be no end.
  template <class Land>
  static void ReadToTheEnd(Range& returned, std::size_t count, Land& land) {
    std::vector<Outcome> outcomes;
    outcomes.reserve(count);
    auto iterator = std::ranges::begin(returned);
    const auto end = std::ranges::end(returned);
    for (; iterator != end; ++iterator) {
      if (outcomes.size() == count) ThrowWrongCount();
      outcomes.push_back(OutcomeOf<Value>([&] { return FromElement(*iterator); }));
    }
    if (outcomes.size() < count) ThrowWrongCount();
    for (std::size_t place = 0; place < count; ++place) land(place, std::move(outcomes[place]));
  }

  template <class Land>
  static void Find(Range& returned, std::span<const Key> keys, Land& land) {
    for (std::size_t place = 0; place < keys.size(); ++place) {
      land(place, OutcomeOf<Value>([&] {
             auto found = returned.find(keys[place]);
             if (found == returned.end()) return NoValue<Value>();
             auto&& entry = detail::EntryOf(found);
             if (!IsFor(keys.subspan(place, 1), entry)) return NoValue<Value>();
             return FromEntry(std::forward<decltype(entry)>(entry));
           }));
    }
  }

  // Whether an entry that a map's find returned is for this key in the eyes of the group.
  template <class Entry>
  static bool IsFor(std::span<const Key> key, Entry& entry) {
    if constexpr (ComparesAsGroup<Range, G>()) {
      return true;
    } else {
      return PlacesOfKeys<G>(key).Find(detail::KeyOf(entry)).has_value();
    }
  }

  // Entries for other keys are ignored, as those of a map are. Of two values for one key, neither
  // is known to be right.
  template <class Land>
  static void ReadEntries(Range& returned, std::span<const Key> keys, Land& land) {
    const PlacesOfKeys<G> places(keys);
    std::vector<std::optional<Outcome>> outcomes(keys.size());
    auto iterator = std::ranges::begin(returned);
    const auto end = std::ranges::end(returned);
    for (; iterator != end; ++iterator) {
      auto&& entry = detail::EntryOf(iterator);
      const std::optional<std::size_t> place = places.Find(detail::KeyOf(entry));
      if (!place) continue;
      std::optional<Outcome>& outcome = outcomes[*place];
      if (outcome) {
        outcome.emplace(SeveralValues());
      } else {
        outcome.emplace(
            OutcomeOf<Value>([&] { return FromEntry(std::forward<decltype(entry)>(entry)); }));
      }
    }
    for (std::size_t place = 0; place < keys.size(); ++place) {
      land(place, outcomes[place] ? std::move(*outcomes[place]) : NoValue<Value>());
    }
  }

  static Outcome SeveralValues() {
    return Outcome(MakeError(std::errc::invalid_argument,
                             "singleflight: fn of a batch returned two values for this key"));
  }
};

// Calls `fn` of a batch for `keys`, and `land` for each of them, as LandKeys does.
template <class G, class Fn, class Land>
void RunBatchFn(Fn& fn, std::span<const typename G::KeyType> keys, StopToken stop, Land&& land) {
  using Returned = ReturnedBy<G, Fn>;
  if constexpr (std::is_void_v<Returned>) {
    BatchFn<G, Fn>::Call(fn, keys, std::move(stop));
    detail::LandSuccesses(keys.size(), land);
  } else {
    // Has no arguments, because GCC 13 and 14 warn that a reference may refer to one of them.
    const auto call = [&]() -> Returned { return BatchFn<G, Fn>::Call(fn, keys, std::move(stop)); };
    Returned&& returned = call();
    LandKeys<G, Returned>::From(returned, keys, land);
  }
}

}  // namespace singleflight::detail
