// SPDX-License-Identifier: MIT
#pragma once

// What the handlers of the tests do, whatever the HTTP library is: see rules_table.hpp.

#include <functional>
#include <string>
#include <string_view>

#include "adapters/http/text.hpp"
#include "support/threads.hpp"

namespace test {

// What a handler sees of a request.
struct Seen {
  std::string method, target;
  HttpFields headers = {};
  std::string peer = {};

  // Returns the value of the header, or nothing.
  std::string Header(std::string_view name) const {
    const auto values = http_text::ValuesOf(headers, name);
    return values.empty() ? "" : std::string(values.front());
  }
};

struct Reply {
  int status = 200;
  HttpFields headers = {};
  std::string body = {};
};

struct Work {
  // Called until it returns true. The second argument is true when it is called for the first time
  // in a run.
  std::function<bool(const Seen&, bool begins, const StopToken&)> ready;
  std::function<Reply(const Seen&)> reply;
};

}  // namespace test
