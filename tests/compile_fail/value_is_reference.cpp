// SPDX-License-Identifier: MIT
// error: Value is a reference: a result outlives what it would refer to

#include <singleflight/group.hpp>

int main() { singleflight::Group<int, int&> group; }
