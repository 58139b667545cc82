// SPDX-License-Identifier: MIT
#pragma once

// DebugPage: what is in flight now, the counts and the histograms, as one HTML page for operators.
//
//   DebugAnswer answer = AnswerDebugPage(request, [&] {  // GET /debug/singleflight
//     DebugPage page;
//     page.Add("users", users).Add("pages", pages);  // groups and caches
//     page.AddTimes("queries", "How long queries took.", query_times);
//     page.AddLeases("fleet", reports.InspectFleet({.timeout = 1s}));  // of a redis::Group
//     return page;
//   });
//
// The page needs no script and loads nothing. With `?refresh=2` it reloads itself every 2 s. Calls
// have an age if the group was made with GroupOptions::timed.
//
// **Warning:** the page shows keys, and so perhaps who asks for what, or a cookie that is part of a
// key. AnswerDebugPage answers only this machine. Behind a proxy on this machine, everybody comes
// from this machine: let the proxy refuse the path.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <singleflight/latency_histogram.hpp>
#include <singleflight/observe.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/debug_style.hpp"
#include "http/html.hpp"
#include "http/rules.hpp"

class DebugPage {
 public:
  using Clock = std::chrono::steady_clock;

  // More calls of one group are counted, but not listed.
  static constexpr std::size_t kRows = 1000;

  // `now` is what the calls' ages are counted to.
  explicit DebugPage(Clock::time_point now = Clock::now()) : now_(now) {}

  // Adds a part for `source`: the calls that its Inspect() returns, the statistics that it is or
  // that its GetStats() returns, and the histogram that its LoadTimes() returns. It has one of
  // these, or all.
  template <class Source>
  DebugPage& Add(std::string_view name, const Source& source) {
    constexpr bool kHasCalls = requires { source.Inspect(); };
    constexpr bool kHasStats = requires { source.GetStats(); };
    constexpr bool kIsStats = requires(const Visitor& visit) { ForEachStat(source, visit); };
    static_assert(kHasCalls || kHasStats || kIsStats,
                  "DebugPage::Add takes a group, a cache, or statistics: see observe.hpp");
    AppendHeading(name);
    if constexpr (kHasCalls) AppendCalls(source.Inspect());
    if constexpr (kHasStats) {
      AppendStats(source.GetStats());
    } else if constexpr (kIsStats) {
      AppendStats(source);
    }
    if constexpr (requires { source.LoadTimes(); }) {
      AppendTimes("How long loads took, failed ones included.", source.LoadTimes());
    }
    return *this;
  }

  // Adds a part with one histogram. `help` is one sentence.
  DebugPage& AddTimes(std::string_view name, std::string_view help,
                      const singleflight::LatencyHistogram& times) {
    AppendHeading(name);
    AppendTimes(help, times);
    return *this;
  }

  // Adds a part with the leases of a fleet: what InspectFleet() of a redis::Group returned.
  template <class Leases>
  DebugPage& AddLeases(std::string_view name, const Leases& leases) {
    AppendHeading(name);
    if (leases.empty()) parts_ += "<p class=none>No process has a lease.</p>\n";
    if (!leases.empty()) parts_ += "<table><tr><th>key<th class=n>processes<th class=n>age\n";
    std::size_t shown = 0;
    for (const auto& lease : leases) {
      if (++shown > kRows) break;
      AppendKey(lease.key, lease.forgotten);
      parts_ += "<br>led by ";
      html::AppendText(parts_, lease.host);
      parts_ += ", process " + std::to_string(lease.pid) + "<td class=n>" +
                html::Number(1 + lease.followers) + "<td class=n>" + html::Time(lease.age) + '\n';
    }
    if (!leases.empty()) AppendRest(leases.size(), "more lease");
    return *this;
  }

  // Returns the page. It reloads itself after `refresh`, unless that is zero.
  std::string Html(std::chrono::seconds refresh = {}) const {
    std::string page = kDebugPageStart;
    if (refresh.count() > 0) {
      page += "<meta http-equiv=\"refresh\" content=\"" + std::to_string(refresh.count()) + "\">\n";
    }
    page += kDebugPageStyle;
    page += "<h1>singleflight</h1>\n<p>" + CountOf(calls_, "call") + " in flight, " +
            CountOf(callers_, "caller") + ".</p>\n";
    page += parts_;
    if (parts_.empty()) page += "<p>Nothing was added to this page.</p>\n";
    return page + "</html>\n";
  }

