// SPDX-License-Identifier: MIT
// error: Value is void: there is nothing to cache

#include <singleflight/read_through.hpp>

struct Cache {};

int main() { singleflight::ReadThrough<int, void, Cache> numbers{Cache()}; }
