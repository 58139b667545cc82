// SPDX-License-Identifier: MIT

// Tests Labels: which names and values they take.

#include <singleflight/observe.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

namespace {

using singleflight::Labels;

std::string ValueOf(std::string_view value) { return Labels(value).All().at(0).second; }

}  // namespace

TEST_CASE("Labels: a name alone is the label group") {
  const std::vector<Labels::Pair> expected = {{"group", "pages"}};
  CHECK(Labels("pages").All() == expected);
  CHECK(Labels(std::string("pages")).All() == expected);
  CHECK(Labels(std::string_view("pages")).All() == expected);
  CHECK(Labels({{"group", "pages"}}).All() == expected);
}

TEST_CASE("Labels: they are sorted and one can be added") {
  const Labels labels = {{"b", "1"}, {"a", "2"}};
  const std::vector<Labels::Pair> expected = {{"a", "2"}, {"aa", "3"}, {"b", "1"}};
  CHECK(labels.With("aa", "3").All() == expected);
  CHECK(labels.All().size() == 2);
  CHECK(Labels{{"a", "2"}, {"b", "1"}} == labels);
}

TEST_CASE("Labels: one whose value is empty is left out because Prometheus sees none there") {
  CHECK(Labels({{"a", ""}, {"b", "1"}}) == Labels({{"b", "1"}}));
  CHECK(Labels("") == Labels());
}

TEST_CASE("Labels: a name that Prometheus does not allow is refused") {
  for (const char* name : {"", "0a", "a-b", "a b", "é", "__a", "le", "quantile", "a\n"}) {
    CAPTURE(name);
    CHECK_THROWS_AS(Labels({{name, "1"}}), std::invalid_argument);
    CHECK_THROWS_AS(Labels({{name, ""}}), std::invalid_argument);
  }
  CHECK(Labels({{"_a9_Z", "1"}, {"les", "1"}}).All().size() == 2);
}

TEST_CASE("Labels: a name that comes twice is refused") {
  CHECK_THROWS_AS(Labels({{"a", "1"}, {"a", "1"}}), std::invalid_argument);
  CHECK_THROWS_AS(Labels({{"a", "1"}, {"a", ""}}), std::invalid_argument);
  CHECK_THROWS_AS(Labels({{"a", ""}, {"a", "1"}}), std::invalid_argument);
  CHECK_THROWS_AS(Labels({{"a", ""}, {"a", ""}}), std::invalid_argument);
  CHECK_THROWS_AS(Labels("pages").With("group", "users"), std::invalid_argument);
  CHECK_THROWS_AS(Labels("pages").With("group", ""), std::invalid_argument);
}

TEST_CASE("Labels: a value may be any text in UTF-8") {
  for (const char* text : {"a", "\x7f", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF",
                           "\xE2\x82\xAC and \xF0\x9F\x9A\x80"}) {
    CAPTURE(text);
    CHECK(ValueOf(text) == text);
  }
}

TEST_CASE("Labels: what is not UTF-8 in a value is replaced byte by byte") {
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(ValueOf("a\xFFz") == "a" + bad + "z");
  CHECK(ValueOf("\x80") == bad);                      // nothing that it continues
  CHECK(ValueOf("\xC1\xBF") == bad + bad);            // would fit one byte
  CHECK(ValueOf("\xE0\x9F\xBF") == bad + bad + bad);  // would fit two
  CHECK(ValueOf("\xF0\x8F\xBF\xBF") == bad + bad + bad + bad);
  CHECK(ValueOf("\xED\xA0\x80") == bad + bad + bad);  // a surrogate
  CHECK(ValueOf("\xF4\x90\x80\x80") == bad + bad + bad + bad);
  CHECK(ValueOf("\xF5") == bad);
  CHECK(ValueOf("\xE2\x82") == bad + bad);  // ends too early
  CHECK(ValueOf("\xE2\x82z") == bad + bad + "z");
  CHECK(ValueOf("\xF0\x9F\x9A") == bad + bad + bad);
  CHECK(ValueOf(std::string_view("a\0b", 3)) == "a" + bad + "b");  // some readers stop there
}

TEST_CASE("Labels: values that are replaced by the same text are one series") {
  CHECK(Labels("\xFE") == Labels("\xFF"));
}
