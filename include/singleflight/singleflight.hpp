// SPDX-License-Identifier: MIT
#pragma once

// Includes every header that needs only the standard library.

#include "async.hpp"
#include "batcher.hpp"
#include "batcher_options.hpp"
#include "caller.hpp"
#include "coro.hpp"
#include "errors.hpp"
#include "future.hpp"
#include "group.hpp"
#include "hash.hpp"
#include "key_result.hpp"
#include "latency_histogram.hpp"
#include "lead.hpp"
#include "lru_cache.hpp"
#include "lru_cache_options.hpp"
#include "many.hpp"
#include "options.hpp"
#include "read_through.hpp"
#include "read_through_options.hpp"
#include "result.hpp"
#include "stop_token.hpp"
#include "timeout.hpp"
#include "value_traits.hpp"
#include "version.hpp"
#include "waiter.hpp"
