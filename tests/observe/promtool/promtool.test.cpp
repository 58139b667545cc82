// SPDX-License-Identifier: MIT

// Lets Prometheus' own tool check what WritePrometheus writes.

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <singleflight/observe.hpp>
#include <string>

#include "../sources.hpp"
#include "support/catch.hpp"
#include "support/temporary_directory.hpp"

namespace {

// Returns what the tool says about a text. It says nothing about a good one.
std::string Objections(const std::string& exposition) {
  const test::TemporaryDirectory directory;
  const std::string in = directory.Path() + "/in", out = directory.Path() + "/out";
  std::ofstream(in) << exposition;
  const std::string command =
      "'" TEST_PROMTOOL "' check metrics < '" + in + "' > '" + out + "' 2>&1";
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe)
  std::ifstream file(out);
  const std::string said(std::istreambuf_iterator<char>(file), {});
  return status == 0 || !said.empty() ? said : "it fails";
}

}  // namespace

TEST_CASE("Prometheus reads all statistics of the library and has no objections to their names") {
  CHECK(Objections(WritePrometheus(test::AllMetrics())) == "");
}

TEST_CASE("Prometheus objects to a family that comes twice and to a bad name") {
  const std::string text = WritePrometheus(test::AllMetrics());
  CHECK(Objections(text + text) != "");
  CHECK(Objections("# HELP a Help.\n# TYPE a counter\na 1\n") != "");
}
