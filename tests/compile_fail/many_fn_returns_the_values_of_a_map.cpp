// SPDX-License-Identifier: MIT
// error: fn returned a range that has keys of its own, as a set has, and is not a map

#include <map>
#include <ranges>
#include <singleflight/many.hpp>
#include <span>

// As std::views::values(map), which Clang 14 cannot compile.
struct Values : std::ranges::view_base {
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return at->second; }
    Iterator& operator++() { return ++at, *this; }
    Iterator operator++(int) { return {at++}; }
    bool operator==(const Iterator&) const = default;
    std::map<int, int>::iterator at;
  };
  Iterator begin() const { return {map->begin()}; }
  Iterator end() const { return {map->end()}; }
  const std::map<int, int>& base() const { return *map; }
  std::map<int, int>* map = nullptr;
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(
      singleflight::DoMany(group, {2, 1}, [](std::span<const int>) { return Values(); }));
}
