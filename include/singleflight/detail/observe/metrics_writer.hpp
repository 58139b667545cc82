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

  static void AppendValue(std::string& text, Kind kind, std::uint64_t number) {
    kind == Kind::kSecondsGauge ? AppendSeconds(text, number) : AppendNumber(text, number);
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

  static void AppendTimes(std::string& text, const std::string& name, const auto& labels,
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

}  // namespace singleflight::detail
