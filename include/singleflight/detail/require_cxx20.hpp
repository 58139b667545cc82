// SPDX-License-Identifier: MIT
#pragma once

// Included before anything that an older standard would not understand.

#if defined(_MSVC_LANG) ? _MSVC_LANG < 202002L : __cplusplus < 201709L  // 201709: g++ 10
#error "singleflight needs C++20: compile with -std=c++20"
#include "stop here: compile with -std=c++20"  // a missing file stops the compiler at once
#endif
