// SPDX-License-Identifier: MIT
#pragma once

// Reply and ReplyParser: what a server answers, in version 2 of the Redis protocol (RESP2).
// AppendCommand: what it is asked.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace singleflight::redis::detail {

struct Reply {
  enum class Type : unsigned char {
    kNil,
    kStatus,
    kString,
    kInteger,
    kArray,
    kError,     // `text` is the server's
    kTooLarge,  // it was longer than the limit. Of an array, the first element may have been kept
  };

  Type type = Type::kNil;
  long long integer = 0;
  std::string text = {};  // of a status, a string or an error
  std::vector<Reply> elements = {};

  bool IsError() const noexcept { return type == Type::kError; }
  bool IsText() const noexcept { return type == Type::kString || type == Type::kStatus; }
};

// Returns how long something lasts, which the reply says in milliseconds. It can be added to a time
// of the clock: what is longer than a hundred years is that long.
inline std::chrono::milliseconds TimeLeft(const Reply& reply) noexcept {
  constexpr long long kMost = 3'153'600'000'000;
  return std::chrono::milliseconds(std::clamp(reply.integer, -kMost, kMost));
}

// Returns how many bytes these words are in a command, or a few more.
inline std::size_t SizeOf(std::span<const std::string_view> words) noexcept {
  std::size_t size = 0;
  for (const std::string_view word : words) size += word.size() + 16;
  return size;
}
// Appends a command of these words, which may hold any bytes.
inline void AppendHeader(std::string& out, char kind, std::size_t number) {
  std::array<char, 24> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  out += kind;
  out.append(text.data(), end);
  out += "\r\n";
}
inline void AppendWord(std::string& out, std::string_view word) {
  AppendHeader(out, '$', word.size());
  out += word;
  out += "\r\n";
}
inline void AppendCommand(std::string& out, std::span<const std::string_view> words) {
  out.reserve(out.size() + SizeOf(words) + 16);
  AppendHeader(out, '*', words.size());
  for (const std::string_view word : words) AppendWord(out, word);
}

// Makes replies of the bytes that arrive, however they are divided. A reply longer than the limit
// is read to its end without being kept, so that it costs neither memory nor the connection, which
// other commands share.
class ReplyParser {
 public:
  explicit ReplyParser(std::size_t max_reply_bytes) : limit_(max_reply_bytes) {}

  // Calls `on_reply(Reply&&)`, which returns false to stop, for each reply that is complete.
  // Returns false if the bytes are not what a Redis server sends. After either, only Reset makes
  // sense.
  template <class OnReply>
  bool Feed(std::string_view bytes, OnReply&& on_reply) {
    if (!rest_.empty()) {
      rest_ += bytes;
      bytes = rest_;
    }
    const std::size_t before = bytes.size();
    for (;;) {
      const Step step = Next(bytes);
      if (step == Step::kInvalid) return false;
      if (step == Step::kMore) break;
      Reply reply = Take();
      if (!on_reply(std::move(reply))) return true;
    }
    Keep(bytes, before);
    return true;
  }

  // From the next reply on.
  void SetLimit(std::size_t max_reply_bytes) noexcept { limit_ = max_reply_bytes; }

  void Reset() noexcept {
    std::string().swap(rest_);  // an assignment would keep its memory
    stack_.clear();
    skip_ = size_ = 0;
    too_large_ = false;
  }

 private:
  enum class Step : unsigned char { kMore, kComplete, kInvalid };
  struct Level {
    Reply array;
    std::size_t left;  // elements that have not come yet
  };

  static constexpr std::size_t kMaxDepth = 16;
  static constexpr std::size_t kReserved = 8;            // elements: the server may say anything
  static constexpr std::size_t kMaxLine = 65'536;        // of a status, an error or a number
  static constexpr long long kMaxLength = 1LL << 40;     // of what a server can mean
  static constexpr std::size_t kKeptBuffer = 1'048'576;  // capacity that is not given back
  static constexpr std::size_t kElementCost = sizeof(Reply);  // so that empty elements count, too

