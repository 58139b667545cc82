// SPDX-License-Identifier: MIT
#pragma once

// Prints several runs of a load side by side: as a table, as a histogram of the latencies, and over
// time.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <singleflight/latency_histogram.hpp>
#include <string>
#include <utility>
#include <vector>

#include "load.hpp"

inline std::string WithUnit(double number, const char* unit) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f %s", number, unit);
  return text;
}

// ---- The rows that a table can have

struct Row {
  const char* name;
  std::string (*text)(const Run& run);
};

// Of all requests, so that the ones without an answer count as the slowest.
inline std::string Percentile(const Run& run, double p) {
  const double wanted = static_cast<double>(run.requests) * p / 100;
  const auto answered = static_cast<double>(run.Answered());
  if (wanted <= answered && answered > 0) {
    return WithUnit(Milliseconds(run.latencies.Quantile(wanted / answered)).count(), "ms");
  }
  return "> " + std::to_string(static_cast<long>(run.deadline.count())) + " ms";
}

inline constexpr Row kRequests{"requests",
                               [](const Run& run) { return std::to_string(run.requests); }};
inline constexpr Row kAnswered{"answered",
                               [](const Run& run) { return std::to_string(run.Answered()); }};
inline constexpr Row kExecutions{
    "executions", [](const Run& run) { return std::to_string(run.executions.size()); }};
// The share of the answered requests that caused no execution.
inline constexpr Row kDeduplicated{
    "deduplicated", [](const Run& run) {
      const auto answered = static_cast<double>(run.Answered());
      const auto executions = static_cast<double>(run.executions.size());
      return WithUnit(answered == 0 ? 0 : 100 - 100 * executions / answered, "%");
    }};
// Of the requests that were answered.
inline constexpr Row kLatencyMean{
    "latency mean", [](const Run& run) {
      const auto answered = static_cast<double>(std::max(run.Answered(), std::uint64_t{1}));
      return WithUnit(Milliseconds(run.latencies.Sum()).count() / answered, "ms");
    }};
inline constexpr Row kLatencyP50{"latency p50", [](const Run& run) { return Percentile(run, 50); }};
inline constexpr Row kLatencyP99{"latency p99", [](const Run& run) { return Percentile(run, 99); }};

// ---- What can be printed

inline void PrintTable(const std::vector<Run>& runs, std::initializer_list<Row> rows) {
  std::printf("%-12s", "");
  for (const Run& run : runs) std::printf("%16s", run.name.c_str());
  std::printf("\n");
  for (const Row& row : rows) {
    std::printf("%-12s", row.name);
    for (const Run& run : runs) std::printf("%16s", row.text(run).c_str());
    std::printf("\n");
  }
}

// A row for each doubling of the latency, where a bucket of the histograms begins. A bar of 30
// characters stands for all requests.
inline void PrintHistogram(const std::vector<Run>& runs) {
  using Histogram = singleflight::LatencyHistogram;
  constexpr std::size_t kNameWidth = 12, kColumnWidth = 40;
  const auto print = [&runs](std::string line, auto text_of) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      line.resize(std::max(line.size(), kNameWidth + i * kColumnWidth), ' ');
      line += text_of(runs[i]);
    }
    std::printf("%s\n", line.c_str());
  };
  const auto print_counts = [&print](const std::string& name, auto count_in) {
    print(name, [&count_in](const Run& run) {
      const std::size_t all = run.requests, count = count_in(run);
      const std::string number = std::to_string(count);
      std::string text = std::string(8 - std::min<std::size_t>(number.size(), 8), ' ') + number;
      return count == 0 ? text : text + ' ' + std::string((30 * count + all - 1) / all, '#');
    });
  };
  std::chrono::nanoseconds slowest(0);
  for (const Run& run : runs) slowest = std::max(slowest, run.latencies.Quantile(1));
  std::printf("\n");
  print("latency", [](const Run& run) { return run.name; });
  std::size_t bucket = 0;
  std::chrono::nanoseconds low(0), high = std::chrono::nanoseconds(1 << 20);  // about 1 ms
  for (; low <= slowest; low = std::exchange(high, 2 * high)) {
    const std::size_t first = bucket;
    while (Histogram::BeginOf(bucket) < high) ++bucket;
    print_counts("< " + WithUnit(Milliseconds(high).count(), "ms"), [=](const Run& run) {
      std::size_t count = 0;
      for (std::size_t i = first; i < bucket; ++i) count += run.latencies.CountIn(i);
      return count;
    });
  }
  print_counts("unanswered", [](const Run& run) { return run.requests - run.Answered(); });
}

// A line for each run, with a character for each interval of time.
inline void PrintOverTime(const std::vector<Run>& runs) {
  constexpr std::size_t kIntervals = 60;
  Milliseconds last(0);
  for (const Run& run : runs) {
    for (const Milliseconds started : run.executions) last = std::max(last, started);
  }
  const Milliseconds interval = last / kIntervals + Milliseconds(0.001);
  std::printf(
      "\nQueries over time. Each character is %.0f ms: how many queries started in it\n"
      "(. none, # ten or more).\n",
      interval.count());
  for (const Run& run : runs) {
    std::vector<std::size_t> counts(kIntervals);
    for (const Milliseconds started : run.executions) {
      ++counts[static_cast<std::size_t>(started / interval)];
    }
    std::string line;
    for (const std::size_t count : counts) line += ".123456789#"[std::min<std::size_t>(count, 10)];
    std::printf("%-15s %s\n", run.name.c_str(), line.c_str());
  }
}
