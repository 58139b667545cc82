// SPDX-License-Identifier: MIT
#pragma once

// Writes the Stats of groups as text: as JSON, and in the format that Prometheus reads.
//
//   ToJson(stats)                      {"executions": 1, "followers": 49, ...}
//   ToJson({{"users", stats}})         {"users": {"executions": 1, "followers": 49, ...}}
//   ToPrometheus({{"users", stats}})   singleflight_executions_total{group="users"} 1 ...

#include <cstdint>
#include <iomanip>
#include <locale>
#include <map>
#include <singleflight/options.hpp>
#include <sstream>
#include <string>

using StatsByGroup = std::map<std::string, singleflight::Stats>;

inline constexpr const char* kJsonType = "application/json";
inline constexpr const char* kPrometheusType = "text/plain; version=0.0.4";

struct StatsField {
  const char* name;
  std::uint64_t singleflight::Stats::*value;
  const char* metric;
  const char* type;
  const char* help;
};

inline constexpr StatsField kStatsFields[] = {
    {"executions", &singleflight::Stats::executions, "singleflight_executions_total", "counter",
     "Calls begun."},
    {"followers", &singleflight::Stats::followers, "singleflight_followers_total", "counter",
     "Callers that joined a call in flight."},
    {"failures", &singleflight::Stats::failures, "singleflight_failures_total", "counter",
     "Calls that landed with an exception."},
    {"left", &singleflight::Stats::left, "singleflight_left_total", "counter",
     "Callers that gave up: timed out, stopped or left."},
    {"refused", &singleflight::Stats::refused, "singleflight_refused_total", "counter",
     "Callers that a limit turned away."},
    {"in_flight", &singleflight::Stats::in_flight, "singleflight_in_flight", "gauge",
     "Calls that have not landed yet."},
};

inline std::string ToJson(const singleflight::Stats& stats) {
  std::ostringstream json;
  json.imbue(std::locale::classic());
  const char* separator = "{";
  for (const StatsField& field : kStatsFields) {
    json << separator << '"' << field.name << "\": " << stats.*field.value;
    separator = ", ";
  }
  json << "}";
  return json.str();
}

// Returns one line. A name may be any text in UTF-8.
inline std::string ToJson(const StatsByGroup& groups) {
  std::ostringstream json;
  json.imbue(std::locale::classic());
  json << "{" << std::hex << std::setfill('0');
  const char* separator = "";
  for (const auto& [name, stats] : groups) {
    json << separator << '"';
    for (const char c : name) {
      if (static_cast<unsigned char>(c) < 0x20) {
        json << "\\u" << std::setw(4) << static_cast<int>(c);
      } else {
        json << (c == '"' || c == '\\' ? "\\" : "") << c;
      }
    }
    json << "\": " << ToJson(stats);
    separator = ", ";
  }
  json << "}\n";
  return json.str();
}

// Returns version 0.0.4 of the text format: each metric once, with a sample for each group.
inline std::string ToPrometheus(const StatsByGroup& groups) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  for (const StatsField& field : kStatsFields) {
    text << "# HELP " << field.metric << " " << field.help << "\n"
         << "# TYPE " << field.metric << " " << field.type << "\n";
    for (const auto& [name, stats] : groups) {
      text << field.metric << "{group=\"";
      for (const char c : name) {
        text << (c == '"' || c == '\\' || c == '\n' ? "\\" : "") << (c == '\n' ? 'n' : c);
      }
      text << "\"} " << stats.*field.value << "\n";
    }
  }
  return text.str();
}
