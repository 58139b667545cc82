// SPDX-License-Identifier: MIT
// error: fn returned a range that has keys of its own

#include <cstddef>
#include <map>
#include <singleflight/many.hpp>
#include <span>

struct Id {
  operator long long() const { return number; }
  bool operator==(const Id&) const = default;
  long long number;
};
struct Hash {
  std::size_t operator()(const Id&) const { return 0; }
};
struct Table {  // it cannot tell 2^32 + 1 from 1
  using mapped_type = int;
  using Rows = std::map<int, int>;
  Rows::const_iterator find(int key) const { return rows.find(key); }
  Rows::const_iterator end() const { return rows.end(); }
  Rows rows;
};

int main() {
  singleflight::Group<Id, int, Hash> group;
  singleflight::DoMany(group, {Id{1}}, [](std::span<const Id>) { return Table(); });
}
