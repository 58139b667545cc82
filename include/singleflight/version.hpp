// SPDX-License-Identifier: MIT
#pragma once

// The version of these headers, for `#if` and for code. CMake and every package take it from here.
//
//   #if SINGLEFLIGHT_VERSION < 200  // older than 0.2.0
//   #error "This program needs singleflight 0.2"
//   #endif
//
// include/singleflight/README.md says, under "Versions", what may change from one to the next.

#include "detail/requirements.hpp"

#define SINGLEFLIGHT_VERSION_MAJOR 0
#define SINGLEFLIGHT_VERSION_MINOR 1
#define SINGLEFLIGHT_VERSION_PATCH 0
#define SINGLEFLIGHT_VERSION_STRING "0.1.0"

// 10203 is version 1.2.3.
#define SINGLEFLIGHT_VERSION                                               \
  (SINGLEFLIGHT_VERSION_MAJOR * 10000 + SINGLEFLIGHT_VERSION_MINOR * 100 + \
   SINGLEFLIGHT_VERSION_PATCH)

namespace singleflight {

// The same for code that sees no macros, as after an import of a module.
inline constexpr int kVersion = SINGLEFLIGHT_VERSION;
inline constexpr char kVersionString[] = SINGLEFLIGHT_VERSION_STRING;

}  // namespace singleflight
