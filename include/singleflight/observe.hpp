// SPDX-License-Identifier: MIT
#pragma once

// Metrics: the statistics of any number of groups and caches, as text for Prometheus or as JSON.
//
//   std::string Scrape() {  // what GET /metrics returns, as kPrometheusType
//     singleflight::Metrics metrics;
//     metrics.Add("pages", pages).Add("users", users);  // groups, caches, batchers
//     return singleflight::WritePrometheus(metrics);
//   }
//
// One family of metrics has a series for each group, and is described once:
//
//   # HELP singleflight_executions_total Calls begun.
//   # TYPE singleflight_executions_total counter
//   singleflight_executions_total{group="pages"} 3170
//   singleflight_executions_total{group="users"} 12
//
// WriteJson has the same names, without the prefix and `_total`:
//
//   [{"labels": {"group": "pages"}, "stats": {"executions": 3170, ...}},
//   {"labels": {"group": "users"}, "stats": {"executions": 12, ...}}]
//
// Metrics is not a registry: it holds the numbers that were read when they were added. Make one for
// each request.
//
// Statistics of your own can be added, too. Declare a function in their namespace:
//
//   template <class Visitor>
//   void ForEachStat(const shop::Sales& sales, Visitor&& visit) {
//     visit.Counter("orders", "Orders taken.", sales.orders);
//     visit.Gauge("carts", "Carts that are not paid for.", sales.carts);
//     visit.Times("payment_duration", "How long payments took.", sales.payment_times);
//   }
//
// The library has such functions for its own statistics. Call them with a visitor of your own to
// send the numbers elsewhere. It needs the functions of Metrics::Visitor.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "detail/observe/metrics_writer.hpp"
#include "detail/observe/text.hpp"
#include "latency_histogram.hpp"
#include "listener.hpp"
#include "timeout.hpp"

namespace singleflight {

// The media types of what the functions below return.
inline constexpr const char* kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";
inline constexpr const char* kJsonType = "application/json";

// Labels tell a series from the others of its family. A name alone is the label `group`:
//
//   metrics.Add("pages", pages);
//   metrics.Add({{"group", "pages"}, {"tenant", tenant}}, pages_of_tenant);
//
// A label whose value is empty is left out: Prometheus does not tell it from one that is missing.
//
// **Warning:** Prometheus keeps every series that it has ever seen. So do not make a label of
// something that has any number of values, such as a key. Use the names of groups.
//
// A value may be any text. Each byte that is not valid UTF-8, and each NUL, is replaced by U+FFFD.
//
// Errors: std::invalid_argument for a name that comes twice, that Prometheus does not allow, or
//   that means something to it: `le`, `quantile`, and those that begin with `__`.
class Labels {
 public:
  using Pair = std::pair<std::string, std::string>;  // a name and a value

  Labels() = default;
  template <std::convertible_to<std::string_view> Name>
  Labels(const Name& group) : Labels({{"group", group}}) {}
  Labels(std::initializer_list<std::pair<std::string_view, std::string_view>> labels) {
    for (const auto& [name, value] : labels) Set(name, value);
    DropEmpty();
  }

  // Returns these labels and one more.
  Labels With(std::string_view name, std::string_view value) const {
    Labels labels = *this;
    labels.Set(name, value);
    labels.DropEmpty();
    return labels;
  }

  // Returns all, in the order of their names.
  const std::vector<Pair>& All() const noexcept { return all_; }

  friend bool operator==(const Labels& one, const Labels& other) { return one.all_ == other.all_; }
  friend bool operator<(const Labels& one, const Labels& other) { return one.all_ < other.all_; }

 private:
  void Set(std::string_view name, std::string_view value) {
    if (!detail::IsLabelName(name)) {
      throw std::invalid_argument("singleflight: '" + std::string(name) +
                                  "' cannot be the name of a label");
    }
    Pair pair(name, detail::ValidText(value));
    const auto at = std::ranges::lower_bound(all_, pair.first, {}, &Pair::first);
    if (at != all_.end() && at->first == name) {
      throw std::invalid_argument("singleflight: there are two labels '" + std::string(name) + "'");
    }
    all_.insert(at, std::move(pair));
  }
  void DropEmpty() {
    std::erase_if(all_, [](const Pair& label) { return label.second.empty(); });
  }

