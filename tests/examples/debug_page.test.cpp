// SPDX-License-Identifier: MIT

// Tests the page for operators without a server: what it shows, how it shows bytes from outside,
// and who gets it.

#include "adapters/debug_page.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <singleflight/latency_histogram.hpp>
#include <singleflight/observe.hpp>
#include <singleflight/options.hpp>
#include <singleflight/read_through_options.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = DebugPage::Clock;

constexpr Clock::time_point kNow{1h};

// As singleflight::CallInfo.
struct ShownCall {
  std::string key;
  std::size_t callers = 1;
  bool forgotten = false;
  std::optional<Clock::time_point> since = {};
};

struct ShownCalls {
  std::vector<ShownCall> Inspect() const { return calls; }
  std::vector<ShownCall> calls;
};

struct ShownStats {
  singleflight::Stats GetStats() const { return stats; }
  singleflight::Stats stats;
};

std::size_t Count(std::string_view text, std::string_view word) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(word, at)) != text.npos; at += word.size()) ++count;
  return count;
}

bool Has(std::string_view text, std::string_view word) { return Count(text, word) > 0; }

std::string Shown(std::string_view text, std::size_t most = 200) {
  std::string out;
  html::AppendText(out, text, most);
  return out;
}

// Returns the page's rows of calls, in their order, each as it is written.
std::vector<std::string> RowsOf(const std::vector<ShownCall>& calls) {
  const std::string page = DebugPage(kNow).Add("pages", ShownCalls{calls}).Html();
  std::vector<std::string> rows;
  const std::string_view begin = "<tr><td class=key>";
  for (std::size_t at = 0; (at = page.find(begin, at)) != page.npos;) {
    at += begin.size();
    rows.push_back(page.substr(at, page.find('\n', at) - at));
  }
  return rows;
}

std::string TimesPage(const singleflight::LatencyHistogram& times) {
  return DebugPage(kNow).AddTimes("queries", "How long queries took.", times).Html();
}

HttpRequestView FromLoopback(std::string_view target, std::string_view host = "localhost:8080") {
  return {"GET", target, {{"Host", host}}, "127.0.0.1"};
}

DebugAnswer AnswerOf(const HttpRequestView& request) {
  return AnswerDebugPage(request, [] { return DebugPage(kNow); });
}

}  // namespace

TEST_CASE("The debug page shows a call with its callers and its age") {
  CHECK(RowsOf({{"user:42", 1234, false, kNow - 1500ms}}) ==
        std::vector<std::string>{"<bdi>user:42</bdi><td class=n>1,234<td class=n>1.5 s"});
  CHECK(RowsOf({{"user:42", 1, true}}) ==
        std::vector<std::string>{"<bdi>user:42</bdi> <b>forgotten</b><td class=n>1<td class=n>–"});
}

TEST_CASE("The debug page lists the oldest calls first and then those with the most callers") {
  const auto rows =
      RowsOf({{"a", 1}, {"b", 9}, {"c", 1, false, kNow - 1s}, {"d", 1, false, kNow - 2s}});
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].starts_with("<bdi>d<"));
  CHECK(rows[1].starts_with("<bdi>c<"));
  CHECK(rows[2].starts_with("<bdi>b<"));
  CHECK(rows[3].starts_with("<bdi>a<"));
}

TEST_CASE("The debug page sums up the calls and callers of all groups") {
  const ShownCalls pages{{{"a", 1000}, {"b", 200}}}, users{{{"a", 34}}};
  CHECK(Has(DebugPage(kNow).Add("pages", pages).Add("users", users).Html(),
            "<p>3 calls in flight, 1,234 callers.</p>"));
  CHECK(Has(DebugPage(kNow).Add("pages", ShownCalls{{{"a"}}}).Html(),
            "<p>1 call in flight, 1 caller.</p>"));
}

