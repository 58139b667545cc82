// SPDX-License-Identifier: MIT
#pragma once

// ReadExposition reads Prometheus' text format strictly: it refuses what Prometheus refuses, and
// what it reads but a writer should not write.

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace test {

struct ExpositionFamily {
  using Labels = std::map<std::string, std::string>;
  struct Sample {
    std::string name;
    Labels labels;
    std::string number;
  };
  std::string name, help, type;
  std::vector<Sample> samples;
};

class ExpositionReader {
 public:
  // Throws std::runtime_error for the first line that is wrong.
  static std::vector<ExpositionFamily> Read(std::string_view text) {
    ExpositionReader reader;
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      Require(end != text.npos, "the last line does not end", text);
      reader.ReadLine(text.substr(0, end));
      text.remove_prefix(end + 1);
    }
    reader.FinishFamily();
    return reader.families_;
  }

 private:
  using Family = ExpositionFamily;

  static void Require(bool condition, const char* what, std::string_view where) {
    if (!condition) throw std::runtime_error(std::string(what) + ": " + std::string(where));
  }
  static bool IsName(std::string_view name, std::string_view more) {
    if (name.empty() || (name.front() >= '0' && name.front() <= '9')) return false;
    for (const char c : name) {
      const bool is_word =
          (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
      if (!is_word && more.find(c) == more.npos) return false;
    }
    return true;
  }
  // Takes what is before the character from `text`, and the character.
  static std::string_view TakeUntil(std::string_view& text, char c) {
    const std::size_t end = text.find(c);
    Require(end != text.npos, "a character is missing", text);
    const std::string_view taken = text.substr(0, end);
    text.remove_prefix(end + 1);
    return taken;
  }
  // A nonnegative number without an exponent.
  static bool IsNumber(std::string_view number) {
    const std::size_t point = number.find('.');
    const auto is_digits = [](std::string_view digits) {
      return !digits.empty() && digits.find_first_not_of("0123456789") == digits.npos;
    };
    if (point == number.npos) return is_digits(number);
    return is_digits(number.substr(0, point)) && is_digits(number.substr(point + 1)) &&
           number.back() != '0';
  }
  static std::string Unescaped(std::string_view text, std::string_view escapes) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        plain += text[i];
        continue;
      }
      ++i;
      Require(i < text.size() && escapes.find(text[i]) != escapes.npos, "a wrong escape", text);
      plain += text[i] == 'n' ? '\n' : text[i];
    }
    return plain;
  }

  void ReadLine(std::string_view line) {
    if (line.starts_with("# HELP ")) {
      FinishFamily();
      line.remove_prefix(7);
      const std::string name(TakeUntil(line, ' '));
      Require(IsName(name, ":"), "not a name", name);
      Require(names_.insert(name).second, "a family comes twice", name);
      Require(!line.empty(), "an empty help", name);
      families_.push_back({name, Unescaped(line, "\\n"), "", {}});
    } else if (line.starts_with("# TYPE ")) {
      line.remove_prefix(7);
      const std::string name(TakeUntil(line, ' '));
      Require(!families_.empty() && families_.back().name == name, "a TYPE without HELP", name);
      Require(families_.back().type.empty(), "a second TYPE", name);
      Require(line == "counter" || line == "gauge" || line == "histogram", "not a type", line);
      families_.back().type = line;
    } else {
      ReadSample(line);
    }
  }

  void ReadSample(std::string_view line) {
    Require(!families_.empty() && !families_.back().type.empty(), "a sample without TYPE", line);
    Family& family = families_.back();
    Family::Sample sample;
    const std::size_t end = line.find_first_of("{ ");
    Require(end != line.npos, "no number", line);
    sample.name = line.substr(0, end);
    if (line[end] == '{') {
      line.remove_prefix(end + 1);
      bool more = true;
      while (more) {
        const std::string label(TakeUntil(line, '='));
        Require(IsName(label, ""), "not the name of a label", label);
        Require(line.starts_with('"'), "no quote", line);
        std::size_t close = 1;
        while (close < line.size() && line[close] != '"') close += line[close] == '\\' ? 2 : 1;
        Require(close < line.size(), "no second quote", line);
        const std::string value = Unescaped(line.substr(1, close - 1), "\\\"n");
        Require(sample.labels.emplace(label, value).second, "a label comes twice", label);
        line.remove_prefix(close + 1);
        Require(line.starts_with(',') || line.starts_with('}'), "no end of the labels", line);
        more = line.front() == ',';
        line.remove_prefix(1);
      }
      Require(line.starts_with(' '), "no blank", line);
      line.remove_prefix(1);
    } else {
      line.remove_prefix(end + 1);
    }
    Require(IsNumber(line), "not a number", line);
    sample.number = line;
    const std::string_view name = sample.name;
    if (family.type == "histogram") {
      Require(name.starts_with(family.name), "of another family", name);
      const std::string_view suffix = name.substr(family.name.size());
      Require(suffix == "_bucket" || suffix == "_sum" || suffix == "_count", "a suffix", name);
      Require((suffix == "_bucket") == sample.labels.contains("le"), "a bucket has le", name);
    } else {
      Require(name == family.name, "of another family", name);
      Require(name.ends_with("_total") == (family.type == "counter"), "counters have _total", name);
      Require(!sample.labels.contains("le"), "le belongs to buckets", name);
    }
    Require(series_.insert({sample.name, sample.labels}).second, "a series comes twice", name);
    family.samples.push_back(std::move(sample));
  }

  void FinishFamily() {
    if (families_.empty()) return;
    const Family& family = families_.back();
    Require(!family.samples.empty(), "a family without a sample", family.name);
    if (family.type != "histogram") return;
    // Each histogram has its buckets in order, the last of which is +Inf, its sum and its count.
    for (auto at = family.samples.begin(); at != family.samples.end();) {
      Family::Labels labels = at->labels;
      labels.erase("le");
      std::uint64_t count = 0;
      double border = 0;
      const auto next = [&](const char* suffix) {
        Require(at != family.samples.end() && at->name == family.name + suffix, suffix,
                family.name);
        Family::Labels others = at->labels;
        others.erase("le");
        Require(others == labels, "a histogram is not in one piece", family.name);
        return at++;
      };
      while (true) {
        const auto bucket = next("_bucket");
        const std::uint64_t more = std::stoull(bucket->number);
        Require(std::to_string(more) == bucket->number, "not a count", bucket->number);
        Require(more >= count, "not cumulative", family.name);
        count = more;
        const std::string& le = bucket->labels.at("le");
        if (le == "+Inf") break;
        Require(IsNumber(le) && std::stod(le) > border, "borders do not grow", le);
        border = std::stod(le);
      }
      next("_sum");
      Require(next("_count")->number == std::to_string(count), "count is not +Inf", family.name);
    }
  }

  std::set<std::string> names_;
  std::set<std::pair<std::string, Family::Labels>> series_;
  std::vector<Family> families_;
};

// Returns the number of a series, or "" if there is none.
inline std::string NumberOf(std::string_view exposition, const std::string& name,
                            const ExpositionFamily::Labels& labels) {
  for (const ExpositionFamily& family : ExpositionReader::Read(exposition)) {
    for (const auto& sample : family.samples) {
      if (sample.name == name && sample.labels == labels) return sample.number;
    }
  }
  return "";
}

}  // namespace test
