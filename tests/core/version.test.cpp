// SPDX-License-Identifier: MIT

// The version's macros and constants, which tests/consumers/versions.test.sh compares with every
// other place that has the version.

#include <string>

#include "support/catch.hpp"
#include "support/support.hpp"

#if SINGLEFLIGHT_VERSION < SINGLEFLIGHT_VERSION_MINOR || SINGLEFLIGHT_VERSION < 100
#error "SINGLEFLIGHT_VERSION cannot be compared in an #if"
#endif

TEST_CASE("Version: the number, its parts, the text and the constants agree") {
  const std::string text = std::to_string(SINGLEFLIGHT_VERSION_MAJOR) + '.' +
                           std::to_string(SINGLEFLIGHT_VERSION_MINOR) + '.' +
                           std::to_string(SINGLEFLIGHT_VERSION_PATCH);
  CHECK(text == SINGLEFLIGHT_VERSION_STRING);
  CHECK(text == singleflight::kVersionString);
  CHECK(SINGLEFLIGHT_VERSION / 10000 == SINGLEFLIGHT_VERSION_MAJOR);
  CHECK(SINGLEFLIGHT_VERSION / 100 % 100 == SINGLEFLIGHT_VERSION_MINOR);
  CHECK(SINGLEFLIGHT_VERSION % 100 == SINGLEFLIGHT_VERSION_PATCH);
  STATIC_REQUIRE(singleflight::kVersion == SINGLEFLIGHT_VERSION);
}
