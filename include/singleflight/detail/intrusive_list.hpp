// SPDX-License-Identifier: MIT
#pragma once

namespace singleflight::detail {

// A place on a circular list whose links are in its members; the list itself is one such place.
struct ListLink {
  ListLink* prev = this;
  ListLink* next = this;

  bool Alone() const noexcept { return next == this; }
  void InsertBefore(ListLink& other) noexcept {
    prev = other.prev;
    next = &other;
    prev->next = next->prev = this;
  }
  void Unlink() noexcept {
    prev->next = next;
    next->prev = prev;
    prev = next = this;
  }
};

}  // namespace singleflight::detail
