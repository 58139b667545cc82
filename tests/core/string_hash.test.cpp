// SPDX-License-Identifier: MIT

// The hash of string keys: it depends on every byte, on the length and on the seed, and reads
// nothing else.

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <singleflight/detail/hash_mixer.hpp>
#include <singleflight/detail/string_hash.hpp>
#include <singleflight/group.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::detail::FoldedProduct;
using singleflight::detail::FoldedProductOfHalves;
using singleflight::detail::HashBytes;
using singleflight::detail::HashMixer;
using singleflight::detail::HashSeed;

namespace {

constexpr HashSeed kSeed = {0x0123456789ABCDEF, 0xFEDCBA9876543210, 0x13579BDF02468ACE};

std::uint64_t HashOf(std::string_view text, const HashSeed& seed = kSeed) {
  return HashBytes(text.data(), text.size(), seed);
}

}  // namespace

TEST_CASE("Hash of strings: it is the same on every platform") {
  CHECK(HashOf("") == 7369166175123651875u);
  CHECK(HashOf("a") == 16802389798198716835u);
  CHECK(HashOf("abc") == 13293394187196474329u);
  CHECK(HashOf("user:42") == 8613338683825223121u);
  CHECK(HashOf("a string of 24 bytes....") == 6586807470577642108u);
  CHECK(HashOf("a string that is longer than all that is read at one time") ==
        11024623037187489388u);
}

TEST_CASE("Hash of strings: the product of two words is the same without a wider type") {
  const std::vector<std::uint64_t> words = {
      0,          1,        2,        0xFFFFFFFF, 1ULL << 32,         ~0ULL,
      1ULL << 63, kSeed[0], kSeed[1], ~kSeed[2],  0xFFFFFFFF00000000, 0x8000000080000000};
  for (const std::uint64_t a : words) {
    for (const std::uint64_t b : words) CHECK(FoldedProductOfHalves(a, b) == FoldedProduct(a, b));
  }
  CHECK(FoldedProduct(~0ULL, ~0ULL) == ~0ULL);  // (2^64 - 1)^2 = (2^64 - 2) * 2^64 + 1
}

TEST_CASE("Hash of strings: it reads the bytes of the string and no others") {
  for (std::size_t size = 0; size < 100; ++size) {
    const std::unique_ptr<char[]> exact(new char[size]);  // AddressSanitizer watches its ends
    std::string amid(size + 40, '!');
    for (std::size_t i = 0; i < size; ++i) {
      exact[i] = amid[i + 20] = static_cast<char>(7 * i + size);
    }
    const std::uint64_t hash = HashOf({exact.get(), size});
    CHECK(hash == HashOf({amid.data() + 20, size}));  // also at any alignment
    amid[19] = amid[size + 20] = '?';
    CHECK(hash == HashOf({amid.data() + 20, size}));
  }
}

TEST_CASE("Hash of strings: its upper half depends on each bit of each byte") {
  for (std::size_t size = 1; size < 70; ++size) {
    for (std::size_t bit = 0; bit < 8 * size; ++bit) {
      double flipped = 0;
      constexpr int kSeeds = 64;
      for (int i = 0; i < kSeeds; ++i) {
        const std::uint64_t step = 0x9E3779B97F4A7C15 * static_cast<std::uint64_t>(i);
        const HashSeed seed = {kSeed[0] ^ step, kSeed[1] + step, kSeed[2] ^ step << 7};
        std::string text(size, 'x');
        const std::uint64_t before = HashOf(text, seed);
        text[bit / 8] = static_cast<char>(text[bit / 8] ^ 1 << bit % 8);
        flipped += std::popcount((before ^ HashOf(text, seed)) >> 32);
      }
      CAPTURE(size, bit);
      // Half of the 32 bits, give or take five standard deviations.
      REQUIRE(std::abs(flipped / kSeeds - 16) < 5 * std::sqrt(8.0 / kSeeds));
    }
  }
}

TEST_CASE("Hash of strings: strings of equal bytes and different lengths differ") {
  for (const char byte : {'\0', 'a', '\xFF'}) {
    std::set<std::uint64_t> hashes;
    for (std::size_t size = 0; size < 300; ++size) hashes.insert(HashOf(std::string(size, byte)));
    CHECK(hashes.size() == 300);
  }
}

TEST_CASE("Hash of strings: numbered keys fill the buckets no less evenly than random numbers do") {
  constexpr std::size_t kBuckets = 1024;
  constexpr std::size_t kKeys = 16 * kBuckets;
  HashSeed seed = kSeed;
  for (int i = 0; i < 40; ++i) {
    for (std::uint64_t& word : seed) word = HashOf(std::to_string(i), seed);  // another seed
    for (const std::string prefix :
         {"", "k", "user:", "session:0000000000:", "/static/images/large/"}) {
      std::vector<int> buckets(kBuckets);
      for (std::size_t key = 0; key < kKeys; ++key) {
        ++buckets[(HashOf(prefix + std::to_string(key), seed) >> 32) % kBuckets];
      }
      double chi_squared = 0;
      for (const int keys : buckets) chi_squared += (keys - 16) * (keys - 16) / 16.0;
      CAPTURE(prefix, i);
      CHECK(chi_squared < kBuckets + 6 * std::sqrt(2.0 * kBuckets));  // six standard deviations
    }
  }
}

TEST_CASE("Hash of strings: two strings meet in one group and not in another") {
  const std::vector<HashMixer> groups(2000);
  const singleflight::DefaultHash<std::string> hash;
  const std::array<std::string_view, 5> texts = {"", "a", "xyzw", "xyzwv",
                                                 "a longer one, of 26 bytes"};
  for (const std::string_view one : texts) {
    for (const std::string_view other : texts) {
      if (one == other) continue;
      int met = 0;  // in one of 64 buckets: by chance 31 times
      for (const HashMixer& group : groups) {
        met += (group.HashOf(hash, one) ^ group.HashOf(hash, other)) >> 58 == 0;
      }
      CAPTURE(one, other);
      CHECK(met < 31 + 6 * 6);
      CHECK(met > 0);
    }
  }
}

TEST_CASE("Hash of strings: a string and its views are one key") {
  singleflight::Group<std::string, int> group;
  singleflight::Group<std::u16string, int> wide_group;
  int seen = 0;
  static_cast<void>(group.Do(std::string("key"), [&] {
    seen += static_cast<int>(group.Callers("key") + group.Callers(std::string_view("key")));
    return 1;
  }));
  static_cast<void>(wide_group.Do(std::u16string(u"key"), [&] {
    seen += static_cast<int>(wide_group.Callers(u"key") + wide_group.Callers(u"kez"));
    return 1;
  }));
  CHECK(seen == 3);
}

TEST_CASE("Hash of strings: std::hash is used by a group that is given it") {
  struct CountedStdHash {
    std::size_t operator()(const std::string& key) const {
      ++calls();
      return std::hash<std::string>{}(key);
    }
    static int& calls() {
      static int count = 0;
      return count;
    }
  };
  singleflight::Group<std::string, int, CountedStdHash> group;
  static_cast<void>(group.Do("key", [] { return 1; }));
  CHECK(CountedStdHash::calls() == 1);
}
