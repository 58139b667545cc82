// SPDX-License-Identifier: MIT
#pragma once

// HashMixer: spreads a user's hash over 64 bits, in each group differently.
//
// A user's hash may be the key itself, as std::hash is for numbers. So a client that chooses keys
// also chooses their hashes. It does not know the salt. The first step is a universal hash, called
// pair-multiply-shift (Thorup, High Speed Hashing for Integers and Strings). For any two different
// hashes, the upper halves of their sums are random and independent of each other, if the salt is
// random. So whatever keys the client chooses, on average over the salts they cost what random ones
// do. But for one salt in a hundred, evenly spaced keys would cost about three times as much. The
// other steps prevent that: they permute the sums and keep no spacing.
//
// Keys with equal hashes stay together. That concerns a Hash that calls std::hash for strings: many
// that it maps to the same number can be found. DefaultHash takes the salt itself, as its seed.

#include <chrono>
#include <cstddef>
#include <cstdint>

#if __has_include(<sys/random.h>)
#include <sys/random.h>
#endif
#if !defined(GRND_NONBLOCK)
#include <random>
#endif

#include "fibonacci_hash.hpp"
#include "hash_seed.hpp"

namespace singleflight::detail {

class HashMixer {
 public:
  using Salt = HashSeed;

  // Draws a salt.
  //
  // Cost: a system call, about 0.3 us.
  HashMixer() noexcept {
    if (!DrawRandomly(salt_)) {
      const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
      salt_ = SaltOf(reinterpret_cast<std::uintptr_t>(this), static_cast<std::uint64_t>(now));
    }
  }
  constexpr explicit HashMixer(const Salt& salt) noexcept : salt_(salt) {}

  // The upper half selects the shard and the bucket.
  constexpr std::uint64_t operator()(std::uint64_t hash) const noexcept {
    const std::uint64_t low = hash & 0xFFFFFFFF;
    const std::uint64_t high = hash >> 32;
    std::uint64_t sum = (salt_[0] + high) * (salt_[1] + low) + salt_[2];
    sum ^= sum >> 32;
    return sum * kGoldenRatio;
  }

  // Returns the mixed hash of a key.
  template <class Hash, class Key>
  constexpr std::uint64_t HashOf(const Hash& hash, const Key& key) const {
    if constexpr (TakesSeed<Hash, Key>) {
      return hash(key, salt_);
    } else {
      return (*this)(hash(key));
    }
  }

  // Makes a salt if the system gives no random numbers, as in some sandboxes. A remote client knows
  // neither a group's address nor the time of its construction.
  static constexpr Salt SaltOf(std::uint64_t address, std::uint64_t time) noexcept {
    constexpr HashMixer mix(
        Salt{0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0});  // pi
    Salt salt{};
    std::uint64_t state = mix(address) + time;
    for (std::uint64_t& word : salt) {
      state = mix(state + kGoldenRatio);
      word = mix(state ^ kGoldenRatio);
    }
    return salt;
  }

 private:
  // False if the system gives no random numbers. Does not wait until it does.
  static bool DrawRandomly(Salt& salt) noexcept {
#if defined(GRND_NONBLOCK)
    return ::getrandom(salt.data(), sizeof(salt), GRND_NONBLOCK) == ssize_t{sizeof(salt)};
#else
    try {
      std::random_device random;
      for (std::uint64_t& word : salt) word = std::uint64_t{random()} << 32 | random();
      return true;
    } catch (...) {
      return false;
    }
#endif
  }

  Salt salt_;
};

// For tables that do not last: one for all of the process.
inline const HashMixer& ProcessMixer() noexcept {
  static const HashMixer mixer;
  return mixer;
}

}  // namespace singleflight::detail
