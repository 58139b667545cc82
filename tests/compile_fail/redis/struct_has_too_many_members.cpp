// SPDX-License-Identifier: MIT
// error: CopyBytes cannot see the members of this struct

#include <singleflight/redis_codec.hpp>

struct Value {
  int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}