  std::vector<Pair> all_;  // sorted by their names, of which none comes twice
};

// Gathers statistics, and knows which family each of them belongs to.
//
// Thread: as for a standard container. What is added may be in use meanwhile, if its GetStats
//   allows that, and a histogram always may.
// Lifetime: Metrics refer to nothing that was added.
// Cost: an allocation for each number, and 5 KiB for each histogram.
class Metrics {
 public:
  class Visitor;

  Metrics() : Metrics("singleflight") {}
  // `prefix` begins the name of each family. It is written as the names that are visited: see
  // Visitor.
  explicit Metrics(std::string_view prefix) : prefix_(prefix) { Check(prefix); }

  // Adds the statistics of `source`. That is something for which ForEachStat is declared: Stats,
  // ReadThroughStats, LruCacheStats, BatcherStats, those of redis.hpp, a redis::Client, or your
  // own. Or it has a function GetStats, which returns such statistics: a Group, a ReadThrough, an
  // LruCache, a Batcher. If it has a function LoadTimes, too, that histogram is added as
  // `load_duration_seconds`. If it has a function GetListener, what that returns is added, too, if
  // it is a LatencyListener or something else for which ForEachStat is declared.
  //
  // Numbers that are added again under the same labels are summed up. So parts that have a group
  // each can be shown as one. Do not add a cache and its group under one name: the cache has its
  // group's counts.
  //
  // Errors: std::invalid_argument if ForEachStat gives two kinds of statistics one name, or a name
  //   that cannot be one. What was visited before stays added.
  template <class Source>
  Metrics& Add(const Labels& labels, const Source& source);

  // Adds one histogram, as Visitor::Times does.
  Metrics& Add(const Labels& labels, std::string_view name, std::string_view help,
               const LatencyHistogram& times);

 private:
  template <class>
  friend struct detail::MetricsWriter;

  enum class Kind : unsigned char { kCounter, kGauge, kSecondsGauge, kTimes, kCounts };
  struct Family {
    std::string name;  // as in JSON
    std::string help;
    Kind kind;
  };
  struct Series {  // each of its metrics under the number of its family
    std::map<std::size_t, std::uint64_t> numbers;
    std::map<std::size_t, LatencyHistogram> times;  // copies, in which nothing is recorded
  };

  static void Check(std::string_view name) {
    if (detail::IsMetricName(name)) return;
    throw std::invalid_argument("singleflight: '" + std::string(name) +
                                "' cannot be the name of a metric");
  }
  // Returns the number of a family.
  std::size_t FamilyOf(std::string_view name, const char* unit, Kind kind, std::string_view help) {
    Check(name);
    std::string full_name = std::string(name) + unit;
    const auto at = std::find_if(families_.begin(), families_.end(),
                                 [&](const Family& family) { return family.name == full_name; });
    if (at == families_.end()) {
      families_.push_back({std::move(full_name), detail::ValidText(help), kind});
      return families_.size() - 1;
    }
    if (at->kind != kind) {
      throw std::invalid_argument("singleflight: '" + full_name + "' is a metric of another kind");
    }
    return static_cast<std::size_t>(at - families_.begin());
  }

