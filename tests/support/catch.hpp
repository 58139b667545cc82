// SPDX-License-Identifier: MIT
#pragma once

// Includes Catch2, version 3 or 2, because both are in use.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
