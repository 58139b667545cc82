// SPDX-License-Identifier: MIT
#pragma once

// All of singleflight that needs nothing but the standard library.

#include "async.hpp"
#include "coro.hpp"
#include "future.hpp"
#include "group.hpp"
#include "hash.hpp"
#include "many.hpp"
#include "options.hpp"
#include "read_through.hpp"
#include "result.hpp"
