// SPDX-License-Identifier: MIT
#pragma once

// How an exception travels to other processes, and what is thrown there.

#include <cstdint>
#include <exception>
#include <future>
#include <ios>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../../errors.hpp"
#include "payload.hpp"

namespace singleflight::redis::detail {

// A std::system_error with the very what() that it had in another process.
class RemoteSystemError final : public std::system_error {
 public:
  RemoteSystemError(std::error_code code, std::string what)
      : std::system_error(code), what_(std::make_shared<const std::string>(std::move(what))) {}
  const char* what() const noexcept override { return what_->c_str(); }

 private:
  std::shared_ptr<const std::string> what_;  // an exception's copy must not throw
};

// The categories that mean the same in every program.
inline const std::error_category* CategoryNamed(std::string_view name) noexcept {
  for (const std::error_category* known :
       {&std::generic_category(), &std::system_category(), &std::iostream_category(),
        &std::future_category(), &singleflight::Category()}) {
    if (name == known->name()) return known;
  }
  return nullptr;
}

struct PackedError {
  PayloadKind kind;
  std::string body;
};

// Errors: std::bad_alloc.
inline PackedError PackError(const std::exception_ptr& error) {
  const auto text = [](const std::exception& exception) {
    const char* const what = exception.what();
    return std::string(what != nullptr ? what : "");
  };
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& exception) {
    PackedError packed{PayloadKind::kSystemError, {}};
    detail::AppendNumber(packed.body, static_cast<std::uint32_t>(exception.code().value()));
    packed.body += exception.code().category().name();
    packed.body += '\0';
    packed.body += text(exception);
    return packed;
  } catch (const std::exception& exception) {
    return {PayloadKind::kException, text(exception)};
  } catch (...) {
    return {PayloadKind::kException, "an exception that is not derived from std::exception"};
  }
}

// Returns nothing if the code is of a category that this program does not know. `message` is then
// what is known of it. It is not set if `body` makes no sense.
inline std::exception_ptr UnpackSystemError(std::string_view body,
                                            std::optional<std::string>& message) {
  const std::size_t end = body.size() > 8 ? body.find('\0', 8) : std::string_view::npos;
  if (end == std::string_view::npos) return nullptr;
  message = body.substr(end + 1);
  const std::error_category* const category = CategoryNamed(body.substr(8, end - 8));
  if (category == nullptr) return nullptr;
  const auto value = static_cast<int>(static_cast<std::uint32_t>(detail::ReadNumber(body)));
  return std::make_exception_ptr(RemoteSystemError(std::error_code(value, *category), *message));
}

}  // namespace singleflight::redis::detail