  std::string prefix_;
  std::vector<Family> families_;  // in the order in which they were first added
  std::map<Labels, Series> series_;
};

// A ForEachStat is called with a Visitor, and gives it each number with a name and a help, which is
// one sentence. A name is written like `load_duration`: lower case letters, digits and single
// underscores. The prefix, the unit and `_total` are added to it.
//
// Lifetime: use it only during the call.
class Metrics::Visitor {
 public:
  // Adds a number that only grows.
  template <std::unsigned_integral Number>
  void Counter(std::string_view name, std::string_view help, Number count) const {
    Sum(metrics_.FamilyOf(name, "", Kind::kCounter, help), count);
  }
  // Adds a number that grows and shrinks.
  template <std::unsigned_integral Number>
  void Gauge(std::string_view name, std::string_view help, Number number) const {
    Sum(metrics_.FamilyOf(name, "", Kind::kGauge, help), number);
  }
  // Adds a length of time, or a moment as the time since 1970. A negative one counts as zero. If
  // one is added again, the longer one stays. The name gets the unit `_seconds`.
  void Gauge(std::string_view name, std::string_view help, Duration length) const {
    const auto nanoseconds = (std::max)(length.count(), std::chrono::nanoseconds::rep{0});
    const std::size_t family = metrics_.FamilyOf(name, "_seconds", Kind::kSecondsGauge, help);
    std::uint64_t& longest = SeriesOfLabels().numbers[family];
    longest = (std::max)(longest, static_cast<std::uint64_t>(nanoseconds));
  }
  // Adds a histogram. The name gets the unit `_seconds`. Prometheus gets a bucket for each doubling
  // from a microsecond to a minute. Their counts are exact, because `le` is the longest time, in
  // whole nanoseconds, that a bucket counts. JSON gets quantiles.
  void Times(std::string_view name, std::string_view help, const LatencyHistogram& times) const {
    const std::size_t family = metrics_.FamilyOf(name, "_seconds", Kind::kTimes, help);
    SeriesOfLabels().times[family].Add(times);
  }

  // Adds a histogram of counts, in which one stands for a nanosecond: Record(nanoseconds(count)).
  // Prometheus gets a bucket for each doubling up to a million.
  void Counts(std::string_view name, std::string_view help, const LatencyHistogram& counts) const {
    const std::size_t family = metrics_.FamilyOf(name, "", Kind::kCounts, help);
    SeriesOfLabels().times[family].Add(counts);
  }

  // Returns a visitor that adds to the series which has one more label.
  Visitor With(std::string_view label, std::string_view value) const {
    return Visitor(metrics_, labels_.With(label, value));
  }

 private:
  friend class Metrics;

  Visitor(Metrics& metrics, Labels labels) : metrics_(metrics), labels_(std::move(labels)) {}

  Series& SeriesOfLabels() const { return metrics_.series_[labels_]; }
  void Sum(std::size_t family, std::uint64_t number) const {
    SeriesOfLabels().numbers[family] += number;
  }

  Metrics& metrics_;
  Labels labels_;
};

namespace detail {

template <class Source>
concept HasStats = requires(const Source& source, const Metrics::Visitor& visit) {
  ForEachStat(source, visit);
};
template <class Source>
concept GetsStats = requires(const Source& source) {
  { source.GetStats() } -> HasStats;
};

}  // namespace detail

template <class Source>
Metrics& Metrics::Add(const Labels& labels, const Source& source) {
  static_assert(detail::HasStats<Source> || detail::GetsStats<Source>,
                "Metrics::Add takes statistics, or something whose GetStats() returns them: for a "
                "type of your own, declare ForEachStat(const Type&, Visitor&&) in its namespace");
  const Visitor visit(*this, labels);
  if constexpr (detail::HasStats<Source>) {
    ForEachStat(source, visit);
  } else if constexpr (detail::GetsStats<Source>) {
    ForEachStat(source.GetStats(), visit);
    if constexpr (requires {
                    { source.GetListener() } -> detail::HasStats;
                  }) {
      ForEachStat(source.GetListener(), visit);
    }
    if constexpr (requires { visit.Times("", "", source.LoadTimes()); }) {
      visit.Times("load_duration", "How long loads took, failed ones included.",
                  source.LoadTimes());
    }
  }
  return *this;
}

inline Metrics& Metrics::Add(const Labels& labels, std::string_view name, std::string_view help,
                             const LatencyHistogram& times) {
  Visitor(*this, labels).Times(name, help, times);
  return *this;
}

// LatencyListener is a listener for the traits of a group. It records how long calls took, and how
// many callers each had when it landed. Metrics::Add(labels, group) adds that, too:
//
//   struct Measured : singleflight::GroupTraits {
//     using Listener = singleflight::LatencyListener;
//   };
//
// A listener of yours may derive from it, and add hooks of its own.
//
// Thread: every member may be called on any thread at any time.
// Cost: four relaxed additions for each call, the clock that the group reads twice, and 15 KiB.
class LatencyListener {
 public:
  template <class Key, class Tag>
  void OnLand(const Key& key, const Tag&, const TimedLanding& landing) noexcept {
    OnLand(key, landing);
  }
  template <class Key>
  void OnLand(const Key&, const TimedLanding& landing) noexcept {
    (landing.failed ? failed_ : succeeded_).Record(landing.took);
    callers_.Record(std::chrono::nanoseconds(landing.callers));
  }

