// SPDX-License-Identifier: MIT
#pragma once

// A doubly linked, circular list whose links are members of its elements. Allocates nothing.

namespace singleflight::detail {

// Both an element's link and the list itself. A link that is on no list points at itself.
struct ListLink {
  ListLink* prev = this;
  ListLink* next = this;

  // Whether the list has no elements. Call it on the list itself.
  bool Empty() const noexcept { return next == this; }
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
