// SPDX-License-Identifier: MIT
// error: singleflight/boost_asio.hpp needs Boost 1.78 or newer

#define BOOST_ASIO_VERSION_HPP
#define BOOST_ASIO_VERSION 101802
#include <singleflight/boost_asio.hpp>

int main() {}
