// SPDX-License-Identifier: MIT
#pragma once

// ReadJson reads JSON strictly, as RFC 8259 says, and refuses a name that comes twice.

#include <algorithm>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace test {

struct JsonText {
  enum class Kind { kString, kNumber, kArray, kObject };

  Kind kind = Kind::kObject;
  std::string text;  // of a string, in UTF-8, or a number as it is written
  std::vector<JsonText> elements;
  std::map<std::string, JsonText> members;

  const JsonText& operator[](const std::string& name) const { return members.at(name); }
  const JsonText& operator[](std::size_t index) const { return elements.at(index); }
};

// Reads the kinds that statistics have: no literals and no negative numbers.
class JsonReader {
 public:
  // Throws std::runtime_error for what is wrong.
  static JsonText Read(std::string_view text) {
    JsonReader reader(text);
    JsonText read = reader.ReadText();
    reader.SkipSpace();
    Require(reader.rest_.empty(), "more follows");
    return read;
  }

 private:
  explicit JsonReader(std::string_view text) : rest_(text) {}

  static void Require(bool condition, const char* what) {
    if (!condition) throw std::runtime_error(what);
  }
  void SkipSpace() {
    while (!rest_.empty() && std::string_view(" \t\r\n").find(rest_.front()) != rest_.npos) {
      rest_.remove_prefix(1);
    }
  }
  char Take() {
    Require(!rest_.empty(), "the text ends too early");
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }
  bool TakeIf(char c) {
    SkipSpace();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  JsonText ReadText() {
    JsonText read;
    if (TakeIf('{')) {
      read.kind = JsonText::Kind::kObject;
      if (TakeIf('}')) return read;
      do {
        Require(TakeIf('"'), "a name is missing");
        const std::string name = ReadString();
        Require(TakeIf(':'), "a colon is missing");
        Require(read.members.emplace(name, ReadText()).second, "a name comes twice");
      } while (TakeIf(','));
      Require(TakeIf('}'), "an object does not end");
    } else if (TakeIf('[')) {
      read.kind = JsonText::Kind::kArray;
      if (TakeIf(']')) return read;
      do {
        read.elements.push_back(ReadText());
      } while (TakeIf(','));
      Require(TakeIf(']'), "an array does not end");
    } else if (TakeIf('"')) {
      read.kind = JsonText::Kind::kString;
      read.text = ReadString();
    } else {
      read.kind = JsonText::Kind::kNumber;
      read.text = ReadNumber();
    }
    return read;
  }

  std::string ReadString() {
    constexpr std::string_view kHex = "0123456789abcdef";
    std::string text;
    for (char c = Take(); c != '"'; c = Take()) {
      Require(static_cast<unsigned char>(c) >= 0x20, "a control character");
      if (c != '\\') {
        text += c;
        continue;
      }
      c = Take();
      if (c != 'u') {
        constexpr std::string_view kEscapes = "\"\\/bfnrt", kPlain = "\"\\/\b\f\n\r\t";
        Require(kEscapes.find(c) != kEscapes.npos, "a wrong escape");
        text += kPlain[kEscapes.find(c)];
        continue;
      }
      std::size_t code = 0;
      for (int i = 0; i < 4; ++i) {
        const std::size_t digit = kHex.find(Take());
        Require(digit != kHex.npos, "a wrong digit");
        code = 16 * code + digit;
      }
      Require(code < 0x80, "only control characters need a number");
      text += static_cast<char>(code);
    }
    return text;
  }

  std::string ReadNumber() {
    const auto digits = [this] {
      const std::size_t end = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
      Require(end > 0, "not a number");
      const std::string taken(rest_.substr(0, end));
      rest_.remove_prefix(end);
      return taken;
    };
    std::string number = digits();
    Require(number == "0" || number.front() != '0', "a number begins with 0");
    if (!rest_.starts_with('.')) return number;
    number += Take();
    return number += digits();
  }

  std::string_view rest_;
};

}  // namespace test
