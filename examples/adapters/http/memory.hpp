// SPDX-License-Identifier: MIT
#pragma once

// What a group of coalesced HTTP handlers remembers: which answers cannot be shared, and what has
// been written. A part of http_coalescing.hpp.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text.hpp"

// What earlier answers have shown about equal requests.
//
// It has a fixed size. A newer entry may displace another one, and a run that was not needed is all
// that this costs. It keeps hashes of the keys. If two keys have one hash, they share less than
// they could.
//
// Thread: every member may be called from any thread at any time.
class HttpMemory {
 public:
  struct Entry {
    bool alone = false;                  // the answer cannot be shared: Varnish's hit-for-miss
    std::vector<std::string> also = {};  // the names in Vary that are not in the key

    bool operator==(const Entry&) const = default;
  };

  Entry Of(std::string_view key) const {
    const std::size_t hash = std::hash<std::string_view>()(key);
    const std::lock_guard lock(mutex_);
    const Slot& slot = slots_[hash % slots_.size()];
    const bool known = slot.hash == hash && slot.expires > std::chrono::steady_clock::now();
    return known ? slot.entry : Entry();
  }

  // What is known already is not remembered for longer. So it is found out again now and then.
  void Put(std::string_view key, Entry entry, std::chrono::nanoseconds remember_for) {
    const std::size_t hash = std::hash<std::string_view>()(key);
    const bool empty = !entry.alone && entry.also.empty();
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    Slot& slot = slots_[hash % slots_.size()];
    if (empty && slot.hash != hash) return;
    if (slot.hash == hash && slot.expires > now && slot.entry == entry) return;
    slot.hash = hash;
    slot.expires = now + std::clamp<std::chrono::nanoseconds>(remember_for, {}, kLongest);
    std::swap(slot.entry, entry);  // the old one is destroyed after unlocking
  }

 private:
  struct Slot {
    std::size_t hash = 0;
    std::chrono::steady_clock::time_point expires = {};
    Entry entry;
  };

  static constexpr std::chrono::hours kLongest{24 * 365};
  mutable std::mutex mutex_;
  std::vector<Slot> slots_ = std::vector<Slot>(4096);  // guarded by mutex_
};

// A number for each method and path. It is part of the keys, so when it grows, no request joins a
// call from before. Some paths share a number. They are then invalidated together.
//
// Thread: every member may be called from any thread at any time.
class HttpGenerations {
 public:
  std::uint64_t Of(std::string_view method, std::string_view target) const {
    return numbers_[IndexOf(method, target)];
  }
  void Advance(std::string_view method, std::string_view target) {
    ++numbers_[IndexOf(method, target)];
  }

 private:
  // The query does not count, because a write to /items changes /items?page=2 as well.
  static std::size_t IndexOf(std::string_view method, std::string_view target) {
    std::string text(method);
    text += ' ';
    text += http_text::DecodedPath(target);
    return std::hash<std::string>()(text) % kNumbers;
  }

  static constexpr std::size_t kNumbers = 1024;
  std::array<std::atomic<std::uint64_t>, kNumbers> numbers_ = {};
};

struct HttpSharing {
  HttpMemory memory;
  HttpGenerations generations;
};
