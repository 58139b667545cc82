// SPDX-License-Identifier: MIT
// error: OnRemoteLead must be callable as OnRemoteLead(key, const Tag&, const Tag&)

#include <singleflight/redis.hpp>
#include <string_view>

struct Tracer {
  int OnLead(std::string_view) { return 1; }
  void OnRemoteLead(std::string_view, int) {}
};
struct Traced : singleflight::GroupTraits {
  using Listener = Tracer;
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int, singleflight::redis::Codec<int>, Traced> group(client, "values");
  static_cast<void>(group.Do("key", [] { return 1; }));
}
