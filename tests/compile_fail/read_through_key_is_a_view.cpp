// SPDX-License-Identifier: MIT
// error: Key is a view or a pointer to characters, and the cache would keep it when they are gone

#include <singleflight/read_through.hpp>
#include <string_view>

int main() { singleflight::ReadThrough<std::string_view, int> cache; }
