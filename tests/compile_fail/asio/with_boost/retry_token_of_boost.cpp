// SPDX-License-Identifier: MIT
// error: the completion token or fn belongs to another Asio: include singleflight/asio.hpp for

#include <boost/asio/use_future.hpp>
#include <singleflight/asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  AsyncDo(
      group, 1, [] { return 1; }, singleflight::OnFailure::kRetry, boost::asio::use_future);
}
