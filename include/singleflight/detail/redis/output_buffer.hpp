// SPDX-License-Identifier: MIT
#pragma once

// OutputBuffer: the bytes that a connection has yet to write, and how many it has written.

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace singleflight::redis::detail {

class OutputBuffer {
 public:
  bool Empty() const noexcept { return begin_ == bytes_.size(); }
  std::string_view Front() const noexcept { return std::string_view(bytes_).substr(begin_); }

  // False: there is no memory for them, and all is as it was.
  [[nodiscard]] bool Append(std::string_view bytes) {
    try {
      bytes_ += bytes;
    } catch (const std::bad_alloc&) {
      return false;
    }
    appended_ += bytes.size();
    return true;
  }

  // Says that the first `size` bytes of Front() were written.
  void Consume(std::size_t size) {
    begin_ += size;
    written_ += size;
    if (Empty()) {
      begin_ = 0;
      bytes_.clear();
      if (bytes_.capacity() > kKeptCapacity) std::string().swap(bytes_);  // an assignment keeps it
    } else if (begin_ > kKeptCapacity && begin_ > bytes_.size() / 2) {
      bytes_.erase(0, std::exchange(begin_, 0));
    }
  }

  void Reset() noexcept {
    std::string().swap(bytes_);
    *this = {};
  }

  // Count the bytes since the beginning, or since Reset.
  std::uint64_t Appended() const noexcept { return appended_; }
  std::uint64_t Written() const noexcept { return written_; }

 private:
  static constexpr std::size_t kKeptCapacity = 1'048'576;

  std::string bytes_;
  std::size_t begin_ = 0;  // those before it were written
  std::uint64_t appended_ = 0;
  std::uint64_t written_ = 0;
};

}  // namespace singleflight::redis::detail
