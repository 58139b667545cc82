// SPDX-License-Identifier: MIT
#pragma once

// Includes Catch2, version 3 or 2, because both are in use. It prints what is in a std::optional.

#define CATCH_CONFIG_ENABLE_OPTIONAL_STRINGMAKER
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
