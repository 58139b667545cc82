// SPDX-License-Identifier: MIT

// Tests the readers with which the other tests here check what is written: they refuse what is
// wrong.

#include <stdexcept>
#include <string>

#include "exposition.hpp"
#include "json_reader.hpp"
#include "support/catch.hpp"

namespace {

const std::string kHead = "# HELP a_total Help.\n# TYPE a_total counter\n";
const std::string kTimesHead = "# HELP t Help.\n# TYPE t histogram\n";
const std::string kTimes =
    kTimesHead +
    "t_bucket{le=\"0.5\"} 1\nt_bucket{le=\"1\"} 1\nt_bucket{le=\"+Inf\"} 3\nt_sum 9.5\nt_count 3\n";

bool IsRefused(const std::string& exposition) {
  try {
    test::ExpositionReader::Read(exposition);
    return false;
  } catch (const std::runtime_error&) {
    return true;
  }
}
bool IsRefusedAsJson(const std::string& json) {
  try {
    test::JsonReader::Read(json);
    return false;
  } catch (const std::runtime_error&) {
    return true;
  }
}
std::string Replaced(std::string text, const std::string& old, const std::string& by) {
  return text.replace(text.find(old), old.size(), by);
}

}  // namespace

TEST_CASE("The reader of expositions reads what is right") {
  const auto families = test::ExpositionReader::Read(
      kHead + "a_total{b=\"x\\\\\\\"\\n}, \",c=\"\"} 12.5\na_total 0\n" + kTimes);
  REQUIRE(families.size() == 2);
  CHECK(families[0].help == "Help.");
  CHECK(families[0].type == "counter");
  REQUIRE(families[0].samples.size() == 2);
  CHECK(families[0].samples[0].labels ==
        test::ExpositionFamily::Labels{{"b", "x\\\"\n}, "}, {"c", ""}});
  CHECK(families[0].samples[0].number == "12.5");
  CHECK(families[1].samples.size() == 5);
}

TEST_CASE("The reader of expositions refuses what Prometheus refuses") {
  CHECK(!IsRefused(kHead + "a_total 1\n"));
  CHECK(IsRefused(kHead + "a_total 1"));                            // no end of the line
  CHECK(IsRefused(kHead + "\na_total 1\n"));                        // an empty line
  CHECK(IsRefused("a_total 1\n"));                                  // no HELP
  CHECK(IsRefused("# HELP a_total Help.\na_total 1\n"));            // no TYPE
  CHECK(IsRefused(kHead + "a_total 1\n" + kHead + "a_total 1\n"));  // a family comes twice
  CHECK(IsRefused(kHead));                                          // no sample
  CHECK(IsRefused(kHead + "b_total 1\n"));                          // of another family
  CHECK(IsRefused(kHead + "a_total{b=\"1\"} 1\na_total{b=\"1\"} 2\n"));
  CHECK(IsRefused(kHead + "a_total{b=\"1\",b=\"2\"} 1\n"));
  CHECK(IsRefused(kHead + "a_total{b=\"1\"1\n"));
  CHECK(IsRefused(kHead + "a_total{b=\"\\t\"} 1\n"));
  CHECK(IsRefused(kHead + "a_total{b=\"\\\"} 1\n"));
  CHECK(IsRefused(kHead + "a_total{0b=\"1\"} 1\n"));
  CHECK(IsRefused(kHead + "a_total 1,5\n"));
  CHECK(IsRefused(kHead + "a_total -1\n"));
  CHECK(IsRefused("# HELP a Help.\n# TYPE a counter\na 1\n"));  // no _total
}

TEST_CASE("The reader of expositions refuses histograms that contradict themselves") {
  CHECK(!IsRefused(kTimes));
  CHECK(IsRefused(Replaced(kTimes, "t_count 3", "t_count 4")));
  CHECK(IsRefused(Replaced(kTimes, "t_count 3\n", "")));
  CHECK(IsRefused(Replaced(kTimes, "t_sum 9.5\n", "")));
  CHECK(IsRefused(Replaced(kTimes, "t_bucket{le=\"+Inf\"} 3\n", "")));
  CHECK(IsRefused(Replaced(kTimes, "} 1", "} 2")));        // not cumulative
  CHECK(IsRefused(Replaced(kTimes, "=\"1\"", "=\"0\"")));  // the borders do not grow
  CHECK(IsRefused(Replaced(kTimes, "{le=\"1\"}", "")));
}

TEST_CASE("The reader of JSON reads what is right and refuses what is wrong") {
  const test::JsonText read =
      test::JsonReader::Read(" {\"a\": [1, 0.5, {}], \"b\\\"\\\\\\u000a\": \"x\"}\n");
  CHECK(read["a"].elements.size() == 3);
  CHECK(read["a"][1].text == "0.5");
  CHECK(read["b\"\\\n"].text == "x");
  CHECK(IsRefusedAsJson(""));
  CHECK(IsRefusedAsJson("{\"a\": 1, \"a\": 1}"));
  CHECK(IsRefusedAsJson("{\"a\": 1,}"));
  CHECK(IsRefusedAsJson("[1 2]"));
  CHECK(IsRefusedAsJson("[1]]"));
  CHECK(IsRefusedAsJson("[01]"));
  CHECK(IsRefusedAsJson("[.5]"));
  CHECK(IsRefusedAsJson("[5.]"));
  CHECK(IsRefusedAsJson("[\"\n\"]"));
  CHECK(IsRefusedAsJson("[\"\\x\"]"));
  CHECK(IsRefusedAsJson("[\"a]"));
}