TEST_CASE("The debug page says that nothing is in flight") {
  const std::string page = DebugPage(kNow).Add("pages", ShownCalls()).Html();
  CHECK(Has(page, "<p>0 calls in flight, 0 callers.</p>"));
  CHECK(Has(page, "No call is in flight."));
  CHECK(!Has(page, "<table"));
  CHECK(Has(DebugPage(kNow).Html(), "Nothing was added to this page."));
}

TEST_CASE("The debug page lists a thousand of ten thousand calls and counts the others") {
  ShownCalls many;
  for (int i = 0; i < 10'000; ++i) {
    many.calls.push_back({"key:" + std::to_string(i), 2, false, kNow - std::chrono::seconds(i)});
  }
  const std::string page = DebugPage(kNow).Add("pages", many).Html();
  CHECK(Count(page, "<tr><td class=key>") == 1000);
  CHECK(Has(page, "<bdi>key:9999</bdi>"));
  CHECK(Has(page, "<bdi>key:9000</bdi>"));
  CHECK(!Has(page, "<bdi>key:8999</bdi>"));
  CHECK(Has(page, "<p>And 9,000 more calls.</p>"));
  CHECK(Has(page, "<p>10,000 calls in flight, 20,000 callers.</p>"));
  CHECK(page.size() < 200'000);

  many.calls.resize(1000);
  CHECK(!Has(DebugPage(kNow).Add("pages", many).Html(), "more call"));
  many.calls.emplace_back();
  CHECK(Has(DebugPage(kNow).Add("pages", many).Html(), "<p>And 1 more call.</p>"));
}

TEST_CASE("The debug page shows every number of a group with its name and its help") {
  const ShownStats group{{.executions = 1'234'567,
                          .followers = 2,
                          .failures = 3,
                          .left = 4,
                          .refused = 5,
                          .in_flight = 0}};
  const std::string page = DebugPage(kNow).Add("pages", group).Html();
  const auto shown = [&page](const std::string& name, const std::string& number,
                             const std::string& help) {
    return Count(page, "<dt>" + name + "<dd>" + number + "<small>" + help + "</small>") == 1;
  };
  CHECK(shown("executions", "1,234,567", "Calls begun."));
  CHECK(shown("followers", "2", "Callers that joined a call in flight."));
  CHECK(shown("failures", "3", "Calls that landed with an exception or a failure."));
  CHECK(shown("left", "4", "Callers that left before their call landed."));
  CHECK(shown("refused", "5", "Callers that were refused by a limit or after Close."));
  CHECK(shown("in_<wbr>flight", "0", "Calls that have not landed yet."));
  CHECK(Count(page, "<dt>") == 6);
  CHECK(Count(page, "<div class=zero>") == 1);
}

namespace shown {

struct Odd {};
template <class Visitor>
void ForEachStat(const Odd&, Visitor&& visit) {
  visit.Counter("orders", "Orders <taken>.", std::uint64_t{7});
  visit.Gauge("carts", "Carts.", std::size_t{8});
  visit.Gauge("oldest", "The oldest cart.", singleflight::Duration(90s));
  singleflight::LatencyHistogram times;
  times.Record(3ms);
  visit.With("server", "a&b").Counter("sent", "Sent.", std::uint32_t{9});
  visit.With("server", "c").Times("payments", "How long payments took.", times);
}

}  // namespace shown

TEST_CASE("The debug page shows statistics of any kind and draws their histograms after them") {
  const std::string page = DebugPage(kNow).Add("<shop>", shown::Odd()).Html();
  CHECK(Has(page, "<h2>&lt;shop&gt;</h2>"));
  CHECK(Has(page, "<dt>orders<dd>7<small>Orders &lt;taken&gt;.</small>"));
  CHECK(Has(page, "<dt>carts<dd>8<small>"));
  CHECK(Has(page, "<dt>oldest<dd>1.5 min<small>"));
  CHECK(Has(page, "<dt>a&amp;b sent<dd>9<small>"));
  CHECK(page.find("</dl>") < page.find("<p class=help>How long payments took."));
}

TEST_CASE("The debug page shows what a LatencyListener has recorded") {
  singleflight::LatencyListener listener;
  singleflight::TimedLanding landing;
  landing.callers = 3;
  landing.took = 3ms;
  listener.OnLand(std::string_view("key"), landing);
  const std::string page = DebugPage(kNow).Add("calls", listener).Html();
  CHECK(Has(page, "<dt>p50 callers_<wbr>per_<wbr>call<dd>3<small>"));
  CHECK(Has(page, "<b>p99</b> 2.9 ms"));
}

TEST_CASE("The debug page draws a histogram whose rows have the counts and whose bars fit them") {
  singleflight::LatencyHistogram times;
  for (int i = 0; i < 100; ++i) times.Record(3ms);
  for (int i = 0; i < 40; ++i) times.Record(7ms);
  for (int i = 0; i < 10; ++i) times.Record(60ms);
  times.Record(1s);
  const std::string page = TimesPage(times);
  CHECK(Has(page,
            "<p class=help>How long queries took.<p>151 recorded, <b>p50</b> 2.9 ms, "
            "<b>p90</b> 6.9 ms, <b>p99</b> 60 ms.</p>"));
  const auto row = [](const char* begin, int width, int count) {
    return "<tr><td class=n>" + std::string(begin) +
           "+<td class=bar><div style=\"width:" + std::to_string(width) + "%\"></div><td class=n>" +
           std::to_string(count) + "\n";
  };
  CHECK(Has(page, "<table class=times>\n" + row("2.0 ms", 100, 100) + row("5.0 ms", 40, 40) +
                      row("10 ms", 0, 0) + row("20 ms", 0, 0) + row("50 ms", 10, 10) +
                      row("100 ms", 0, 0) + row("200 ms", 0, 0) + row("500 ms", 1, 1) +
                      "</table>"));
}

TEST_CASE("The debug page draws the shortest and the longest times") {
  singleflight::LatencyHistogram times;
  CHECK(Has(TimesPage(times), "<p>0 recorded.</p>"));
  times.Record(0ns);
  CHECK(Has(TimesPage(times), "<tr><td class=n>0 ns+<td class=bar><div style=\"width:100%\">"));
  times.Record(24h * 365);
  const std::string page = TimesPage(times);
  CHECK(Count(page, "<tr><td class=n>") == 41);  // 0, and three a decade
  CHECK(Has(page, "h+<td class=bar><div style=\"width:100%\"></div><td class=n>1\n</table>"));
}

TEST_CASE("The debug page shows bytes from outside as text") {
  CHECK(Shown("<script>alert('x')</script>") == "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
  CHECK(Shown("a&amp;\"b\"") == "a&amp;amp;&quot;b&quot;");
  CHECK(Shown("Zoë 東京 😀") == "Zoë 東京 😀");
  CHECK(Shown("") == "<i>empty</i>");
  CHECK(Shown(" a\\n ") == " a\\n ");
}

TEST_CASE("The debug page shows by its number what a reader would not see") {
  CHECK(Shown(std::string_view("a\0b\r\n\x1B\x7F", 7)) ==
        "a<i>\\x00</i>b<i>\\x0d</i><i>\\x0a</i><i>\\x1b</i><i>\\x7f</i>");
  CHECK(Shown("a\u0085b") == "a<i>\\u{85}</i>b");
  CHECK(Shown("user\u202Enimda") == "user<i>\\u{202e}</i>nimda");
  CHECK(Shown("a\u200Bb\uFEFF") == "a<i>\\u{200b}</i>b<i>\\u{feff}</i>");
  CHECK(Shown("a\u00A0b\u3000c") == "a<i>\\u{a0}</i>b<i>\\u{3000}</i>c");
  CHECK(Shown("\U000E0041") == "<i>\\u{e0041}</i>");
}

TEST_CASE("The debug page shows each byte that is not valid UTF-8 by its number") {
  CHECK(Shown("a\xFF\xC0\x80") == "a<i>\\xff</i><i>\\xc0</i><i>\\x80</i>");
  CHECK(Shown("\xC3") == "<i>\\xc3</i>");
  CHECK(Shown(std::string_view("\xC3\xA9", 1)) == "<i>\\xc3</i>");
  CHECK(Shown("\xC3(") == "<i>\\xc3</i>(");
  CHECK(Shown("\xE0\x80\xBC") == "<i>\\xe0</i><i>\\x80</i><i>\\xbc</i>");  // < in three bytes
  CHECK(Shown("\xED\xA0\x80") == "<i>\\xed</i><i>\\xa0</i><i>\\x80</i>");  // a surrogate
  CHECK(Shown("\xF0\x82\x82\xAC") == "<i>\\xf0</i><i>\\x82</i><i>\\x82</i><i>\\xac</i>");
  CHECK(Shown("\xF4\x90\x80\x80") == "<i>\\xf4</i><i>\\x90</i><i>\\x80</i><i>\\x80</i>");
}

TEST_CASE("The debug page cuts a long key between two characters and says how long it is") {
  CHECK(Shown("abcdef", 6) == "abcdef");
  CHECK(Shown("abcdefg", 6) == "abcdef… <i>7 bytes in all</i>");
  CHECK(Shown("abcdeéf", 6) == "abcde… <i>8 bytes in all</i>");
  const auto rows = RowsOf({{std::string(1'000'000, 'x')}});
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].starts_with("<bdi>" + std::string(200, 'x') +
                            "… <i>1,000,000 bytes in all</i></bdi>"));
}

