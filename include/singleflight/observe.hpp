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
// WriteJson has the same names, without what Prometheus wants before and behind them:
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
// The library has such functions for its own statistics, which you may call with a visitor of your
// own, to send them elsewhere.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "detail/observe/text.hpp"
#include "detail/observe/times_view.hpp"
#include "latency_histogram.hpp"
#include "timeout.hpp"

namespace singleflight {

namespace detail {
struct MetricsWriter;
}  // namespace detail

// The media types of what the functions below return.
inline constexpr const char* kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";
inline constexpr const char* kJsonType = "application/json";

// What tells a series from the others of its family. A name alone is the label `group`:
//
//   metrics.Add("pages", pages);
//   metrics.Add({{"group", "pages"}, {"tenant", tenant}}, pages_of_tenant);
//
// A label whose value is empty is left out: Prometheus does not tell it from one that is missing.
//
// **Warning:** Prometheus keeps every series that it has ever seen. Never make a label of a key.
//
// Errors: std::invalid_argument for a name that Prometheus does not allow, that begins with `__`,
//   that is `le` or `quantile`, or that comes twice. A value may be any text: what is not valid
//   UTF-8, and each NUL, is replaced by U+FFFD.
class Labels {
 public:
  using Pair = std::pair<std::string, std::string>;  // a name and a value

  Labels() = default;
  template <std::convertible_to<std::string_view> Name>
  Labels(const Name& group) : Labels() {
    Set("group", group);
  }
  Labels(std::initializer_list<std::pair<std::string_view, std::string_view>> labels) {
    for (const auto& [name, value] : labels) Set(name, value);
  }

  // Returns these labels and one more.
  Labels With(std::string_view name, std::string_view value) const {
    Labels labels = *this;
    labels.Set(name, value);
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
    if (value.empty()) return;
    Pair pair(name, detail::ValidText(value));
    const auto at = std::lower_bound(
        all_.begin(), all_.end(), pair,
        [](const Pair& one, const Pair& other) { return one.first < other.first; });
    if (at != all_.end() && at->first == name) {
      throw std::invalid_argument("singleflight: there are two labels '" + std::string(name) + "'");
    }
    all_.insert(at, std::move(pair));
  }

  std::vector<Pair> all_;  // sorted by their names, of which none comes twice
};

// Thread: as for a standard container.
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
  // `load_duration_seconds`.
  //
  // What is added again under the same labels is summed up. So parts that have a group each can be
  // shown as one. Do not add a cache and its group under one name: a cache has its group's counts.
  //
  // Errors: std::invalid_argument if ForEachStat gives two kinds of statistics one name, or a name
  //   that cannot be one. What was visited before stays added.
  template <class Source>
  Metrics& Add(const Labels& labels, const Source& source);

  // Adds one histogram, as Visitor::Times does.
  Metrics& Add(const Labels& labels, std::string_view name, std::string_view help,
               const LatencyHistogram& times);

 private:
  friend struct detail::MetricsWriter;

