// SPDX-License-Identifier: MIT
#pragma once

// The figures of the README's table "How it is tested", printed by the tests that measure them.

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string_view>

namespace test {

// Prints one figure, in one piece.
template <class Figure>
void Evidence(std::string_view name, const Figure& figure) {
  std::ostringstream line;
  line << "evidence: " << name << ' ' << figure << '\n';
  std::cout << line.str() << std::flush;
}

// Whether the tests take the time for their long forms: EVIDENCE_LONG=1.
inline bool Long() {
  const char* const set = std::getenv("EVIDENCE_LONG");
  return set != nullptr && std::string_view(set) == "1";
}

}  // namespace test
