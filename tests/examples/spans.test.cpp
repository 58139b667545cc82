// SPDX-License-Identifier: MIT

// Tests the spans of calls and callers: the header that carries a trace, the links, and the JSON.

#include "adapters/spans.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <singleflight/singleflight.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "adapters/trace_context.hpp"
#include "observe/json_reader.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/span_report.hpp"
#include "support/support.hpp"

namespace {

using namespace std::chrono_literals;

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c";
const std::string kParent = "b7ad6b7169203331";
const std::string kHeader = "00-" + kTrace + "-" + kParent + "-01";

std::string AttributeOf(const SpanRecord& span, std::string_view name) {
  for (const auto& [its_name, value] : span.attributes) {
    if (its_name != name) continue;
    if (const auto* const number = std::get_if<std::int64_t>(&value))
      return std::to_string(*number);
    return std::get<std::string>(value);
  }
  return "none";
}
std::string OutcomeOf(const SpanRecord& span) { return AttributeOf(span, "singleflight.outcome"); }
std::string RoleOf(const SpanRecord& span) { return AttributeOf(span, "singleflight.role"); }

SpanRecord OnlySpanOf(SpanStore& store) {
  const auto spans = store.Take();
  REQUIRE(spans.size() == 1);
  return spans[0];
}

singleflight::TimedLanding Landed(bool failed, std::chrono::nanoseconds took) {
  singleflight::TimedLanding landing = {};
  landing.callers = 2;
  landing.failed = failed;
  landing.took = took;
  return landing;
}

struct TracedTraits : singleflight::GroupTraits {
  using Listener = SpanListener;
};
using TracedGroup = singleflight::Group<std::string, int, singleflight::DefaultHash<std::string>,
                                        singleflight::DefaultEqual<std::string>, TracedTraits>;

// What a group's callers wrote.
class Traces {
 public:
  explicit Traces(SpanStore& store) {
    for (SpanRecord& span : store.Take()) spans_[span.name].push_back(std::move(span));
  }

  // Returns the span with this name. There must be one.
  const SpanRecord& Of(const std::string& name) const {
    REQUIRE(spans_.count(name) == 1);
    REQUIRE(spans_.at(name).size() == 1);
    return spans_.at(name)[0];
  }
  // Whether the caller led the only call.
  bool Led(const std::string& name) const {
    return RoleOf(Of(name)) == "leader" && Of(name).links.empty() &&
           Of("users").parent == Of(name).context.span_id &&
           Of("users").context.trace_id == Of(name).context.trace_id;
  }
  // Whether the caller followed the only call, and has one link, to its span.
  bool Followed(const std::string& name) const {
    return RoleOf(Of(name)) == "follower" && Of(name).links == std::vector{Of("users").context} &&
           Of(name).context.trace_id != Of("users").context.trace_id;
  }

 private:
  std::map<std::string, std::vector<SpanRecord>> spans_;
};

// Asks on this thread. Returns 0 if that throws.
template <class Fn>
int AskInSpan(SpanStore& store, TracedGroup& group, std::string name, Fn fn,
              singleflight::CallOptions options = {}) {
  Span span(store, std::move(name));
  try {
    return span.Run([&] { return *group.Do("key", fn, options); });
  } catch (...) {
    return 0;
  }
}

// The same in a coroutine. `fn` fails if the signal is fired when it may not succeed.
test::Routine CoAskInSpan(SpanStore& store, TracedGroup& group, std::string name,
                          test::Signal& signal, bool succeeds, singleflight::StopToken stop = {}) {
  Span span(store, std::move(name));
  try {
    const auto fn = [&signal, succeeds]() -> test::Task<int> {
      co_await signal;
      if (!succeeds) throw std::runtime_error("the signal says no");
      co_return 42;
    };
    const auto result = co_await span.Await(singleflight::CoDo(group, "key", fn, stop));
    CHECK(*result == 42);
  } catch (const std::exception&) {
  }
}

// Returns the span of a caller whose ask throws `error`.
template <class Error>
SpanRecord SpanOfFailed(const Error& error) {
  SpanStore store;
  {
    Span span(store, "request");
    CHECK_THROWS_AS(span.Run([&error] { throw error; }), Error);
  }
  return OnlySpanOf(store);
}

}  // namespace

