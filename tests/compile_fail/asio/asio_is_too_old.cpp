// SPDX-License-Identifier: MIT
// error: singleflight/asio.hpp needs Asio 1.20 or newer

#define ASIO_VERSION_HPP
#define ASIO_VERSION 101802
#include <singleflight/asio.hpp>

int main() {}
