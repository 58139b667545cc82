// SPDX-License-Identifier: MIT
#pragma once

// MetricsWriter: writes what Metrics have gathered.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "text.hpp"
#include "times_view.hpp"

namespace singleflight::detail {

// The members that it uses are private. It is a template, because observe.hpp includes this file.
template <class Metrics>
struct MetricsWriter {
  using Kind = typename Metrics::Kind;

  static bool IsHistogram(Kind kind) { return kind == Kind::kTimes || kind == Kind::kCounts; }

  static void AppendValue(std::string& text, Kind kind, std::uint64_t number) {
    const bool is_seconds = kind == Kind::kSecondsGauge || kind == Kind::kTimes;
    is_seconds ? AppendSeconds(text, number) : AppendNumber(text, number);
  }

  // Appends the name of a series and a space.
  static void AppendSeries(std::string& text, std::string_view name, const auto& labels,
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

  static void AppendHistogram(std::string& text, const std::string& name, const auto& labels,
                              Kind kind, const TimesView& times) {
    const std::string bucket = name + "_bucket";
    const int first = kind == Kind::kTimes ? 10 : 1;  // 1.024 us, or 2
    const int last = kind == Kind::kTimes ? 36 : 20;  // 69 s, or a million
    times.ForEachBorder(first, last, [&](std::uint64_t longest, std::uint64_t count) {
      std::string border;
      AppendValue(border, kind, longest);
      AppendSeries(text, bucket, labels, border);
      AppendNumber(text, count);
      text += '\n';
    });
    AppendSeries(text, bucket, labels, "+Inf");
    AppendNumber(text, times.Count());
    text += '\n';
    AppendSeries(text, name + "_sum", labels);
    AppendValue(text, kind, times.SumInNanoseconds());
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
      text.append("\n# TYPE ").append(name) += IsHistogram(kind) ? " histogram\n"
                                               : is_counter      ? " counter\n"
                                                                 : " gauge\n";
      for (const auto& [labels, series] : metrics.series_) {
        if (const auto at = series.times.find(i); at != series.times.end()) {
          AppendHistogram(text, name, labels, kind, TimesView(at->second));
        } else if (const auto number = series.numbers.find(i); number != series.numbers.end()) {
          AppendSeries(text, name, labels);
          AppendValue(text, kind, number->second);
          text += '\n';
        }
      }
    }
    return text;
  }

  static void AppendJsonHistogram(std::string& text, Kind kind, const TimesView& times) {
    text += "{\"count\": ";
    AppendNumber(text, times.Count());
    text += ", \"sum\": ";
    AppendValue(text, kind, times.SumInNanoseconds());
    constexpr std::pair<const char*, double> kQuantiles[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    for (const auto& [name, part] : kQuantiles) {
      text.append(", \"").append(name).append("\": ");
      AppendValue(text, kind, times.QuantileInNanoseconds(part));
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
        const Kind kind = metrics.families_[i].kind;
        if (times != series.times.end()) {
          AppendJsonHistogram(text, kind, TimesView(times->second));
        } else {
          AppendValue(text, kind, number->second);
        }
      }
      text += "}}";
    }
    return text += "]\n";
  }
};

}  // namespace singleflight::detail
