// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto fn = [one = std::make_unique<int>(1)] { return *one; };
  AsyncDo(group, 1, fn, singleflight::OnFailure::kRetry,
          [](const std::exception_ptr&, const singleflight::Result<int>&) {});
}