TEST_CASE("A traceparent is read and written as it is") {
  const auto context = ParseTraceparent(kHeader);
  REQUIRE(context.has_value());
  CHECK(trace_context::Hex(context->trace_id) == kTrace);
  CHECK(trace_context::Hex(context->span_id) == kParent);
  CHECK(context->IsSampled());
  CHECK(Traceparent(*context) == kHeader);
}

TEST_CASE("A traceparent of a later version is read as far as it is known") {
  CHECK(ParseTraceparent("cc" + kHeader.substr(2)) == ParseTraceparent(kHeader));
  CHECK(ParseTraceparent("cc" + kHeader.substr(2) + "-what-the-future-will-be-like") ==
        ParseTraceparent(kHeader));
  CHECK(Traceparent(*ParseTraceparent("cc" + kHeader.substr(2) + "-x")) == kHeader);
  CHECK(!ParseTraceparent("cc" + kHeader.substr(2) + ".what"));
  CHECK(!ParseTraceparent("ff" + kHeader.substr(2)));
}

TEST_CASE("A traceparent that breaks a rule is as good as none") {
  const std::string zeros(32, '0');
  for (const std::string& header :
       {std::string(), kHeader.substr(1), kHeader.substr(0, 54), kHeader + "-", kHeader + "-00",
        kHeader + " ", " " + kHeader, kHeader + "," + kHeader,
        "00-" + zeros + "-" + kParent + "-01", "00-" + kTrace + "-" + zeros.substr(16) + "-01",
        "0" + kHeader, kHeader.substr(0, 53) + "1",
        "00-" + kTrace.substr(1) + "-" + kParent + "-011",
        "00_" + kTrace + "-" + kParent + "-01"}) {
    CAPTURE(header);
    CHECK(!ParseTraceparent(header));
  }
}

TEST_CASE("A traceparent with any wrong character is as good as none") {
  for (std::size_t i = 0; i < kHeader.size(); ++i) {
    for (const char wrong : {'A', 'g', 'G', '.', ' ', '\0', '/', ':', '`', '\xC3'}) {
      std::string header = kHeader;
      header[i] = wrong;
      CHECK(!ParseTraceparent(header));
    }
    std::string header = kHeader;
    header[i] = header[i] == '-' ? '0' : '-';
    CHECK(!ParseTraceparent(header));
  }
}

TEST_CASE("A traceparent has one flag in version 00 and others are not passed on") {
  const auto flags = [](const char* digits) {
    return Traceparent(*ParseTraceparent(kHeader.substr(0, 53) + digits)).substr(53);
  };
  CHECK(flags("00") == "00");
  CHECK(flags("01") == "01");
  CHECK(flags("ff") == "01");
  CHECK(flags("fe") == "00");
}

TEST_CASE("A child has its parent's trace and flags and an id of its own") {
  const TraceContext parent = *ParseTraceparent(kHeader), child = ChildOf(parent);
  CHECK(child.trace_id == parent.trace_id);
  CHECK(child.span_id != parent.span_id);
  CHECK(child.flags == parent.flags);
  std::set<std::string> traces;
  for (int i = 0; i < 100; ++i) {
    CHECK(NewTrace().IsValid());
    CHECK(ParseTraceparent(Traceparent(NewTrace())));
    traces.insert(Traceparent(NewTrace()));
  }
  CHECK(traces.size() == 100);
}

TEST_CASE("A span of a trace that is not recorded is not kept") {
  SpanStore store;
  { const Span span(store, "request", ParseTraceparent(kHeader.substr(0, 54) + "0")); }
  CHECK(store.Take().empty());
  CHECK(store.Dropped() == 0);
}

TEST_CASE("A store keeps as many spans as it may and counts the others") {
  SpanStore store(2);
  for (int i = 0; i < 5; ++i) const Span span(store, "request");
  CHECK(store.Dropped() == 3);
  CHECK(store.Take().size() == 2);
  CHECK(store.Take().empty());
}

