// SPDX-License-Identifier: MIT
// error: a codec needs static functions

#include <singleflight/redis.hpp>
#include <string>

struct OneWay {
  static std::string Encode(int number) { return std::to_string(number); }
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int, OneWay> numbers(client, "values");
}
