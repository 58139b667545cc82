// SPDX-License-Identifier: MIT
// error: AsyncDo cannot post to this executor

#include <asio/bind_executor.hpp>
#include <asio/use_future.hpp>
#include <singleflight/asio.hpp>

struct MinimalExecutor {
  template <class Function>
  void execute(Function function) const {
    function();
  }
  bool operator==(const MinimalExecutor&) const noexcept = default;
};

int main() {
  singleflight::Group<int, int> group;
  const auto fn = asio::bind_executor(MinimalExecutor(), [] { return 1; });
  static_cast<void>(AsyncDo(group, 1, fn, asio::use_future));
}