TEST_CASE(
    "A call's span is the child of its leader's span and a follower's span has a link to it") {
  SpanStore store;
  SpanListener listener(store, "users");
  CallSpan call;
  {
    Span leader(store, "leader", ParseTraceparent(kHeader));
    leader.Run([&] { call = listener.OnLead("user:42"); });
    Span follower(store, "follower");
    follower.Run([&] { listener.OnFollow("user:42", call); });
    listener.OnLand("user:42", call, Landed(false, 5ms));
  }
  const auto spans = store.Take();
  REQUIRE(spans.size() == 3);
  const SpanRecord &of_call = spans[0], &follower = spans[1], &leader = spans[2];

  CHECK(trace_context::Hex(leader.context.trace_id) == kTrace);
  CHECK(trace_context::Hex(leader.parent) == kParent);
  CHECK(RoleOf(leader) == "leader");
  CHECK(leader.links.empty());

  CHECK(of_call.name == "users");
  CHECK(of_call.context.trace_id == leader.context.trace_id);
  CHECK(of_call.parent == leader.context.span_id);
  CHECK(AttributeOf(of_call, "singleflight.key") == "user:42");
  CHECK(AttributeOf(of_call, "singleflight.callers") == "2");
  CHECK(of_call.end - of_call.start == 5ms);
  CHECK(of_call.error.empty());

  CHECK(RoleOf(follower) == "follower");
  CHECK(follower.context.trace_id != leader.context.trace_id);
  CHECK(follower.parent == decltype(follower.parent){});
  REQUIRE(follower.links.size() == 1);
  CHECK(follower.links[0] == of_call.context);
}

TEST_CASE("A call whose leader has no span begins a trace and one that failed says so") {
  SpanStore store;
  SpanListener listener(store, "users");
  const CallSpan call = listener.OnLead("user:42");
  listener.OnFollow("user:42", call);  // a caller without a span
  listener.OnLand("user:42", call, Landed(true, 1ms));
  const SpanRecord span = OnlySpanOf(store);
  CHECK(span.context.IsValid());
  CHECK(span.parent == decltype(span.parent){});
  CHECK(span.error == "the call failed");
}

TEST_CASE("A call that follows another process has a link to the call there") {
  SpanStore store;
  SpanListener listener(store, "reports");
  const CallSpan remote{NewTrace(), {}};
  const CallSpan first = listener.OnLead("a"), second = listener.OnLead("b");
  listener.OnRemoteLead("a", first, remote);
  listener.OnRemoteLead("b", second, CallSpan());  // that process has sent no span
  listener.OnLand("b", second, Landed(false, 1ms));
  listener.OnLand("a", first, Landed(false, 1ms));
  const auto spans = store.Take();
  REQUIRE(spans.size() == 2);
  CHECK(spans[0].links.empty());
  CHECK(spans[1].links == std::vector{remote.context});
}

TEST_CASE("A call's span travels through a fleet as a traceparent") {
  using Codec = singleflight::redis::Codec<CallSpan>;
  const CallSpan call{*ParseTraceparent(kHeader), {1}};
  CHECK(Codec::Encode(call) == kHeader);
  CHECK(Codec::Decode(kHeader)->context == call.context);
  CHECK(!Codec::Decode("00-"));
}

TEST_CASE("A caller's span says how it ended") {
  const auto ours = [](std::errc code) {
    return std::system_error(std::error_code(static_cast<int>(code), singleflight::Category()));
  };
  CHECK(OutcomeOf(SpanOfFailed(ours(std::errc::timed_out))) == "left");
  CHECK(SpanOfFailed(ours(std::errc::timed_out)).error.empty());
  CHECK(OutcomeOf(SpanOfFailed(ours(std::errc::operation_canceled))) == "left");
  CHECK(OutcomeOf(SpanOfFailed(ours(std::errc::resource_unavailable_try_again))) == "refused");
  CHECK(OutcomeOf(SpanOfFailed(ours(std::errc::resource_deadlock_would_occur))) == "refused");
  CHECK(OutcomeOf(SpanOfFailed(ours(std::errc::owner_dead))) == "error");
  // The same code, but of the work.
  CHECK(OutcomeOf(SpanOfFailed(std::system_error(std::make_error_code(std::errc::timed_out)))) ==
        "error");
  CHECK(SpanOfFailed(std::runtime_error("no route")).error == "no route");
  CHECK(OutcomeOf(SpanOfFailed(42)) == "error");

  SpanStore store;
  {
    Span span(store, "request");
    CHECK_THROWS(span.Run([] { throw std::runtime_error("the first try"); }));
    CHECK(span.Run([] { return 7; }) == 7);
  }
  const SpanRecord span = OnlySpanOf(store);
  CHECK(OutcomeOf(span) == "ok");
  CHECK(span.error.empty());
  CHECK(RoleOf(span) == "none");  // it found what it wanted in a cache
  CHECK(span.start <= span.end);
}

