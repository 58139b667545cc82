// SPDX-License-Identifier: MIT
#pragma once

// What fleet_cache.cpp counts, in memory that its processes share, and how a row of it is printed.

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <iomanip>
#include <iostream>
#include <singleflight/latency_histogram.hpp>
#include <sstream>
#include <string>

#include "processes.hpp"

inline constexpr std::size_t kProcesses = 3, kCoroutines = 100, kPages = 50;

// What happens while the processes read.
enum class What { kEmptyCache, kReading, kKill, kChanges };

struct CacheCounts {
  using Clock = std::chrono::steady_clock;  // the same for all processes

  ProcessBarrier start{kProcesses};
  singleflight::LatencyHistogram waits;
  std::atomic<int> hits = 0, renders = 0, overlaps = 0;  // overlaps: renders of one page at a time
  std::array<std::atomic<int>, kPages> renders_now = {};

  // The versions of the pages in their source, and those whose Invalidate has returned.
  std::array<std::atomic<int>, kPages> source = {}, invalidated = {};
  std::atomic<int> old_answers = 0;

  std::atomic<std::size_t> killed_page = 0;
  std::atomic<Clock::time_point> killed_at = {}, rendered_again_at = {};

  // Call it when a render begins.
  void NoteRender(std::size_t page) {
    ++renders;
    if (++renders_now[page] > 1) ++overlaps;
    if (killed_at.load() == Clock::time_point() || killed_page != page) return;
    Clock::time_point never = {};
    rendered_again_at.compare_exchange_strong(never, Clock::now());
  }
  // Kills this process, which has begun to render the page.
  void Kill(std::size_t page) {
    killed_page = page;
    killed_at = Clock::now();
    ::kill(::getpid(), SIGKILL);
  }
  bool WasRenderedAgain() const { return rendered_again_at.load() != Clock::time_point(); }
  std::chrono::milliseconds TimeUntilRenderedAgain() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(rendered_again_at.load() -
                                                                 killed_at.load());
  }
  int Changes() const {
    int sum = 0;
    for (const auto& version : invalidated) sum += version;
    return sum;
  }
};

inline void PrintHead() {
  std::cout << "                       answers   hits  renders        p50        p99\n";
}
inline void PrintRow(What what, const CacheCounts& counts) {
  const auto in_ms = [&counts](double part) {
    const std::chrono::duration<double, std::milli> time = counts.waits.Quantile(part);
    std::ostringstream text;
    text << std::fixed << std::setprecision(1) << time.count() << " ms";
    return text.str();
  };
  constexpr std::array<const char*, 4> kNames = {"an empty cache", "readers", "a process is killed",
                                                 "pages change"};
  std::cout << std::left << std::setw(23) << kNames[static_cast<std::size_t>(what)] << std::right
            << std::setw(7) << counts.waits.Count() << std::setw(7) << counts.hits << std::setw(9)
            << counts.renders << std::setw(11) << in_ms(0.5) << std::setw(11) << in_ms(0.99)
            << '\n';
  switch (what) {
    case What::kReading:
      std::cout << "  Renders of a page that was being rendered already: " << counts.overlaps
                << '\n';
      break;
    case What::kKill:
      std::cout << "  It was rendering a page. Another process did so "
                << counts.TimeUntilRenderedAgain().count() << " ms later. Its lease was 1 s.\n";
      break;
    case What::kChanges:
      std::cout << "  Pages that were invalidated: " << counts.Changes()
                << ". Readers that got an older one afterwards: " << counts.old_answers << '\n';
      break;
    case What::kEmptyCache:
      break;
  }
}
