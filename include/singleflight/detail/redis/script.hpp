// SPDX-License-Identifier: MIT
#pragma once

// Script: a Lua script and its SHA-1, by which a server that has seen it runs it. The digest is
// computed here, so that no connection needs a round trip to load scripts: it is an address, not a
// protection.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace singleflight::redis::detail {

// Returns the SHA-1 of `text`, as 40 hexadecimal digits. Source: FIPS 180-4.
inline std::string Sha1(std::string_view text) {
  std::string message(text);
  message += '\x80';
  while (message.size() % 64 != 56) message += '\0';
  const std::uint64_t bits = std::uint64_t{text.size()} * 8;
  for (int shift = 56; shift >= 0; shift -= 8) message += static_cast<char>(bits >> shift);

  std::array<std::uint32_t, 5> hash = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  for (std::size_t block = 0; block < message.size(); block += 64) {
    std::array<std::uint32_t, 80> words = {};
    for (std::size_t i = 0; i < 64; ++i) {
      words[i / 4] = words[i / 4] << 8 | static_cast<unsigned char>(message[block + i]);
    }
    for (std::size_t i = 16; i < 80; ++i) {
      words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    }
    auto [a, b, c, d, e] = hash;
    for (std::size_t i = 0; i < 80; ++i) {
      std::uint32_t mixed = 0;
      if (i < 20) {
        mixed = ((b & c) | (~b & d)) + 0x5a827999;
      } else if (i < 40) {
        mixed = (b ^ c ^ d) + 0x6ed9eba1;
      } else if (i < 60) {
        mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
      } else {
        mixed = (b ^ c ^ d) + 0xca62c1d6;
      }
      mixed += std::rotl(a, 5) + e + words[i];
      e = d;
      d = c;
      c = std::rotl(b, 30);
      b = a;
      a = mixed;
    }
    hash = {hash[0] + a, hash[1] + b, hash[2] + c, hash[3] + d, hash[4] + e};
  }

  std::string digits;
  for (const std::uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 15];
  }
  return digits;
}

// Lifetime: must outlive the commands that run it, also those of a client that a process has leaked
// when it exits. So a static one is never destroyed: `static const auto& script = *new
// Script(...)`.
class Script {
 public:
  explicit Script(std::string_view text) : text_(text), sha1_(Sha1(text)) {}

  const std::string& Text() const noexcept { return text_; }
  const std::string& Digest() const noexcept { return sha1_; }

 private:
  const std::string text_;
  const std::string sha1_;
};

}  // namespace singleflight::redis::detail
