// SPDX-License-Identifier: MIT
#pragma once

// All of singleflight that needs nothing but the standard library.

#include "group.hpp"
#include "hash.hpp"
#include "options.hpp"
#include "result.hpp"
