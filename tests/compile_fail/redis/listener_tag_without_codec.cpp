// SPDX-License-Identifier: MIT
// error: the tag that OnLead returns has no Codec, so it cannot travel to other processes

#include <singleflight/redis.hpp>
#include <string_view>

struct Span {
  int number = 0;
};
struct Tracer {
  Span OnLead(std::string_view) { return {}; }
  void OnRemoteLead(std::string_view, const Span&, const Span&) {}
};
struct Traced : singleflight::GroupTraits {
  using Listener = Tracer;
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int, singleflight::redis::Codec<int>, Traced> group(client, "values");
  static_cast<void>(group.Do("key", [] { return 1; }));
}