TEST_CASE("The debug page shows keys that are not strings") {
  struct NumberCalls {
    struct Call {
      int key = -7;
      std::size_t callers = 1;
      bool forgotten = false;
      std::optional<Clock::time_point> since = {};
    };
    std::vector<Call> Inspect() const { return std::vector<Call>(1); }
  };
  CHECK(Has(DebugPage(kNow).Add("users", NumberCalls()).Html(), "<bdi>-7</bdi>"));
}

namespace shown {

enum class Phase : unsigned char { kAsking, kFollowing, kLeading };
struct FleetCall : ShownCall {
  Phase phase = Phase::kLeading;
};
struct FleetCalls {
  std::vector<FleetCall> Inspect() const { return {{{"a"}, phase}}; }
  Phase phase;
};
// As singleflight::redis::LeaseInfo.
struct Lease {
  std::string key, host;
  std::int64_t pid = 0;
  std::chrono::milliseconds age = {};
  std::size_t followers = 0;
  bool forgotten = false;
};

}  // namespace shown

TEST_CASE("The debug page says which calls of a fleet another process leads") {
  const auto row = [](shown::Phase phase) {
    const std::string page = DebugPage(kNow).Add("reports", shown::FleetCalls{phase}).Html();
    const std::size_t at = page.find("<bdi>a");
    return page.substr(at, page.find("<td", at) - at);
  };
  CHECK(row(shown::Phase::kAsking) == "<bdi>a</bdi> <b>asks who leads</b>");
  CHECK(row(shown::Phase::kFollowing) == "<bdi>a</bdi> <b>another process leads</b>");
  CHECK(row(shown::Phase::kLeading) == "<bdi>a</bdi>");
}

