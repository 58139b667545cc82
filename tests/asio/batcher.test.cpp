// SPDX-License-Identifier: MIT

// Tests of AsyncDo with a Batcher in place of a group.

#include <cstdint>
#include <singleflight/batcher.hpp>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using singleflight::Batcher;

namespace {

using Keys = std::vector<std::string>;

// A Batcher has one fn for all, so none of these ways takes an OnFailure with it.
template <class B>
concept AsksAgain = requires(B& batcher, asio::use_future_t<> token) {
  AsyncDo(batcher, "a", singleflight::OnFailure::kRetry, token);
}
|| requires(B& batcher) {
  singleflight::CoDo(batcher, "a", {}, {}, singleflight::OnFailure::kRetry);
}
|| requires(B& batcher) { singleflight::DoAsync(batcher, "a", singleflight::OnFailure::kRetry); };
static_assert(!AsksAgain<Batcher<IntGroup>>);

// Returns the length of each key.
std::vector<int> Lengths(std::span<const std::string> keys) {
  std::vector<int> lengths;
  for (const std::string& key : keys) lengths.push_back(static_cast<int>(key.size()));
  return lengths;
}

// The same, with a stop token.
std::vector<int> StoppableLengths(std::span<const std::string> keys, const test::StopToken&) {
  return Lengths(keys);
}

// An executor that runs a batch in the context's next round, as DataLoader does.
auto NextRound(asio::io_context& io) {
  return [&io](auto task) { asio::post(io, std::move(task)); };
}

}  // namespace

ASIO_TEST_CASE("Batcher: operations that start in one round of the context become one call") {
  IntGroup group;
  asio::io_context io;
  std::vector<Keys> calls;
  Batcher batcher(
      group,
      [&](std::span<const std::string> keys) {
        calls.emplace_back(keys.begin(), keys.end());
        return Lengths(keys);
      },
      {.max_delay = 0ms}, NextRound(io));
  Answer one;
  Answer two;
  Answer also_two;
  AsyncDo(batcher, "a", Into(one, io));
  AsyncDo(batcher, "bb", Into(two, io));
  AsyncDo(group, std::string_view("bb"), MustNotRun, Into(also_two, io));  // joins the batch's call
  CHECK(calls.empty());
  io.run();
  CHECK(calls == std::vector<Keys>{{"a", "bb"}});
  CHECK(one.outcome.value == 1);
  CHECK(two.outcome.value == 2);
  CHECK(also_two.outcome.value == 2);
  CHECK(two.outcome.role == Role::kLeader);
  CHECK(also_two.outcome.role == Role::kFollower);
  CHECK(one.calls + two.calls + also_two.calls == 3);
}

ASIO_TEST_CASE("Batcher: coroutines of one context await keys of one batch after another") {
  IntGroup group;
  asio::io_context io;
  int calls = 0;
  int sum = 0;
  Batcher batcher(
      group,
      [&](std::span<const std::string> keys) {
        ++calls;
        return Lengths(keys);
      },
      {.max_delay = 0ms}, NextRound(io));
  const auto await = [&](std::string first, std::string second) -> asio::awaitable<void> {
    const auto length = co_await AsyncDo(batcher, first, use_awaitable);
    const auto next = co_await AsyncDo(batcher, second, use_awaitable);
    sum += *length + *next;
  };
  Spawn(io, await("a", "bb"));
  Spawn(io, await("ccc", "dddd"));
  io.run();
  CHECK(sum == 10);
  CHECK(calls == 2);
}

ASIO_TEST_CASE("Promise 11: a key whose only operation is cancelled is not loaded") {
  IntGroup group;
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer leaves;
  Answer stays;
  Batcher batcher(group, StoppableLengths);
  AsyncDo(batcher, "a", Into(leaves, io, signal));
  AsyncDo(batcher, "bb", Into(stays, io));
  signal.emit(asio::cancellation_type::terminal);
  batcher.Flush();
  io.run();
  CHECK(leaves.aborted);
  CHECK(stays.outcome.value == 2);
  CHECK(batcher.GetStats().keys == 1);
  CHECK(batcher.GetStats().dropped == 1);
}

ASIO_TEST_CASE("Batcher: a key in braces is the key that was meant, or is refused") {
  using Key = std::pair<std::uint8_t, int>;
  struct KeyHash {
    std::size_t operator()(const Key& key) const { return key.first; }
  };
  Group<Key, int, KeyHash> group;
  asio::io_context io;
  Answer answer;
  Batcher batcher(group, [](std::span<const Key> keys) {
    return std::vector<int>(keys.size(), keys[0] == Key(std::uint8_t{7}, 2));
  });
  AsyncDo(batcher, {7L, 2}, Into(answer, io));
  CHECK_THROWS_AS(AsyncDo(batcher, {263, 2}, Into(answer, io)), std::out_of_range);
  CHECK(batcher.Flush() == 1);
  io.run();
  CHECK(answer.outcome.value == 1);
}

ASIO_TEST_CASE(
    "Destroying a Batcher: an operation that waits for its batch completes with owner_dead") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  {
    Batcher batcher(group, Lengths, {.max_delay = 24h});
    AsyncDo(batcher, "a", Into(answer, io));
  }
  io.run();
  CHECK(answer.outcome.error == std::errc::owner_dead);
}