TEST_CASE("A span is the current one of its thread only while it asks") {
  SpanStore store;
  Span outer(store, "outer"), inner(store, "inner");
  CHECK(Span::Current() == nullptr);
  outer.Run([&] {
    CHECK(Span::Current() == &outer);
    CHECK_THROWS(inner.Run([&] {
      CHECK(Span::Current() == &inner);
      throw std::runtime_error("");
    }));
    CHECK(Span::Current() == &outer);
  });
  CHECK(Span::Current() == nullptr);
}

TEST_CASE("A thread that follows has a link to the call and so has one that leaves") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  {
    const test::JoiningThread leader([&] {
      AskInSpan(store, group, "leader", [&group] {
        test::Await([&group] { return group.GetStats().left == 2 && group.Callers("key") == 2; });
        return 42;
      });
    });
    test::AwaitCallers(group, "key", 1);
    const auto never = [] { return 0; };
    const test::JoiningThread follower([&] { AskInSpan(store, group, "follower", never); });
    singleflight::StopSource stop;
    const test::JoiningThread stopped(
        [&] { AskInSpan(store, group, "stopped", never, {.stop = stop.get_token()}); });
    test::Await([&group] { return group.GetStats().followers == 2; });
    stop.request_stop();
    AskInSpan(store, group, "impatient", never, {.timeout = 0ms});
  }
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(AttributeOf(traces.Of("users"), "singleflight.callers") == "2");
  for (const char* name : {"follower", "stopped", "impatient"}) CHECK(traces.Followed(name));
  CHECK(OutcomeOf(traces.Of("leader")) == "ok");
  CHECK(OutcomeOf(traces.Of("follower")) == "ok");
  CHECK(OutcomeOf(traces.Of("stopped")) == "left");
  CHECK(OutcomeOf(traces.Of("impatient")) == "left");
}

TEST_CASE("A thread that follows a call which fails has a link to it") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  {
    const test::JoiningThread leader([&] {
      AskInSpan(store, group, "leader", [&group]() -> int {
        test::AwaitCallers(group, "key", 2);
        throw std::runtime_error("no route");
      });
    });
    test::AwaitCallers(group, "key", 1);
    AskInSpan(store, group, "follower", [] { return 0; });
  }
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(traces.Followed("follower"));
  CHECK(traces.Of("users").error == "the call failed");
  for (const char* name : {"leader", "follower"}) {
    CHECK(OutcomeOf(traces.Of(name)) == "error");
    CHECK(traces.Of(name).error == "no route");
  }
}

TEST_CASE("A caller of a call that is cancelled has a link to it and the call's span says why") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  test::Signal signal;
  const auto leader = CoAskInSpan(store, group, "leader", signal, true);
  const auto follower = CoAskInSpan(store, group, "follower", signal, true);
  CHECK(group.Cancel("key"));
  REQUIRE(leader.Done());
  REQUIRE(follower.Done());
  signal.Fire();
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(traces.Followed("follower"));
  CHECK(OutcomeOf(traces.Of("leader")) == "left");
  CHECK(OutcomeOf(traces.Of("follower")) == "left");
  CHECK(traces.Of("users").error == "the call was cancelled");
}

TEST_CASE("A caller that a limit refuses has no link and says so") {
  SpanStore store;
  TracedGroup group({.max_callers_per_call = 1}, SpanListener(store, "users"));
  AskInSpan(store, group, "leader", [&] {
    const test::JoiningThread other([&] { AskInSpan(store, group, "refused", [] { return 0; }); });
    return 42;
  });
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(OutcomeOf(traces.Of("refused")) == "refused");
  CHECK(RoleOf(traces.Of("refused")) == "none");
  CHECK(traces.Of("refused").links.empty());
}

