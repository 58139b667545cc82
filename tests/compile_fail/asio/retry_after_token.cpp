// SPDX-License-Identifier: MIT
// error: the completion token comes last: AsyncDo(group, key, fn, on_failure, token)

#include <singleflight/asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  AsyncDo(
      group, 1, [] { return 1; },
      [](const std::exception_ptr&, const singleflight::Result<int>&) {},
      singleflight::OnFailure::kRetry);
}
