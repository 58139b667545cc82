// SPDX-License-Identifier: MIT
// error: AsyncDo cannot post to this executor

#include <boost/asio/bind_executor.hpp>
#include <singleflight/boost_asio.hpp>
#if __has_include(<boost/asio/any_completion_handler.hpp>)
#include <boost/asio/any_completion_handler.hpp>
using Handler =
    boost::asio::any_completion_handler<void(std::exception_ptr, singleflight::Result<int>)>;
#else  // an older Boost
struct Handler {
  struct executor_type {
    template <class Function>
    void execute(Function) const {}
    bool operator==(const executor_type&) const noexcept = default;
  };
  executor_type get_executor() const noexcept { return {}; }
  void operator()(const std::exception_ptr&, const singleflight::Result<int>&) const {}
};
#endif

int main() {
  singleflight::Group<int, int> group;
  AsyncDo(
      group, 1, [] { return 1; }, Handler());
}
