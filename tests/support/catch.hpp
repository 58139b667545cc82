// SPDX-License-Identifier: MIT
#pragma once

// Catch2, version 3 or 2: both are in use.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
