// SPDX-License-Identifier: MIT
// error: the completion token or fn belongs to another Asio: include singleflight/asio.hpp for

#include <asio/use_future.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <singleflight/asio.hpp>
#include <singleflight/boost_asio.hpp>

int main() {
  singleflight::Group<int, int> group;
  boost::asio::io_context io;
  AsyncDo(group, 1, boost::asio::bind_executor(io, [] { return 1; }), asio::use_future);
}