TEST_CASE("A coroutine that follows has a link to the call and so has one that leaves") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  test::Signal signal;
  singleflight::StopSource stop;
  const auto leader = CoAskInSpan(store, group, "leader", signal, true);
  const auto follower = CoAskInSpan(store, group, "follower", signal, true);
  const auto stopped = CoAskInSpan(store, group, "stopped", signal, true, stop.get_token());
  auto destroyed = CoAskInSpan(store, group, "destroyed", signal, true);
  CHECK(Span::Current() == nullptr);  // all of them are suspended
  stop.request_stop();
  CHECK(stopped.Done());
  destroyed.Destroy();
  signal.Fire();
  REQUIRE(leader.Done());
  REQUIRE(follower.Done());
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  for (const char* name : {"follower", "stopped", "destroyed"}) CHECK(traces.Followed(name));
  CHECK(OutcomeOf(traces.Of("leader")) == "ok");
  CHECK(OutcomeOf(traces.Of("follower")) == "ok");
  CHECK(OutcomeOf(traces.Of("stopped")) == "left");
  CHECK(OutcomeOf(traces.Of("destroyed")) == "left");
}

TEST_CASE("A coroutine whose call fails has a link to it and a leader may leave") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  test::Signal signal;
  auto leader = CoAskInSpan(store, group, "leader", signal, false);
  const auto follower = CoAskInSpan(store, group, "follower", signal, false);
  leader.Destroy();
  signal.Fire();
  REQUIRE(follower.Done());
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(OutcomeOf(traces.Of("leader")) == "left");
  CHECK(traces.Followed("follower"));
  CHECK(OutcomeOf(traces.Of("follower")) == "error");
  CHECK(traces.Of("follower").error == "the signal says no");
  CHECK(AttributeOf(traces.Of("users"), "singleflight.callers") == "1");
}

TEST_CASE("A future is asked for in a span and waited for in it") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  std::vector<std::function<void()>> tasks;
  const auto later = [&tasks](auto task) { tasks.emplace_back(task); };
  {
    Span leader(store, "leader"), follower(store, "follower");
    const auto ask = [&] {
      return singleflight::DoAsync(
          group, "key", [] { return 42; }, later);
    };
    auto one = leader.Run(ask), two = follower.Run(ask);
    REQUIRE(tasks.size() == 1);
    tasks[0]();
    CHECK(leader.Run([&one] { return *one.Get(); }) == 42);
    CHECK(follower.Run([&two] { return *two.Get(); }) == 42);
  }
  const Traces traces(store);
  CHECK(traces.Led("leader"));
  CHECK(traces.Followed("follower"));
}

TEST_CASE("A follower has a link also to a call that is not recorded") {
  SpanStore store;
  TracedGroup group({}, SpanListener(store, "users"));
  {
    Span leader(store, "leader", ParseTraceparent(kHeader.substr(0, 54) + "0"));
    leader.Run([&] {
      return *group.Do("key", [&] {
        const test::JoiningThread follower(
            [&] { AskInSpan(store, group, "follower", [] { return 0; }, {.timeout = 0ms}); });
        return 42;
      });
    });
  }
  const SpanRecord follower = OnlySpanOf(store);
  CHECK(follower.name == "follower");
  REQUIRE(follower.links.size() == 1);
  CHECK(trace_context::Hex(follower.links[0].trace_id) == kTrace);
  CHECK(!follower.links[0].IsSampled());
}

