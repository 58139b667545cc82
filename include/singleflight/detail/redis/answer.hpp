// SPDX-License-Identifier: MIT
#pragma once

// Answer: how a command ended.

#include <string>

#include "reply.hpp"

namespace singleflight::redis::detail {

struct Answer {
  enum class Kind : unsigned char {
    kReply,    // the server has run it, and `reply` is no error
    kRefused,  // the server has answered with an error. `reply` is that, or is too large
    kNotSent,  // the server has not got it, and will not
    kUnknown,  // the server may have run it
  };

  bool IsReply() const noexcept { return kind == Kind::kReply; }

  Kind kind = Kind::kNotSent;
  Reply reply = {};
  std::string why = {};  // which server, and what happened, in one line. Empty if it is a reply
};

}  // namespace singleflight::redis::detail
