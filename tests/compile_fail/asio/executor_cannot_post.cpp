// SPDX-License-Identifier: MIT
// error: AsyncDo cannot post to this executor

#include <asio/bind_executor.hpp>
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
  const auto handler = [](const std::exception_ptr&, const singleflight::Result<int>&) {};
  AsyncDo(
      group, 1, [] { return 1; }, asio::bind_executor(MinimalExecutor(), handler));
}