 private:
  // Gets the numbers of a ForEachStat: see observe.hpp.
  struct Visitor {
    void Counter(std::string_view name, std::string_view help, std::uint64_t count) const {
      page.AppendNumber(labels, name, help, html::Number(count), count == 0);
    }
    void Gauge(std::string_view name, std::string_view help, std::uint64_t number) const {
      Counter(name, help, number);
    }
    void Gauge(std::string_view name, std::string_view help, singleflight::Duration time) const {
      page.AppendNumber(labels, name, help, html::Time(time), time.count() == 0);
    }
    void Times(std::string_view, std::string_view help,
               const singleflight::LatencyHistogram& times) const {
      histograms.emplace_back(help, times);
    }
    void Counts(std::string_view name, std::string_view help,
                const singleflight::LatencyHistogram& counts) const {
      for (const auto& [quantile, part] : {std::pair("p50", 0.5), {"p99", 0.99}}) {
        const auto count = static_cast<std::uint64_t>(counts.Quantile(part).count());
        page.AppendNumber(labels + quantile + ' ', name, help, html::Number(count), count == 0);
      }
    }
    Visitor With(std::string_view, std::string_view value) const {
      return {page, histograms, labels + std::string(value) + ' '};
    }

    DebugPage& page;
    std::vector<std::pair<std::string, singleflight::LatencyHistogram>>& histograms;
    std::string labels = {};
  };

  template <class Key>
  static std::string TextOf(const Key& key) {
    if constexpr (std::convertible_to<const Key&, std::string_view>) {
      return std::string(std::string_view(key));
    } else {
      static_assert(
          requires(std::ostringstream out) { out << key; },
          "DebugPage shows keys by operator<<: declare one for this type of key");
      std::ostringstream out;
      out << key;
      return std::move(out).str();
    }
  }

  static std::string CountOf(std::uint64_t count, const char* what) {
    return html::Number(count) + ' ' + what + (count == 1 ? "" : "s");
  }

  void AppendHeading(std::string_view name) {
    parts_ += "<h2>";
    html::AppendText(parts_, name);
    parts_ += "</h2>\n";
  }

  // Lists the oldest calls first, and of equally old ones those with the most callers.
  template <class Calls>
  void AppendCalls(const Calls& calls) {
    using Call = typename Calls::value_type;
    const std::size_t shown = std::min(calls.size(), kRows);
    std::vector<const Call*> order;
    for (const Call& call : calls) {
      order.push_back(&call);
      callers_ += call.callers;
    }
    calls_ += calls.size();
    const auto place = [](const Call* call) {
      return std::pair(call->since.value_or(Clock::time_point::max()), ~call->callers);
    };
    std::ranges::partial_sort(order, order.begin() + static_cast<std::ptrdiff_t>(shown), {}, place);
    order.resize(shown);
    if (calls.empty()) {
      parts_ += "<p class=none>No call is in flight.</p>\n";
      return;
    }
    parts_ += "<table><tr><th>key<th class=n>callers<th class=n>age\n";
    for (const Call* call : order) AppendCall(*call);
    AppendRest(calls.size(), "more call");
  }

  // Begins a row.
  template <class Key>
  void AppendKey(const Key& key, bool forgotten) {
    parts_ += "<tr><td class=key><bdi>";
    html::AppendText(parts_, TextOf(key));
    parts_ += forgotten ? "</bdi> <b>forgotten</b>" : "</bdi>";
  }

  template <class Call>
  void AppendCall(const Call& call) {
    AppendKey(call.key, call.forgotten);
    if constexpr (requires { call.phase; }) {  // of a redis::Group
      using Phase = decltype(call.phase);
      if (call.phase == Phase::kAsking) parts_ += " <b>asks who leads</b>";
      if (call.phase == Phase::kFollowing) parts_ += " <b>another process leads</b>";
    }
    parts_ += "<td class=n>" + html::Number(call.callers) + "<td class=n>" +
              (call.since ? html::Time(now_ - *call.since) : "–") + '\n';
  }

  // Ends a table.
  void AppendRest(std::size_t all, const char* what) {
    parts_ += "</table>\n";
    if (all > kRows) parts_ += "<p>And " + CountOf(all - kRows, what) + ".</p>\n";
  }

  void AppendNumber(std::string_view labels, std::string_view name, std::string_view help,
                    const std::string& number, bool is_zero) {
    parts_ += is_zero ? "<div class=zero><dt>" : "<div><dt>";
    std::string title;
    html::AppendText(title, std::string(labels).append(name));
    for (const char c : title) (parts_ += c) += c == '_' ? "<wbr>" : "";  // it may break there
    parts_ += "<dd>" + number + "<small>";
    html::AppendText(parts_, help);
    parts_ += "</small></div>\n";
  }

  template <class Stats>
  void AppendStats(const Stats& stats) {
    std::vector<std::pair<std::string, singleflight::LatencyHistogram>> times;
    parts_ += "<dl>\n";
    ForEachStat(stats, Visitor{*this, times});
    parts_ += "</dl>\n";
    for (const auto& [help, its_times] : times) AppendTimes(help, its_times);
  }

