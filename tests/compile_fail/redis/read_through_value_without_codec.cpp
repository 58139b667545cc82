// SPDX-License-Identifier: MIT
// error: a codec needs static functions Encode(const Value&)

#include <singleflight/redis_read_through.hpp>
#include <string>

struct NoCodec {};
using Pages = singleflight::redis::ReadThrough<std::string, NoCodec>;

int main() { static_cast<void>(sizeof(Pages)); }