TEST_CASE("The debug page shows the leases of a fleet") {
  using Leases = std::vector<shown::Lease>;
  const auto page = [](const Leases& leases) {
    return DebugPage(kNow).AddLeases("fleet", leases).Html();
  };
  CHECK(Has(page({}), "No process has a lease."));
  CHECK(Has(page({{"<a>", "host&", 4711, 1500ms, 2, true}}),
            "<tr><td class=key><bdi>&lt;a&gt;</bdi> <b>forgotten</b><br>led by host&amp;, process "
            "4711<td class=n>3<td class=n>1.5 s\n</table>"));
  const std::string many = page(Leases(1001, {"key", "host", 1}));
  CHECK(Count(many, "<tr><td class=key>") == 1000);
  CHECK(Has(many, "<p>And 1 more lease.</p>"));
  CHECK(!Has(page(Leases(1000, {"key", "host", 1})), "more lease"));
}

TEST_CASE("The debug page shows times in the unit that fits them") {
  CHECK(html::Time(-5ns) == "0 ns");
  CHECK(html::Time(999ns) == "999 ns");
  CHECK(html::Time(1500ns) == "1.5 µs");
  CHECK(html::Time(15'400us) == "15 ms");
  CHECK(html::Time(9'960us) == "10 ms");
  CHECK(html::Time(59s) == "59 s");
  CHECK(html::Time(90s) == "1.5 min");
  CHECK(html::Time(3h) == "3.0 h");
  CHECK(html::Time(240h) == "10 d");
  CHECK(html::Number(0) == "0");
  CHECK(html::Number(999) == "999");
  CHECK(html::Number(1000) == "1,000");
  CHECK(html::Number(1'234'567) == "1,234,567");
}

TEST_CASE("The debug page reloads itself only if it is asked to") {
  CHECK(!Has(AnswerOf(FromLoopback("/debug/singleflight")).body, "http-equiv"));
  CHECK(Has(AnswerOf(FromLoopback("/debug/singleflight?refresh=2")).body,
            "<meta http-equiv=\"refresh\" content=\"2\">"));
  CHECK(RefreshOf("/?a=1&refresh=3600") == 3600s);
  for (const char* target : {"/", "/?", "/?refresh", "/?refresh=", "/?refresh=0", "/?refresh=3601",
                             "/?refresh=99999999999", "/?refresh=-1", "/?refresh=2;url=//a.example",
                             "/?refresh=%32", "/?xrefresh=2"}) {
    CHECK(RefreshOf(target) == 0s);
  }
}

TEST_CASE("The debug page may load nothing and is not stored") {
  const DebugAnswer answer = AnswerOf(FromLoopback("/debug/singleflight"));
  CHECK(answer.status == 200);
  const auto value = [&answer](const char* name) {
    const auto values = http_text::ValuesOf(answer.fields, name);
    return values.size() == 1 ? std::string(values.front()) : std::string();
  };
  CHECK(value("Content-Type") == "text/html; charset=utf-8");
  CHECK(value("Cache-Control") == "no-store");
  CHECK(value("Content-Security-Policy")
            .starts_with("default-src 'none'; style-src 'unsafe-inline';"));
  for (const char* word : {"<script", "src=", "href=", "url(", "@import", "http:", "https:"}) {
    CHECK(!Has(answer.body, word));
  }
}

TEST_CASE("The debug page is shown only to the server's own machine and under its own name") {
  const auto status = [](std::string_view peer, HttpFieldViews fields) {
    return AnswerOf({"GET", "/debug/singleflight", std::move(fields), peer}).status;
  };
  for (const char* host :
       {"localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080"}) {
    CHECK(status("127.0.0.1", {{"host", host}}) == 200);
  }
  for (const char* host :
       {"", "shop.example", "localhost.shop.example:80", "127.0.0.1.example", "[::2]", ":80"}) {
    CHECK(status("127.0.0.1", {{"Host", host}}) == 403);
  }
  CHECK(status("127.0.0.1", {}) == 403);
  CHECK(status("127.0.0.1", {{"Host", "localhost"}, {"Host", "shop.example"}}) == 403);
  CHECK(status("::1", {{"Host", "localhost"}}) == 200);
  CHECK(status("::ffff:127.0.0.1", {{"Host", "localhost"}}) == 200);
  for (const char* peer :
       {"", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "::11", "::127.0.0.1"}) {
    CHECK(status(peer, {{"Host", "localhost"}}) == 403);
  }
  CHECK(!Has(AnswerOf({"GET", "/debug/singleflight", {}, "192.0.2.1"}).body, "<"));
}
