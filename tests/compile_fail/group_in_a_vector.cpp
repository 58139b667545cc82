// SPDX-License-Identifier: MIT
// says: keep a Group in a std::unique_ptr or a std::deque instead

#include <singleflight/group.hpp>
#include <vector>

void Use(std::vector<singleflight::Group<int, int>>& groups) { groups.emplace_back(); }
