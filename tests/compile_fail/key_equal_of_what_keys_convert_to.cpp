// SPDX-License-Identifier: MIT
// error: KeyEqual compares another type than the Key, so different keys could be equal

#include <cstddef>
#include <singleflight/group.hpp>
#include <string>

struct Sku {
  operator bool() const { return !name.empty(); }
  operator const char*() const { return name.c_str(); }
  std::string name;
};
struct Hash {
  std::size_t operator()(const Sku& key) const { return key.name.size(); }
};
struct Equal {
  bool operator()(bool a, bool b) const { return a == b; }
};

int main() {
  singleflight::Group<Sku, int, Hash, Equal> group;
  static_cast<void>(group.Do(Sku{"ada"}, [] { return 1; }));
}
