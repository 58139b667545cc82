// SPDX-License-Identifier: MIT
#pragma once

// Included before anything that an older standard would not understand.

// A missing file stops the compiler at once.
#if defined(_MSVC_LANG) ? _MSVC_LANG < 202002L : __cplusplus < 201709L  // 201709: g++ 10
#error "singleflight needs C++20: compile with -std=c++20"
#include "stop here: compile with -std=c++20"
#endif
#if !defined(__cpp_exceptions)
#error "singleflight needs exceptions: compile without -fno-exceptions"
#include "stop here: compile without -fno-exceptions"
#endif
