// SPDX-License-Identifier: MIT
#pragma once

// What herd.cpp measures in a run, and two runs side by side as a table and a histogram.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

struct Figures {
  std::size_t answered, executions;
  std::vector<double> latencies;  // of all requests, in milliseconds, sorted

  double Percentile(std::size_t p) const { return latencies[(latencies.size() - 1) * p / 100]; }
  // The percentage of the answers that cost no execution.
  double Deduplicated() const {
    return answered == 0 ? 0 : 100.0 - 100.0 * double(executions) / double(answered);
  }
  std::size_t Between(double low, double high) const {
    const auto below = [this](double limit) {
      return std::ranges::lower_bound(latencies, limit) - latencies.begin();
    };
    return std::size_t(below(high) - below(low));
  }
};

inline void PrintTable(const Figures& without, const Figures& with) {
  const auto row = [&](const char* name, int decimals, const char* unit, auto figure) {
    std::printf("%-15s %14.*f%-3s %14.*f%s\n", name, decimals, double(figure(without)), unit,
                decimals, double(figure(with)), unit);
  };
  std::printf("\n%30s    %14s\n", "without group", "with group");
  row("requests", 0, "", [](const Figures& f) { return f.latencies.size(); });
  row("answered", 0, "", [](const Figures& f) { return f.answered; });
  row("executions", 0, "", [](const Figures& f) { return f.executions; });
  row("deduplicated", 1, " %", [](const Figures& f) { return f.Deduplicated(); });
  row("latency p50", 1, " ms", [](const Figures& f) { return f.Percentile(50); });
  row("latency p99", 1, " ms", [](const Figures& f) { return f.Percentile(99); });
}

// A row for each doubling of the latency; a bar of 30 signs stands for all requests.
inline void PrintHistogram(const Figures& without, const Figures& with) {
  const auto bar = [](const Figures& f, std::size_t count) {
    return std::string((30 * count + f.latencies.size() - 1) / f.latencies.size(), '#');
  };
  std::printf("\n%-12s %9s %-30s %9s\n", "latency", "without", "group", "with group");
  const double slowest = std::max(without.latencies.back(), with.latencies.back());
  for (double low = 0, high = 1; low <= slowest; low = std::exchange(high, 2 * high)) {
    const std::size_t a = without.Between(low, high);
    const std::size_t b = with.Between(low, high);
    std::printf("< %7.0f ms %9zu %-30s %9zu %s\n", high, a, bar(without, a).c_str(), b,
                bar(with, b).c_str());
  }
}
