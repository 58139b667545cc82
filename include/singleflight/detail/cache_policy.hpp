// SPDX-License-Identifier: MIT
#pragma once

// The decisions of a cache beside a group: until when a value is fresh, until when it may be served
// although it has expired, and whether it is to be refreshed now. They depend on no clock: whoever
// asks says what time it is. So one process decides by its own, and a fleet by its server's.

#include <cmath>
#include <concepts>
#include <optional>
#include <stdexcept>

#include "../timeout.hpp"
#include "../value_traits.hpp"
#include "cache_time.hpp"

namespace singleflight::detail {

// The times of one value, which are kept with it.
struct CacheTimes {
  CacheTime fresh_until = kNoEnd;
  CacheTime usable_until = kNoEnd;  // then it is of no use, not even as a stale value
  CacheTime load_time = 0;          // how long its load took
};

// kFresh: as good as new. kEarly: likewise, but whoever gets this answer should refresh it. kStale:
// it has expired, and is served while it is refreshed. kUseless: it has expired.
enum class Freshness : unsigned char { kFresh, kEarly, kStale, kUseless };

class CachePolicy {
 public:
  // `Options` are those of a ReadThrough.
  //
  // Errors: throws std::invalid_argument for times and factors that make no sense.
  template <class Options>
  explicit CachePolicy(const Options& options)
      : ttl_(LengthOr(options.ttl, kNoEnd)),
        not_found_ttl_(LengthOr(options.not_found_ttl, ttl_)),
        stale_for_(options.stale_for.count()),
        retry_after_(options.retry_after.count()),
        jitter_(options.jitter),
        early_refresh_(options.early_refresh) {
    const auto check = [](bool holds, const char* otherwise) {
      if (!holds) throw std::invalid_argument(otherwise);
    };
    check(ttl_ > 0, "singleflight: ttl is not positive: nothing can be cached");
    check(not_found_ttl_ > 0, "singleflight: not_found_ttl is not positive");
    check(stale_for_ >= 0, "singleflight: stale_for is negative");
    check(retry_after_ >= 0, "singleflight: retry_after is negative");
    check(!options.soft_timeout || options.soft_timeout->count() >= 0,
          "singleflight: soft_timeout is negative");
    check(!options.soft_timeout || stale_for_ > 0,
          "singleflight: soft_timeout has no effect without stale_for");
    check(jitter_ >= 0 && jitter_ < 1, "singleflight: jitter must be at least 0 and below 1");
    check(early_refresh_ >= 0 && std::isfinite(early_refresh_),
          "singleflight: early_refresh must be a number that is not negative");
  }

  // Whether the options ask for what only a cache can do that keeps times with its values.
  bool NeedsTimes() const noexcept {
    return ttl_ != kNoEnd || not_found_ttl_ != ttl_ || stale_for_ > 0 || jitter_ > 0 ||
           early_refresh_ > 0;
  }
  CacheTime RetryAfter() const noexcept { return retry_after_; }

  // Returns the times of a value that is put now. `own_ttl` is what its load asked for.
  // `random()` is in (0, 1], and is called only if there is jitter.
  template <class Random>
  CacheTimes TimesOf(CacheTime now, CacheTime load_time, bool is_not_found,
                     const std::optional<Duration>& own_ttl, Random&& random) const {
    CacheTime ttl = own_ttl ? own_ttl->count() : is_not_found ? not_found_ttl_ : ttl_;
    if (ttl <= 0) return {now, now, load_time};
    if (ttl == kNoEnd) return {kNoEnd, kNoEnd, load_time};
    if (jitter_ > 0) {
      const double shorter = static_cast<double>(ttl) * jitter_ * random();
      ttl -= static_cast<CacheTime>(shorter);
    }
    const CacheTime fresh_until = Later(now, ttl);
    return {fresh_until, Later(fresh_until, stale_for_), load_time};
  }

  // Says how good a value is. `now()` is called only if it may expire, and `random()`, which is in
  // (0, 1], only if it may be refreshed early.
  //
  // Early refresh is XFetch (Vattani et al., Optimal Probabilistic Cache Stampede Prevention, VLDB
  // 2015): the longer a load takes, the earlier, and the nearer the end, the likelier.
  template <class Now, class Random>
  Freshness FreshnessOf(const CacheTimes& times, Now&& now, Random&& random) const {
    if (times.fresh_until == kNoEnd) return Freshness::kFresh;
    const CacheTime moment = now();
    if (moment >= times.fresh_until) {
      return moment < times.usable_until ? Freshness::kStale : Freshness::kUseless;
    }
    const double scale = early_refresh_ * static_cast<double>(times.load_time);
    const double left = static_cast<double>(times.fresh_until) - static_cast<double>(moment);
    constexpr double kLargest = 40;  // -log of the smallest random number
    if (scale <= 0 || left > kLargest * scale) return Freshness::kFresh;
    return -std::log(random()) * scale >= left ? Freshness::kEarly : Freshness::kFresh;
  }

 private:
  static CacheTime LengthOr(const std::optional<Duration>& length, CacheTime otherwise) {
    return length ? length->count() : otherwise;
  }

  const CacheTime ttl_;
  const CacheTime not_found_ttl_;
  const CacheTime stale_for_;
  const CacheTime retry_after_;
  const double jitter_;
  const double early_refresh_;
};

// Whether a load's value is put at all. `Options` are those of a ReadThrough.
template <class Options, class Value>
bool IsKept(const Options& options, const Value& value) {
  return (options.cache_not_found || options.not_found_ttl || !singleflight::IsNotFound(value)) &&
         (!options.keep_if || options.keep_if(value));
}

}  // namespace singleflight::detail
