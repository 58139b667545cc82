// SPDX-License-Identifier: MIT
// error: Metrics::Add takes statistics, or something whose GetStats() returns them

#include <singleflight/observe.hpp>

struct Sales {
  int orders = 0;
};

int main() {
  singleflight::Metrics metrics;
  metrics.Add("shop", Sales());
}