TEST_CASE("Spans are written as OpenTelemetry's JSON") {
  SpanStore store;
  SpanListener listener(store, "users");
  CallSpan call;
  {
    Span leader(store, "leader", ParseTraceparent(kHeader));
    leader.Run([&] { call = listener.OnLead("a \"key\"\n\xFF"); });
    Span follower(store, "follower");
    CHECK_THROWS(follower.Run([&] {
      listener.OnFollow("", call);
      throw std::runtime_error("no \\ route");
    }));
    listener.OnLand("a \"key\"\n\xFF", call, Landed(true, 5ms));
  }
  const auto spans = store.Take();
  const std::string text = WriteOtlpJson("tracing", spans);
  CHECK(text.find('\n') == text.size() - 1);
  const test::JsonText request = test::JsonReader::Read(text);

  REQUIRE(request["resourceSpans"].elements.size() == 1);
  const auto& resource = request["resourceSpans"][0];
  CHECK(resource["resource"]["attributes"][0]["key"].text == "service.name");
  CHECK(resource["resource"]["attributes"][0]["value"]["stringValue"].text == "tracing");
  CHECK(resource["scopeSpans"][0]["scope"]["name"].text == "singleflight");
  const auto& written = resource["scopeSpans"][0]["spans"];
  REQUIRE(written.elements.size() == 3);

  using Kind = test::JsonText::Kind;
  const auto& of_call = written[0];
  CHECK(of_call["name"].text == "users");
  CHECK(of_call["kind"].kind == Kind::kNumber);
  CHECK(of_call["kind"].text == "1");
  CHECK(of_call["traceId"].text == kTrace);
  CHECK(of_call["spanId"].text == trace_context::Hex(call.context.span_id));
  CHECK(of_call["parentSpanId"].text == trace_context::Hex(spans[2].context.span_id));
  CHECK(of_call["flags"].text == "1");
  CHECK(of_call["startTimeUnixNano"].kind == Kind::kString);
  CHECK(std::stoull(of_call["endTimeUnixNano"].text) -
            std::stoull(of_call["startTimeUnixNano"].text) ==
        5'000'000);
  CHECK(of_call["endTimeUnixNano"].text.size() == 19);
  CHECK(of_call["attributes"][0]["key"].text == "singleflight.key");
  CHECK(of_call["attributes"][0]["value"]["stringValue"].text == "a \"key\"\n\xEF\xBF\xBD");
  CHECK(of_call["attributes"][1]["value"]["intValue"].kind == Kind::kString);
  CHECK(of_call["attributes"][1]["value"]["intValue"].text == "2");
  CHECK(of_call["links"].elements.empty());
  CHECK(of_call["status"]["code"].text == "2");

  const auto& follower = written[1];
  CHECK(follower["kind"].text == "2");
  CHECK(follower.members.count("parentSpanId") == 0);
  REQUIRE(follower["links"].elements.size() == 1);
  CHECK(follower["links"][0]["traceId"].text == kTrace);
  CHECK(follower["links"][0]["spanId"].text == of_call["spanId"].text);
  CHECK(follower["status"]["message"].text == "no \\ route");

  const auto& leader = written[2];
  CHECK(leader["parentSpanId"].text == kParent);
  CHECK(leader["status"].members.empty());
  CHECK(leader["startTimeUnixNano"].text ==
        std::to_string(std::chrono::nanoseconds(spans[2].start.time_since_epoch()).count()));
}

TEST_CASE("Requests are described by the parents and links of their spans") {
  SpanStore store;
  SpanListener listener(store, "users");
  CallSpan call, alone;
  const CallSpan remote{NewTrace(), {}}, unknown{NewTrace(), {}};
  {
    Span leader(store, "1"), follower(store, "2"), other(store, "3"), lost(store, "4");
    leader.Run([&] { call = listener.OnLead(""); });
    CHECK_THROWS(follower.Run([&] {
      listener.OnFollow("", call);
      throw std::runtime_error("no route");
    }));
    other.Run([&] { alone = listener.OnLead(""); });
    lost.Run([&] { listener.OnFollow("", unknown); });
    listener.OnRemoteLead("", alone, remote);
    listener.OnLand("", call, Landed(false, 1ms));
    singleflight::TimedLanding one = Landed(false, 1ms);
    one.callers = 1;
    listener.OnLand("", alone, one);
  }
  CHECK(DescribeRequests(store.Take(), {{remote.context, "5"}}) ==
        "  1 led a call with 2 callers: ok\n"
        "  2 followed the call of 1: error, no route\n"
        "  3 led a call with 1 caller, which followed the call of 5: ok\n"
        "  4 followed the call of an unknown request: ok\n");
}

TEST_CASE("Spans of which there are none are written as OpenTelemetry's JSON") {
  const test::JsonText request = test::JsonReader::Read(WriteOtlpJson("tracing", {}));
  CHECK(request["resourceSpans"][0]["scopeSpans"][0]["spans"].elements.empty());
}
