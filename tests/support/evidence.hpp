// SPDX-License-Identifier: MIT
#pragma once

// The tests that measure the figures of tests/README.md print them with this.

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string_view>

namespace test {

// Prints one figure in a single write.
template <class Figure>
void Evidence(std::string_view name, const Figure& figure) {
  std::ostringstream line;
  line << "evidence: " << name << ' ' << figure << '\n';
  std::cout << line.str() << std::flush;
}

// Whether the tests run their long forms, which EVIDENCE_LONG=1 asks for.
inline bool Long() {
  const char* const set = std::getenv("EVIDENCE_LONG");
  return set != nullptr && std::string_view(set) == "1";
}

}  // namespace test
