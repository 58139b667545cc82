// SPDX-License-Identifier: MIT
// error: CoDo keeps a key that is a temporary, and this one cannot be moved: name it first

#include <mutex>
#include <singleflight/coro.hpp>

struct Id {
  operator int() const { return 1; }
  std::mutex mutex;
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::CoDo(group, Id(), [] { return 1; }));
}