  // Reads elements from the front of `bytes` until a whole reply is in done_.
  Step Next(std::string_view& bytes) {
    for (;;) {
      if (skip_ > 0) {
        const std::size_t now = std::min(skip_, bytes.size());
        bytes.remove_prefix(now);
        skip_ -= now;
        if (skip_ > 0) return Step::kMore;
        if (Finish({})) return Step::kComplete;
        continue;
      }
      const std::size_t end = bytes.find("\r\n");
      if (end == std::string_view::npos) {
        return bytes.size() > kMaxLine ? Step::kInvalid : Step::kMore;
      }
      if (end == 0) return Step::kInvalid;
      const std::string_view line = bytes.substr(1, end - 1);
      const std::size_t body = end + 2;
      switch (bytes[0]) {
        case '+':
        case '-': {
          Reply reply{bytes[0] == '+' ? Reply::Type::kStatus : Reply::Type::kError};
          reply.text = line;
          Count(line.size());
          bytes.remove_prefix(body);
          if (Finish(std::move(reply))) return Step::kComplete;
          break;
        }
        case ':': {
          Reply reply{Reply::Type::kInteger};
          if (!ParseInteger(line, reply.integer)) return Step::kInvalid;
          Count(0);
          bytes.remove_prefix(body);
          if (Finish(std::move(reply))) return Step::kComplete;
          break;
        }
        case '$': {
          long long length = 0;
          if (!ParseLength(line, length)) return Step::kInvalid;
          if (length < 0) {
            Count(0);
            bytes.remove_prefix(body);
            if (Finish({})) return Step::kComplete;
            break;
          }
          const auto size = static_cast<std::size_t>(length);
          if (too_large_ || size > limit_ || size_ + size > limit_) {
            too_large_ = true;
            bytes.remove_prefix(body);
            skip_ = size + 2;
            break;
          }
          if (bytes.size() < body + size + 2) return Step::kMore;
          if (bytes.substr(body + size, 2) != "\r\n") return Step::kInvalid;
          Reply reply{Reply::Type::kString};
          reply.text = bytes.substr(body, size);
          Count(size);
          bytes.remove_prefix(body + size + 2);
          if (Finish(std::move(reply))) return Step::kComplete;
          break;
        }
        case '*': {
          long long length = 0;
          if (!ParseLength(line, length)) return Step::kInvalid;
          Count(0);
          bytes.remove_prefix(body);
          if (length <= 0) {
            if (Finish({length < 0 ? Reply::Type::kNil : Reply::Type::kArray})) {
              return Step::kComplete;
            }
            break;
          }
          if (stack_.size() == kMaxDepth) return Step::kInvalid;
          stack_.push_back({{Reply::Type::kArray}, static_cast<std::size_t>(length)});
          stack_.back().array.elements.reserve(std::min(stack_.back().left, kReserved));
          break;
        }
        default:
          return Step::kInvalid;
      }
    }
  }

  void Count(std::size_t bytes) noexcept {
    size_ += bytes + kElementCost;
    if (size_ > limit_ + kElementCost) too_large_ = true;
  }

  // Puts an element where it belongs. Returns true if that completes a reply.
  bool Finish(Reply reply) {
    for (;;) {
      if (stack_.empty()) {
        done_ = std::move(reply);
        return true;
      }
      Level& top = stack_.back();
      if (too_large_) {
        top.array.elements.resize(std::min<std::size_t>(top.array.elements.size(), 1));
      } else {
        top.array.elements.push_back(std::move(reply));
      }
      if (--top.left > 0) return false;
      reply = std::move(top.array);
      stack_.pop_back();
    }
  }

  Reply Take() {
    size_ = 0;
    if (std::exchange(too_large_, false)) {
      done_ = {Reply::Type::kTooLarge, 0, {}, std::move(done_.elements)};
    }
    return std::exchange(done_, {});
  }

  // Keeps the bytes of a reply that is not complete yet.
  void Keep(std::string_view bytes, std::size_t before) {
    if (rest_.empty()) {
      rest_ = bytes;
    } else {
      rest_.erase(0, before - bytes.size());
      if (rest_.empty() && rest_.capacity() > kKeptBuffer) std::string().swap(rest_);
    }
  }

  static bool ParseInteger(std::string_view digits, long long& number) noexcept {
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const char* const end = digits.data() + digits.size();
    const auto [rest, failed] = std::from_chars(digits.data(), end, number);
    return failed == std::errc() && rest == end;
  }
  static bool ParseLength(std::string_view digits, long long& number) noexcept {
    return ParseInteger(digits, number) && number >= -1 && number <= kMaxLength;
  }

  std::size_t limit_;         // of bytes in a reply
  std::string rest_;          // the beginning of what is not complete
  std::vector<Level> stack_;  // the arrays that are not complete, from the outermost
  std::size_t size_ = 0;      // bytes of the reply so far
  bool too_large_ = false;    // its elements are not kept any more
  std::size_t skip_ = 0;      // bytes that belong to an element that is not kept
  Reply done_;
};

}  // namespace singleflight::redis::detail