  enum class Kind : unsigned char { kCounter, kGauge, kSecondsGauge, kTimes };
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

// What a ForEachStat is called with. It takes names as `load_duration` is one: lower case letters,
// digits and single underscores. The prefix, the unit and `_total` are added to them. A help is one
// sentence.
class Metrics::Visitor {
 public:
  // What only grows.
  template <std::unsigned_integral Number>
  void Counter(std::string_view name, std::string_view help, Number count) const {
    Sum(metrics_.FamilyOf(name, "", Kind::kCounter, help), count);
  }
  // What grows and shrinks.
  template <std::unsigned_integral Number>
  void Gauge(std::string_view name, std::string_view help, Number number) const {
    Sum(metrics_.FamilyOf(name, "", Kind::kGauge, help), number);
  }
  // The same for a length of time, or for a time since 1970. What is negative counts as zero. If
  // one is added again, the longer one stays. Adds `_seconds` to the name.
  void Gauge(std::string_view name, std::string_view help, Duration length) const {
    const auto nanoseconds = (std::max)(length.count(), std::chrono::nanoseconds::rep{0});
    const std::size_t family = metrics_.FamilyOf(name, "_seconds", Kind::kSecondsGauge, help);
    std::uint64_t& longest = SeriesOfLabels().numbers[family];
    longest = (std::max)(longest, static_cast<std::uint64_t>(nanoseconds));
  }
  // Adds `_seconds` to the name. Prometheus gets a bucket for each doubling from a microsecond to a
  // minute, whose counts are exact. JSON gets quantiles.
  void Times(std::string_view name, std::string_view help, const LatencyHistogram& times) const {
    SeriesOfLabels().times[metrics_.FamilyOf(name, "_seconds", Kind::kTimes, help)].Add(times);
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

namespace detail {

struct MetricsWriter {
  using Kind = Metrics::Kind;

  static void AppendValue(std::string& text, Kind kind, std::uint64_t number) {
    kind == Kind::kSecondsGauge ? AppendSeconds(text, number) : AppendNumber(text, number);
  }

  // Appends the name of a series and a space.
  static void AppendSeries(std::string& text, std::string_view name, const Labels& labels,
                           std::string_view longest = {}) {
    text += name;
    char separator = '{';
    const auto append = [&](std::string_view label, std::string_view value) {
      text += std::exchange(separator, ',');
      text.append(label).append("=\"");
      AppendEscaped(text, value, "\\\"");
      text += '"';
    };
    for (const auto& [label, value] : labels.All()) append(label, value);
    if (!longest.empty()) append("le", longest);
    text += separator == '{' ? " " : "} ";
  }

  static void AppendTimes(std::string& text, const std::string& name, const Labels& labels,
                          const TimesView& times) {
    const std::string bucket = name + "_bucket";
    times.ForEachBorder([&](std::uint64_t longest, std::uint64_t count) {
      std::string seconds;
      AppendSeconds(seconds, longest);
      AppendSeries(text, bucket, labels, seconds);
      AppendNumber(text, count);
      text += '\n';
    });
    AppendSeries(text, bucket, labels, "+Inf");
    AppendNumber(text, times.Count());
    text += '\n';
    AppendSeries(text, name + "_sum", labels);
    AppendSeconds(text, times.SumInNanoseconds());
    text += '\n';
    AppendSeries(text, name + "_count", labels);
    AppendNumber(text, times.Count());
    text += '\n';
  }

  static std::string Prometheus(const Metrics& metrics) {
    std::string text;
    for (std::size_t i = 0; i < metrics.families_.size(); ++i) {
      const auto& [its_name, help, kind] = metrics.families_[i];
      const bool is_counter = kind == Kind::kCounter;
      const std::string name = metrics.prefix_ + '_' + its_name + (is_counter ? "_total" : "");
      text.append("# HELP ").append(name) += ' ';
      AppendEscaped(text, help, "\\");
      text.append("\n# TYPE ").append(name) += kind == Kind::kTimes ? " histogram\n"
                                               : is_counter         ? " counter\n"
                                                                    : " gauge\n";
      for (const auto& [labels, series] : metrics.series_) {
        if (const auto at = series.times.find(i); at != series.times.end()) {
          AppendTimes(text, name, labels, TimesView(at->second));
        } else if (const auto number = series.numbers.find(i); number != series.numbers.end()) {
          AppendSeries(text, name, labels);
          AppendValue(text, kind, number->second);
          text += '\n';
        }
      }
    }
    return text;
  }

  static void AppendJsonTimes(std::string& text, const TimesView& times) {
    text += "{\"count\": ";
    AppendNumber(text, times.Count());
    text += ", \"sum\": ";
    AppendSeconds(text, times.SumInNanoseconds());
    constexpr std::pair<const char*, double> kQuantiles[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    for (const auto& [name, part] : kQuantiles) {
      text.append(", \"").append(name).append("\": ");
      AppendSeconds(text, times.QuantileInNanoseconds(part));
    }
    text += '}';
  }

  static std::string Json(const Metrics& metrics) {
    std::string text = "[";
    const char* separator = "";
    for (const auto& [labels, series] : metrics.series_) {
      text.append(std::exchange(separator, ",\n")).append("{\"labels\": {");
      const char* comma = "";
      for (const auto& [label, value] : labels.All()) {
        AppendJsonString(text.append(std::exchange(comma, ", ")), label);
        AppendJsonString(text.append(": "), value);
      }
      text += "}, \"stats\": {";
      comma = "";
      for (std::size_t i = 0; i < metrics.families_.size(); ++i) {
        const auto number = series.numbers.find(i);
        const auto times = series.times.find(i);
        if (number == series.numbers.end() && times == series.times.end()) continue;
        AppendJsonString(text.append(std::exchange(comma, ", ")), metrics.families_[i].name);
        text += ": ";
        if (times != series.times.end()) {
          AppendJsonTimes(text, TimesView(times->second));
        } else {
          AppendValue(text, metrics.families_[i].kind, number->second);
        }
      }
      text += "}}";
    }
    return text += "]\n";
  }
};

}  // namespace detail

// Returns version 0.0.4 of Prometheus' text format, with the families in the order in which they
// were first added. The sum of a histogram is exact, unless something was recorded while it was
// added. Even then it is a sum that the counts allow, and `_count` is the count of `+Inf`.
inline std::string WritePrometheus(const Metrics& metrics) {
  return detail::MetricsWriter::Prometheus(metrics);
}

// Returns a JSON array with an object for each set of labels. Times are in seconds. A histogram has
// `count`, `sum`, and the quantiles `p50`, `p90`, `p99` and `p999`, which differ from what was
// recorded by less than 4 %. Numbers are written in full, also those that a reader whose numbers
// are doubles would round.
inline std::string WriteJson(const Metrics& metrics) {
  return detail::MetricsWriter::Json(metrics);
}

}  // namespace singleflight
