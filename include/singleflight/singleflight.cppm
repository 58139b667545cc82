// SPDX-License-Identifier: MIT

// The module `singleflight`: what singleflight.hpp declares, by an import.
//
//   #include <string>
//   import singleflight;
//
//   singleflight::Group<std::string, User> users;
//
// The import gives the names below, and nothing of the standard library. The declarations are those
// of the headers, so one file may import and another include. Both may also stand in one file, so
// asio.hpp and redis.hpp work beside the import. An import brings no macros. For SINGLEFLIGHT_...
// include the header that defines them.
//
// module.cmake says how CMake builds this file, and which compilers can.

module;

#include <singleflight/singleflight.hpp>

export module singleflight;

// tests/headers/exports.test.sh checks that no public name is missing.
export namespace singleflight {

// async.hpp, caller.hpp, future.hpp
using singleflight::Caller;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::Future;
using singleflight::NewThread;
using singleflight::SharedFuture;

// batcher.hpp, batcher_options.hpp
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;

// coro.hpp
using singleflight::CoDo;
using singleflight::ResumeInline;

// errors.hpp, timeout.hpp, value_traits.hpp
using singleflight::Category;
using singleflight::Duration;
using singleflight::IsFailure;
using singleflight::IsNotFound;
using singleflight::Timeout;
using singleflight::ValueTraits;

// call_info.hpp, group.hpp, hash.hpp, options.hpp, result.hpp
using singleflight::CallInfo;
using singleflight::CallOptions;
using singleflight::DefaultEqual;
using singleflight::DefaultHash;
using singleflight::Group;
using singleflight::GroupOptions;
using singleflight::GroupTraits;
using singleflight::OnFailure;
using singleflight::Result;
using singleflight::Role;
using singleflight::Stats;

// latency_histogram.hpp, lead.hpp, listener.hpp, waiter.hpp
using singleflight::Landing;
using singleflight::LatencyHistogram;
using singleflight::Lead;
using singleflight::LeaveReason;
using singleflight::NoListener;
using singleflight::TimedLanding;
using singleflight::Waiter;

// lru_cache.hpp, lru_cache_options.hpp
using singleflight::LruCache;
using singleflight::LruCacheOptions;
using singleflight::LruCacheStats;
using singleflight::LruCacheTraits;

// many.hpp, key_result.hpp
using singleflight::CoDoMany;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::KeyResult;

// observe.hpp, and the headers of what is counted
using singleflight::ForEachStat;
using singleflight::kJsonType;
using singleflight::kPrometheusType;
using singleflight::Labels;
using singleflight::LatencyListener;
using singleflight::Metrics;
using singleflight::WaitListener;
using singleflight::WriteJson;
using singleflight::WritePrometheus;

// read_through.hpp, read_through_options.hpp
using singleflight::Cached;
using singleflight::CachedOptions;
using singleflight::CacheEntry;
using singleflight::CacheFor;
using singleflight::DefaultCache;
using singleflight::ReadThrough;
using singleflight::ReadThroughOptions;
using singleflight::ReadThroughStats;
using singleflight::ReadThroughTraits;

// stop_token.hpp, version.hpp
using singleflight::kNoStopState;
using singleflight::kVersion;
using singleflight::kVersionString;
using singleflight::NoStopState;
using singleflight::StopCallback;
using singleflight::StopSource;
using singleflight::StopToken;

}  // namespace singleflight
