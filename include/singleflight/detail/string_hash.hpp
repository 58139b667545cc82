// SPDX-License-Identifier: MIT
#pragma once

// HashBytes: hashes a string with a seed, fast if it is short.
//
// It reads eight bytes at a time. It combines two such words by a multiplication whose upper and
// lower half are added without carries, as wyhash and its descendants do (Wang Yi, wyhash, 2019).
// The seed takes part in every multiplication, so nobody who does not know it can find strings
// that meet: without it, the two factors are random numbers.
//
// The result is the same on every platform, and no byte outside the string is read.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fibonacci_hash.hpp"
#include "hash_seed.hpp"

namespace singleflight::detail {

// Returns the upper half of the product of two words, xor the lower half.
constexpr std::uint64_t FoldedProductOfHalves(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t a_low = a & 0xFFFFFFFF, a_high = a >> 32;
  const std::uint64_t b_low = b & 0xFFFFFFFF, b_high = b >> 32;
  const std::uint64_t low = a_low * b_low;
  const std::uint64_t middle = a_high * b_low + (low >> 32);  // at most 2^64 - 2^32
  const std::uint64_t other = a_low * b_high + (middle & 0xFFFFFFFF);
  const std::uint64_t high = a_high * b_high + (middle >> 32) + (other >> 32);
  return high ^ (other << 32 | (low & 0xFFFFFFFF));
}
constexpr std::uint64_t FoldedProduct(std::uint64_t a, std::uint64_t b) noexcept {
#if defined(__SIZEOF_INT128__)
  __extension__ using Wide = unsigned __int128;
  const Wide product = Wide{a} * b;
  return static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product);
#else
  return FoldedProductOfHalves(a, b);
#endif
}

// Reads a word whose first byte is the lowest.
template <class Word>
Word ReadLittleEndian(const unsigned char* from) noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    Word word;
    std::memcpy(&word, from, sizeof word);
    return word;
  } else {
    Word word = 0;
    for (std::size_t i = sizeof word; i-- > 0;) word = static_cast<Word>(word << 8 | from[i]);
    return word;
  }
}

// The upper half of the result selects shard and bucket, so its bits must be as random as the
// lower half's.
inline std::uint64_t HashBytes(const void* begin, std::size_t size, const HashSeed& seed) noexcept {
  const auto* from = static_cast<const unsigned char*>(begin);
  const auto word = [](const unsigned char* at) { return ReadLittleEndian<std::uint64_t>(at); };
  const auto half = [](const unsigned char* at) { return ReadLittleEndian<std::uint32_t>(at); };
  // Strings of different lengths may consist of the same words.
  std::uint64_t state = seed[0] + size * kGoldenRatio;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  if (size > 16) {
    const unsigned char* const end = from + size;
    for (; end - from > 16; from += 16) {
      state = FoldedProduct(word(from) ^ seed[1], word(from + 8) ^ state);
    }
    first = word(end - 16);  // may overlap what has been read
    last = word(end - 8);
  } else if (size >= 8) {
    first = word(from);
    last = word(from + size - 8);
  } else if (size >= 4) {
    first = half(from);
    last = half(from + size - 4);
  } else if (size > 0) {
    first = std::uint64_t{from[0]} << 16 | std::uint64_t{from[size / 2]} << 8 | from[size - 1];
  }
  // Without the last step, some seeds fill the buckets less evenly than random numbers do.
  return FoldedProduct(first ^ seed[2], last ^ state) * kGoldenRatio;
}

}  // namespace singleflight::detail
