// SPDX-License-Identifier: MIT
#pragma once

// Spans as text: for OpenTelemetry, and for a reader.

#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "../adapters/http/utf8.hpp"
#include "../adapters/spans.hpp"

namespace span_report {

inline void AppendString(std::string& json, std::string_view text) {
  constexpr const char* kDigits = "0123456789abcdef";
  json += '"';
  while (!text.empty()) {
    const auto [code, size] = utf8::FirstOf(text);
    if (size == 0) {
      json += "\xEF\xBF\xBD";  // U+FFFD, because JSON is UTF-8
    } else if (code < 0x20) {
      (json += "\\u00") += kDigits[code >> 4];
      json += kDigits[code & 15];
    } else {
      if (code == '"' || code == '\\') json += '\\';
      json += text.substr(0, size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  json += '"';
}

// `value` is JSON. An object begins with a brace, and a further member needs a comma.
inline void AppendMember(std::string& json, std::string_view name, std::string_view value) {
  if (json.back() != '{') json += ',';
  ((json += '"') += name) += "\":";
  json += value;
}
inline void AppendStringMember(std::string& json, std::string_view name, std::string_view text) {
  AppendMember(json, name, "");
  AppendString(json, text);
}

inline std::string Nanoseconds(SpanRecord::Clock::time_point time) {
  const std::chrono::nanoseconds since_1970 = time.time_since_epoch();
  return '"' + std::to_string(since_1970.count()) + '"';  // JavaScript would round a number
}

inline std::string Attribute(std::string_view name,
                             const std::variant<std::string, std::int64_t>& value) {
  std::string json = "{";
  AppendStringMember(json, "key", name);
  AppendMember(json, "value", "{");
  if (const auto* const number = std::get_if<std::int64_t>(&value)) {
    AppendMember(json, "intValue", '"' + std::to_string(*number) + '"');
  } else {
    AppendStringMember(json, "stringValue", std::get<std::string>(value));
  }
  return json + "}}";
}

// Appends the ids of a span to an object.
inline void AppendIds(std::string& json, const TraceContext& context) {
  AppendStringMember(json, "traceId", trace_context::Hex(context.trace_id));
  AppendStringMember(json, "spanId", trace_context::Hex(context.span_id));
  AppendMember(json, "flags", std::to_string(context.flags));
}

inline std::string SpanObject(const SpanRecord& span) {
  std::string json = "{";
  AppendIds(json, span.context);
  if (span.parent != decltype(span.parent){}) {
    AppendStringMember(json, "parentSpanId", trace_context::Hex(span.parent));
  }
  AppendStringMember(json, "name", span.name);
  AppendMember(json, "kind", span.is_request ? "2" : "1");  // SERVER or INTERNAL
  AppendMember(json, "startTimeUnixNano", Nanoseconds(span.start));
  AppendMember(json, "endTimeUnixNano", Nanoseconds(span.end));
  std::string attributes = "[";
  for (const auto& [name, value] : span.attributes) {
    (attributes += attributes.size() > 1 ? "," : "") += Attribute(name, value);
  }
  AppendMember(json, "attributes", attributes + ']');
  std::string links = "[";
  for (const TraceContext& context : span.links) {
    AppendIds(links += links.size() > 1 ? ",{" : "{", context);
    links += '}';
  }
  AppendMember(json, "links", links + ']');
  AppendMember(json, "status", "{");
  if (!span.error.empty()) {
    AppendMember(json, "code", "2");  // ERROR
    AppendStringMember(json, "message", span.error);
  }
  return json + "}}";
}

}  // namespace span_report

// Returns the spans of one process as OpenTelemetry's exporters write them: an
// ExportTraceServiceRequest in the JSON encoding of OTLP, on one line.
inline std::string WriteOtlpJson(std::string_view service, const std::vector<SpanRecord>& spans) {
  std::string json = "{\"resourceSpans\":[{\"resource\":{\"attributes\":[" +
                     span_report::Attribute("service.name", std::string(service)) +
                     "]},\"scopeSpans\":[{\"scope\":{\"name\":\"singleflight\"},\"spans\":[";
  const char* comma = "";
  for (const SpanRecord& span : spans) {
    (json += std::exchange(comma, ",")) += span_report::SpanObject(span);
  }
  return json += "]}]}]}\n";
}

// The spans of calls, and the names of their leaders.
using LeadersOfCalls = std::vector<std::pair<TraceContext, std::string>>;

// Returns a line for each request, in the order of their names: what it did, and whose call it was
// on, as the parents and links of the spans say. `elsewhere` has the leaders of calls in other
// processes.
inline std::string DescribeRequests(const std::vector<SpanRecord>& spans,
                                    const LeadersOfCalls& elsewhere = {}) {
  std::map<std::array<std::uint8_t, 8>, const SpanRecord*> of_id, call_of_leader;
  std::map<std::string, const SpanRecord*> requests;
  for (const SpanRecord& span : spans) {
    of_id[span.context.span_id] = &span;
    if (span.is_request) requests[span.name] = &span;
    if (!span.is_request) call_of_leader[span.parent] = &span;
  }
  const auto attribute = [](const SpanRecord& span, std::string_view name) -> std::string {
    for (const auto& [its_name, value] : span.attributes) {
      if (its_name != name) continue;
      const auto* const number = std::get_if<std::int64_t>(&value);
      return number != nullptr ? std::to_string(*number) : std::get<std::string>(value);
    }
    return "";
  };
  const auto name_of = [&](const TraceContext& of_call) -> std::string {
    for (const auto& [context, leader] : elsewhere) {
      if (context == of_call) return leader;
    }
    const auto call = of_id.find(of_call.span_id);
    const auto leader = call == of_id.end() ? call : of_id.find(call->second->parent);
    return leader == of_id.end() ? "an unknown request" : leader->second->name;
  };
  const auto followed = [&](const SpanRecord& follower) {
    std::string names;
    for (const TraceContext& link : follower.links) {
      names += " followed the call of " + name_of(link);
    }
    return names;
  };
  std::string text;
  for (const auto& [name, span] : requests) {
    text += "  " + name + followed(*span);
    const auto led = call_of_leader.find(span->context.span_id);
    if (led != call_of_leader.end()) {
      const std::string callers = attribute(*led->second, "singleflight.callers");
      text += " led a call with " + callers + (callers == "1" ? " caller" : " callers");
      if (!led->second->links.empty()) text += ", which" + followed(*led->second);
    }
    text += ": " + attribute(*span, "singleflight.outcome");
    if (!span->error.empty()) text += ", " + span->error;
    text += '\n';
  }
  return text;
}

// Prints what the spans say, and adds them to a file, if it is not "none". "-" is the terminal.
inline void Report(const std::vector<SpanRecord>& spans, const std::string& file,
                   const LeadersOfCalls& elsewhere = {}) {
  std::cout << DescribeRequests(spans, elsewhere);
  const std::string json = WriteOtlpJson("tracing", spans);
  if (file == "-") std::cout << json;
  if (file != "-" && file != "none") std::ofstream(file, std::ios::app) << json;
  std::cout.flush();
}
