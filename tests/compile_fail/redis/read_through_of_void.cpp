// SPDX-License-Identifier: MIT
// error: Value is void: there is nothing to cache; use a Group

#include <singleflight/redis_read_through.hpp>

using Pages = singleflight::redis::ReadThrough<void>;

int main() { static_cast<void>(sizeof(Pages)); }
