// SPDX-License-Identifier: MIT
// error: Value must be void or a plain object type: not const, an array or a function

#include <singleflight/group.hpp>

int main() { singleflight::Group<int, const int> group; }
