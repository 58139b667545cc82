// SPDX-License-Identifier: MIT

#include "memory.hpp"

#include <algorithm>
#include <sstream>

namespace interleave {

namespace {

constexpr std::size_t kWords = std::size_t{1} << 17;
constexpr std::uintptr_t kWordSize = 8;

const char* NameOf(Memory::Kind kind) {
  switch (kind) {
    case Memory::Kind::kRead:
      return "read";
    case Memory::Kind::kWrite:
      return "write";
    case Memory::Kind::kAtomic:
      return "atomic access";
    case Memory::Kind::kFree:
      return "end of the memory";
  }
  return "";
}

bool Races(Memory::Kind a, Memory::Kind b) {
  if (a == Memory::Kind::kRead && b == Memory::Kind::kRead) return false;
  return a != Memory::Kind::kAtomic || b != Memory::Kind::kAtomic;
}

}  // namespace

Memory::Memory() : words_(kWords) {}

Memory::Word& Memory::Find(std::uintptr_t address) {
  std::size_t i = (address / kWordSize * 0x9E3779B97F4A7C15u) >> 47;
  for (;;) {
    Word& word = words_[i % kWords];
    if (word.run != run_) {  // free
      word.run = run_;
      word.address = address;
      word.used = 0;
      return word;
    }
    if (word.address == address) return word;
    ++i;
  }
}

std::optional<std::string> Memory::Check(const Where& where, const void* address, std::size_t size,
                                         Kind kind) {
  std::optional<std::string> problem;
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t end = begin + size;
  for (std::uintptr_t at = begin / kWordSize * kWordSize; at < end; at += kWordSize) {
    std::uint8_t bytes = 0xFF;
    if (at < begin) bytes = static_cast<std::uint8_t>(bytes & (0xFF << (begin - at)));
    if (end - at < kWordSize) bytes = static_cast<std::uint8_t>(bytes & (0xFF >> (at + 8 - end)));
    Word& word = Find(at);
    Cell* same = nullptr;
    for (std::size_t i = 0; i < word.used; ++i) {
      Cell& cell = word.cells[i];
      if ((cell.bytes & bytes) == 0) continue;
      if (cell.thread == where.thread && cell.kind == kind && cell.bytes == bytes) same = &cell;
      const bool ordered = cell.thread == where.thread || cell.time <= where.clock[cell.thread];
      const bool freed = cell.kind == Kind::kFree;
      if ((!freed && ordered) || !Races(cell.kind, kind)) continue;
      std::ostringstream text;
      text << (freed ? "memory used after its end" : "data race") << ": thread " << where.thread
           << "'s " << NameOf(kind) << " of " << size << " bytes at " << address << " (code "
           << where.code << ") and thread " << int{cell.thread} << "'s " << NameOf(cell.kind)
           << " (code " << cell.code << ")";
      if (!problem) problem = text.str();
    }
    const Cell now = {where.clock[where.thread], static_cast<std::uint8_t>(where.thread), bytes,
                      kind, where.code};
    if (same != nullptr) {
      *same = now;
    } else if (word.used < word.cells.size()) {
      word.cells[word.used++] = now;
    } else {  // full: overwrite an access that this thread has seen, if there is one
      auto* const over = std::find_if(word.cells.begin(), word.cells.end(), [&](const Cell& cell) {
        return cell.kind != Kind::kFree && cell.time <= where.clock[cell.thread];
      });
      *(over != word.cells.end() ? over : word.cells.begin()) = now;
    }
  }
  return problem;
}

void Memory::Renew(const void* address, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  for (std::uintptr_t at = begin / kWordSize * kWordSize; at < begin + size; at += kWordSize) {
    Find(at).used = 0;
  }
}

}  // namespace interleave
