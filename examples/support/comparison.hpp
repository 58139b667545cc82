// SPDX-License-Identifier: MIT
#pragma once

// What cache.cpp measures in a run, and several runs side by side, as a table and over time.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "report.hpp"

struct MeasuredRun {
  const char* name;
  Figures figures;
  std::vector<std::chrono::nanoseconds> begun;  // when each execution began, from the run's start
};

inline void PrintTable(const std::vector<MeasuredRun>& runs) {
  const auto row = [&](const char* name, int decimals, auto figure) {
    std::printf("%-18s", name);
    for (const auto& run : runs) std::printf("%15.*f", decimals, double(figure(run.figures)));
    std::printf("\n");
  };
  std::printf("%-18s", "");
  for (const auto& run : runs) std::printf("%15s", run.name);
  std::printf("\n");
  row("requests", 0, [](const Figures& f) { return f.latencies.size(); });
  row("backend executions", 0, [](const Figures& f) { return f.executions; });
  row("latency mean, ms", 1, [](const Figures& f) {
    return std::reduce(f.latencies.begin(), f.latencies.end()) / double(f.latencies.size());
  });
  row("latency p99, ms", 1, [](const Figures& f) { return f.Percentile(99); });
}

// A line for each run, with a sign for each slot of time: how many executions began in it.
inline void PrintOverTime(const std::vector<MeasuredRun>& runs) {
  constexpr std::size_t kSlots = 60;
  std::chrono::nanoseconds last(0);
  for (const auto& run : runs) {
    for (const auto at : run.begun) last = std::max(last, at);
  }
  const auto slot = last / kSlots + std::chrono::nanoseconds(1);
  std::printf("\nexecutions begun in each %.0f ms (. none, # ten or more)\n",
              std::chrono::duration<double, std::milli>(slot).count());
  for (const auto& run : runs) {
    std::vector<std::size_t> begun(kSlots);
    for (const auto at : run.begun) ++begun[std::size_t(at / slot)];
    std::string line;
    for (const std::size_t count : begun) line += ".123456789#"[std::min<std::size_t>(count, 10)];
    std::printf("%-14s %s\n", run.name, line.c_str());
  }
}
