// SPDX-License-Identifier: MIT

// AsyncDo in a file that includes asio.hpp and boost_asio.hpp. The completion token and fn decide
// which Asio serves them.

#include <asio/awaitable.hpp>
#include <asio/bind_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <concepts>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <singleflight/asio.hpp>
#include <singleflight/boost_asio.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::AsyncDo;
using singleflight::Group;
using singleflight::Result;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;

int MustNotRun() { throw std::logic_error("this fn must not run"); }
int One() { return 1; }

}  // namespace

TEST_CASE("Operations of Asio and of Boost.Asio in one file are callers of one call") {
  IntGroup group;
  asio::io_context io;
  boost::asio::io_context boost_io;
  HeldCall leader(group, "key");
  int sum = 0;
  const auto add = [&](const std::exception_ptr&, const Result<int>& result) { sum += *result; };
  const auto caller = [&]() -> asio::awaitable<void> {
    sum += *co_await AsyncDo(group, "key", MustNotRun, asio::use_awaitable);
  };
  const auto boost_caller = [&]() -> boost::asio::awaitable<void> {
    sum += *co_await AsyncDo(group, "key", MustNotRun, boost::asio::use_awaitable);
  };
  asio::co_spawn(io, caller(), asio::detached);
  boost::asio::co_spawn(boost_io, boost_caller(), boost::asio::detached);
  AsyncDo(group, "key", MustNotRun, asio::bind_executor(io, add));
  AsyncDo(group, "key", MustNotRun, boost::asio::bind_executor(boost_io, add));
  io.poll();
  boost_io.poll();
  CHECK(group.Callers("key") == 5);
  leader.Finish();
  io.run();
  CHECK(sum == 2);
  boost_io.run();
  CHECK(sum == 4);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 4});
}

TEST_CASE("In a file with both Asios, the token or fn chooses, however it is wrapped") {
  IntGroup group;
  asio::io_context io;
  boost::asio::io_context boost_io;
  const auto ignore = [](const std::exception_ptr&, const Result<int>&) {};
  STATIC_REQUIRE(std::same_as<decltype(AsyncDo(group, "key", One, asio::use_awaitable)),
                              asio::awaitable<Result<int>>>);
  STATIC_REQUIRE(std::same_as<decltype(AsyncDo(group, "key", One, boost::asio::use_awaitable)),
                              boost::asio::awaitable<Result<int>>>);
  AsyncDo(group, "1", asio::bind_executor(io, One), ignore);
  AsyncDo(group, "2", boost::asio::bind_executor(boost_io, One), ignore);
  AsyncDo(group, "3", One,
          boost::asio::bind_allocator(std::allocator<char>(),
                                      boost::asio::bind_executor(boost_io, ignore)));
  CHECK(io.run() == 2);        // fn and a handler
  CHECK(boost_io.run() == 4);  // two of each
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("In a file with both Asios, plain functions name the Asio whose threads run them") {
  IntGroup group;
  std::promise<int> results[2];
  const auto into = [](std::promise<int>& promise) {
    return [&promise](const std::exception_ptr&, const Result<int>& result) {
      promise.set_value(*result);
    };
  };
  singleflight::standalone_asio::AsyncDo(group, "1", One, into(results[0]));
  singleflight::boost_asio::AsyncDo(group, "2", One, into(results[1]));
  for (auto& result : results) CHECK(result.get_future().get() == 1);
}
