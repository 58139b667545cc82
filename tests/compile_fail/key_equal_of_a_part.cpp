// SPDX-License-Identifier: MIT
// error: KeyEqual compares another type than the Key, so different keys could be equal

#include <cstddef>
#include <singleflight/group.hpp>

struct Tenant {
  int id;
};
struct User : Tenant {
  User(int tenant, int its_number) : Tenant{tenant}, number(its_number) {}
  int number;
};
struct Hash {
  std::size_t operator()(const User&) const { return 0; }
};
struct Equal {
  bool operator()(const Tenant& a, const Tenant& b) const { return a.id == b.id; }
};

int main() {
  singleflight::Group<User, int, Hash, Equal> group;
  static_cast<void>(group.Do(User(1, 2), [] { return 1; }));
}
