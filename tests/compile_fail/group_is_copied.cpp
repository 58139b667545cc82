// SPDX-License-Identifier: MIT
// says: keep a Group in a std::unique_ptr or a std::deque instead

#include <singleflight/group.hpp>

struct Service {
  singleflight::Group<int, int> users;
};

Service Copy(const Service& service) { return service; }