  // How long the calls took that landed with a value, or with an exception or a failure.
  const LatencyHistogram& TimesOfSuccess() const noexcept { return succeeded_; }
  const LatencyHistogram& TimesOfFailure() const noexcept { return failed_; }
  // How many callers the calls had, of which one stands for a nanosecond.
  const LatencyHistogram& CallersPerCall() const noexcept { return callers_; }

 private:
  LatencyHistogram succeeded_, failed_, callers_;
};

template <class Visitor>
void ForEachStat(const LatencyListener& listener, Visitor&& visit) {
  constexpr const char* kName = "call_duration";
  constexpr const char* kHelp = "How long calls took.";
  visit.With("outcome", "success").Times(kName, kHelp, listener.TimesOfSuccess());
  visit.With("outcome", "failure").Times(kName, kHelp, listener.TimesOfFailure());
  visit.Counts("callers_per_call", "Callers of a call when it landed.", listener.CallersPerCall());
}

// WaitListener also records how long followers waited, from when they joined until their call had
// landed.
//
// No hook says which of them have left before, so those that came first are taken for those. If the
// leader has left, one follower too few is recorded.
//
// Cost: beside that of LatencyListener, an allocation for each call, some for its followers, a look
//   at the clock for each of them, and 5 KiB.
class WaitListener : public LatencyListener {
 public:
  // What a call carries: when its followers joined.
  class Joined {
    friend class WaitListener;
    std::mutex mutex_;
    // Guarded by mutex_.
    std::vector<std::chrono::steady_clock::time_point> times_;
    bool landed_ = false;
  };
  using Tag = std::shared_ptr<Joined>;  // null if there was no memory for it

  template <class Key>
  Tag OnLead(const Key&) {
    return std::make_shared<Joined>();
  }
  template <class Key>
  void OnFollow(const Key&, const Tag& call) {
    if (call == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(call->mutex_);
    if (call->landed_) {
      waits_.Record({});  // told so late, because its thread had to wait for a processor
    } else {
      call->times_.push_back(now);
    }
  }
  template <class Key>
  void OnLand(const Key& key, const Tag& call, const TimedLanding& landing) {
    LatencyListener::OnLand(key, landing);
    if (call == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(call->mutex_);
    call->landed_ = true;
    std::size_t stayed = landing.callers > 0 ? landing.callers - 1 : 0;
    for (; stayed > 0 && !call->times_.empty(); --stayed, call->times_.pop_back()) {
      waits_.Record(now - call->times_.back());
    }
  }

  const LatencyHistogram& WaitTimes() const noexcept { return waits_; }

 private:
  LatencyHistogram waits_;
};

template <class Visitor>
void ForEachStat(const WaitListener& listener, Visitor&& visit) {
  ForEachStat(static_cast<const LatencyListener&>(listener), visit);
  visit.Times("wait_duration", "How long followers waited for their call.", listener.WaitTimes());
}

// Returns version 0.0.4 of Prometheus' text format, with the families in the order in which they
// were first added. The sum of a histogram is exact, unless something was recorded while it was
// added. Even then it is a sum that the counts allow, and `_count` is the count of `+Inf`.
inline std::string WritePrometheus(const Metrics& metrics) {
  return detail::MetricsWriter<Metrics>::Prometheus(metrics);
}

// Returns a JSON array with an object for each set of labels. Times are in seconds. A histogram has
// `count`, `sum`, and as its Quantile returns them `p50`, `p90`, `p99` and `p999`. Numbers are
// written in full, also those that a reader whose numbers are doubles would round.
inline std::string WriteJson(const Metrics& metrics) {
  return detail::MetricsWriter<Metrics>::Json(metrics);
}

}  // namespace singleflight