  // Draws a histogram with a row for each of 1, 2, 5, 10, 20, 50... A bucket is counted where its
  // middle is, which is off by less than 4 %.
  void AppendTimes(std::string_view help, const singleflight::LatencyHistogram& shared) {
    using singleflight::LatencyHistogram;
    const LatencyHistogram times(shared);  // a copy, in which nothing is recorded
    parts_ += "<p class=help>";
    html::AppendText(parts_, help);
    const std::uint64_t count = times.Count();
    parts_ += "<p>" + html::Number(count) + " recorded";
    if (count == 0) {
      parts_ += ".</p>\n";
      return;
    }
    for (const auto& [name, part] : {std::pair("p50", 0.5), {"p90", 0.9}, {"p99", 0.99}}) {
      parts_ += std::string(", <b>") + name + "</b> " + html::Time(times.Quantile(part));
    }
    parts_ += ".</p>\n<table class=times>\n";
    std::vector<std::pair<std::int64_t, std::uint64_t>> rows = {{0, 0}};  // begin, how many
    for (std::size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
      const auto middle = (LatencyHistogram::BeginOf(i) + LatencyHistogram::BeginOf(i + 1)) / 2;
      for (std::int64_t next; (next = NextBorder(rows.back().first)) <= middle.count();) {
        rows.emplace_back(next, 0);
      }
      rows.back().second += times.CountIn(i);
    }
    const auto is_used = [](const auto& row) { return row.second > 0; };
    const auto begin = std::ranges::find_if(rows, is_used);
    const auto end = std::find_if(rows.rbegin(), rows.rend(), is_used).base();
    const auto most =
        std::max_element(begin, end, [](auto& a, auto& b) { return a.second < b.second; })->second;
    for (auto row = begin; row != end; ++row) {
      // Whoever is counted can be seen, if only as a line.
      const std::uint64_t width = row->second == 0 ? 0 : 1 + row->second * 99 / most;
      parts_ += "<tr><td class=n>" + html::Time(std::chrono::nanoseconds(row->first)) +
                "+<td class=bar><div style=\"width:" + std::to_string(width) +
                "%\"></div><td class=n>" + html::Number(row->second) + '\n';
    }
    parts_ += "</table>\n";
  }

  // Returns the next of 1, 2, 5, 10, 20, 50...
  static std::int64_t NextBorder(std::int64_t border) {
    std::int64_t power = 1;
    while (border >= power * 10) power *= 10;
    for (const std::int64_t step : {1, 2, 5}) {
      if (power * step > border) return power * step;
    }
    return power * 10;
  }

  const Clock::time_point now_;
  std::string parts_;
  std::uint64_t calls_ = 0, callers_ = 0;
};

// The answer to GET /debug/singleflight.
struct DebugAnswer {
  int status = 200;
  HttpFields fields = {};
  std::string body = {};
};

// Returns the `refresh` of a target's query, or zero if there is none from 1 to 3600.
inline std::chrono::seconds RefreshOf(std::string_view target) {
  const std::size_t query_at = target.find('?');
  if (query_at == target.npos) return {};
  for (std::string_view parameter : http_text::ParametersOf(target.substr(query_at + 1))) {
    if (http_text::NameOf(parameter) != "refresh" || parameter.size() < 9) continue;
    parameter.remove_prefix(8);
    if (parameter.size() > 4 || parameter.find_first_not_of("0123456789") != parameter.npos) break;
    const std::chrono::seconds refresh(std::stoi(std::string(parameter)));
    return refresh.count() > 3600 ? std::chrono::seconds() : refresh;
  }
  return {};
}

// Whether a request is from this machine and for it. A page of another site, whose name was made to
// mean this machine, has that name as its Host.
inline bool IsLocal(const HttpRequestView& request) {
  const auto hosts = http_text::ValuesOf(request.fields, "Host");
  if (hosts.size() != 1) return false;
  std::string_view host = hosts.front();
  if (const std::size_t port = host.rfind(':'); port != host.npos && !host.ends_with(']')) {
    host = host.substr(0, port);
  }
  const bool for_us =
      http_text::SameName(host, "localhost") || host == "127.0.0.1" || host == "[::1]";
  const std::string_view peer = request.peer;
  return for_us && (peer == "::1" || peer.starts_with("127.") || peer.starts_with("::ffff:127."));
}

// Answers a GET or HEAD with the page that `read` returns, or with 403 if it is not from this
// machine.
//
// Thread: calls `read` on this thread.
inline DebugAnswer AnswerDebugPage(const HttpRequestView& request,
                                   const std::function<DebugPage()>& read) {
  DebugAnswer answer;
  answer.fields = {{"Cache-Control", "no-store"},
                   {"Content-Security-Policy",
                    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'"},
                   {"Content-Type", "text/html; charset=utf-8"},
                   {"Referrer-Policy", "no-referrer"},
                   {"X-Content-Type-Options", "nosniff"}};
  if (IsLocal(request)) {
    answer.body = read().Html(RefreshOf(request.target));
  } else {
    answer.status = 403;
    answer.body = "This page is for requests from the server's own machine.\n";
  }
  return answer;
}
