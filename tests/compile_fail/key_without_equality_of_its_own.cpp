// SPDX-License-Identifier: MIT
// error: the Key has no operator== of its own, so std::equal_to compares what keys convert to

#include <cstddef>
#include <singleflight/group.hpp>
#include <string>

struct Sku {
  operator bool() const { return !name.empty(); }
  std::string name;
};
struct Hash {
  std::size_t operator()(const Sku& key) const { return key.name.size(); }
};

int main() {
  singleflight::Group<Sku, int, Hash> group;
  static_cast<void>(group.Do(Sku{"ada"}, [] { return 1; }));
}
