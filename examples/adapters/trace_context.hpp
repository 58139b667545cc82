// SPDX-License-Identifier: MIT
#pragma once

// TraceContext: the ids of a trace and of a span, as W3C's Trace Context carries them between
// processes in the header `traceparent` (https://www.w3.org/TR/trace-context/).
//
//   const std::optional<TraceContext> parent = ParseTraceparent(header);
//   const TraceContext span = parent ? ChildOf(*parent) : NewTrace();
//   client.Get("/users", {{"traceparent", Traceparent(span)}});
//
// If a request has several of these headers, it has none: give ParseTraceparent an empty text. The
// header `tracestate` is not read. A proxy passes it on as it is, if there is a valid traceparent.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>

// The ids are bytes, of which at least one is not zero.
struct TraceContext {
  static constexpr std::uint8_t kSampled = 1;  // somebody upstream records this trace

  std::array<std::uint8_t, 16> trace_id = {};
  std::array<std::uint8_t, 8> span_id = {};
  std::uint8_t flags = 0;

  bool IsValid() const {
    return trace_id != decltype(trace_id){} && span_id != decltype(span_id){};
  }
  bool IsSampled() const { return (flags & kSampled) != 0; }
  bool operator==(const TraceContext&) const = default;
};

namespace trace_context {

template <std::size_t kBytes>
std::string Hex(const std::array<std::uint8_t, kBytes>& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// Reads as many digits as the bytes need. They must be in lower case.
template <std::size_t kBytes>
bool ReadHex(std::string_view text, std::array<std::uint8_t, kBytes>& bytes) {
  if (text.size() != 2 * kBytes) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(text[i]);
    if (digit == std::string_view::npos) return false;
    bytes[i / 2] = static_cast<std::uint8_t>(std::size_t{bytes[i / 2]} << 4 | digit);
  }
  return true;
}

template <std::size_t kBytes>
void Fill(std::array<std::uint8_t, kBytes>& bytes) {
  // A generator for each thread. A process that is forked later must not have the same one.
  thread_local std::random_device random;
  do {
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  } while (bytes == std::array<std::uint8_t, kBytes>{});
}

}  // namespace trace_context

// Returns what the header says, or nothing if it is not valid. Of a later version than 00, what
// follows the four fields is ignored.
inline std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  constexpr std::size_t kSize = 55;  // 00-<32 digits>-<16 digits>-<2 digits>
  TraceContext context;
  std::array<std::uint8_t, 1> version = {}, flags = {};
  const bool is_read = header.size() >= kSize && header[2] == '-' && header[35] == '-' &&
                       header[52] == '-' && trace_context::ReadHex(header.substr(0, 2), version) &&
                       trace_context::ReadHex(header.substr(3, 32), context.trace_id) &&
                       trace_context::ReadHex(header.substr(36, 16), context.span_id) &&
                       trace_context::ReadHex(header.substr(53, 2), flags);
  if (!is_read || version[0] == 0xFF || !context.IsValid()) return std::nullopt;
  if (header.size() > kSize && (version[0] == 0 || header[kSize] != '-')) return std::nullopt;
  context.flags = flags[0] & TraceContext::kSampled;  // the others have no meaning in version 00
  return context;
}

// Returns the header's value, in version 00.
inline std::string Traceparent(const TraceContext& context) {
  return "00-" + trace_context::Hex(context.trace_id) + '-' + trace_context::Hex(context.span_id) +
         (context.IsSampled() ? "-01" : "-00");
}

// Returns a new span of the same trace, which is recorded if that is.
inline TraceContext ChildOf(TraceContext parent) {
  trace_context::Fill(parent.span_id);
  return parent;
}

// Returns the first span of a new trace, which is recorded.
inline TraceContext NewTrace() {
  TraceContext context{.flags = TraceContext::kSampled};
  trace_context::Fill(context.trace_id);
  trace_context::Fill(context.span_id);
  return context;
}
