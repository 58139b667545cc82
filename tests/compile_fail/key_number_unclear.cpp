// SPDX-License-Identifier: MIT
// error: it is not clear which number the Key's constructor would get

#include <concepts>
#include <initializer_list>
#include <singleflight/group.hpp>

struct Numbers {
  Numbers(std::initializer_list<int>) {}
  Numbers(std::initializer_list<short>) {}
  template <std::integral Number>
  Numbers(Number) {}
  bool operator==(const Numbers&) const = default;
};
struct NumbersHash {
  std::size_t operator()(const Numbers&) const { return 0; }
};

int main() {
  singleflight::Group<Numbers, int, NumbersHash> group;
  static_cast<void>(group.Do(1L, [] { return 1; }));
}
