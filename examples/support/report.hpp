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
  std::vector<double> latencies;  // of all requests, in milliseconds, sorted; infinite: no answer

  double Slowest() const { return answered == 0 ? 0 : latencies[answered - 1]; }
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
    const std::size_t length = (30 * count + f.latencies.size() - 1) / f.latencies.size();
    return count == 0 ? "" : ' ' + std::string(length, '#');
  };
  const auto row = [&](const std::string& name, std::size_t a, std::size_t b) {
    std::printf("%-12s %8zu%-31s %8zu%s\n", name.c_str(), a, bar(without, a).c_str(), b,
                bar(with, b).c_str());
  };
  std::printf("\n%-12s %-39s %s\n", "latency", "without group", "with group");
  const double slowest = std::max(without.Slowest(), with.Slowest());
  for (int low = 0, high = 1; low <= slowest; low = std::exchange(high, 2 * high)) {
    row("< " + std::to_string(high) + " ms", without.Between(low, high), with.Between(low, high));
  }
  row("unanswered", without.latencies.size() - without.answered,
      with.latencies.size() - with.answered);
}
