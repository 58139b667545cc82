// SPDX-License-Identifier: MIT
// error: fn returned a range that has keys of its own

#include <map>
#include <singleflight/many.hpp>
#include <span>

// find(257) would look for 1.
struct Table {
  using mapped_type = int;
  using Rows = std::map<unsigned char, int>;
  Rows::const_iterator find(unsigned char key) const { return rows.find(key); }
  Rows::const_iterator end() const { return rows.end(); }
  Rows rows;
};

int main() {
  singleflight::Group<int, int> group;
  singleflight::DoMany(group, {257}, [](std::span<const int>) { return Table(); });
}
