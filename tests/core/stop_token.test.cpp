// SPDX-License-Identifier: MIT

// StopToken, StopSource and StopCallback. Every test runs on the library's own types, and on those
// that the public names mean, which are the standard's where the standard library has them.

#include <atomic>
#include <concepts>
#include <cstddef>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/detail/stop_token.hpp>
#include <singleflight/stop_token.hpp>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;

#if defined(SINGLEFLIGHT_OWN_STOP_TOKEN)
static_assert(std::same_as<singleflight::StopToken, singleflight::detail::portable::StopToken>);
#elif defined(__cpp_lib_jthread)
static_assert(std::same_as<singleflight::StopToken, std::stop_token>);
static_assert(std::same_as<singleflight::StopSource, std::stop_source>);
static_assert(std::same_as<singleflight::NoStopState, std::nostopstate_t>);
static_assert(std::derived_from<StopCallback<void (*)()>, std::stop_callback<void (*)()>>);
#endif

namespace {

namespace own = singleflight::detail::portable;

struct Own {
  using Token = own::StopToken;
  using Source = own::StopSource;
  using NoState = own::NoStopState;
  template <class Fn>
  using Callback = own::StopCallback<Fn>;
};
struct Public {
  using Token = singleflight::StopToken;
  using Source = singleflight::StopSource;
  using NoState = singleflight::NoStopState;
  template <class Fn>
  using Callback = singleflight::StopCallback<Fn>;
};

template <class Names>
using AnyCallback = typename Names::template Callback<std::function<void()>>;

template <class T>
inline constexpr bool kMovesAndCopiesWithoutThrowing =
    std::is_nothrow_copy_constructible_v<T>&& std::is_nothrow_copy_assignable_v<T>&&
        std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T>&&
            std::is_nothrow_swappable_v<T>&& std::equality_comparable<T>;

struct Throws {
  void operator()() const {}
  explicit Throws(int) noexcept(false) { throw std::runtime_error("no callback"); }
};
struct Quiet {
  void operator()() const noexcept {}
};

template <class Names>
constexpr bool HasTheStandardsInterface() {
  using Token = typename Names::Token;
  using Source = typename Names::Source;
  using NoState = typename Names::NoState;
  using Callback = typename Names::template Callback<Quiet>;
  using ThrowingCallback = typename Names::template Callback<Throws>;
  static_assert(kMovesAndCopiesWithoutThrowing<Token> && kMovesAndCopiesWithoutThrowing<Source>);
  static_assert(std::is_nothrow_default_constructible_v<Token>);
  static_assert(std::default_initializable<Source>);
  static_assert(std::is_nothrow_constructible_v<Source, NoState>);
  static_assert(!std::convertible_to<NoState, Source>);
  static_assert(std::same_as<typename Callback::callback_type, Quiet>);
  static_assert(!std::copy_constructible<Callback> && !std::move_constructible<Callback>);
  static_assert(!std::is_copy_assignable_v<Callback> && !std::is_move_assignable_v<Callback>);
  static_assert(std::is_nothrow_constructible_v<Callback, Token, Quiet>);
  static_assert(std::is_nothrow_constructible_v<Callback, const Token&, const Quiet&>);
  static_assert(std::is_constructible_v<ThrowingCallback, Token, int>);
  static_assert(!std::is_nothrow_constructible_v<ThrowingCallback, Token, int>);
  static_assert(!std::is_constructible_v<Callback, Token, int>);
  static_assert(!std::is_constructible_v<Callback, Token>);
  static_assert(noexcept(std::declval<Source&>().request_stop()));
  static_assert(noexcept(std::declval<const Source&>().get_token()));
  return true;
}
static_assert(HasTheStandardsInterface<Own>() && HasTheStandardsInterface<Public>());

}  // namespace

TEMPLATE_TEST_CASE("StopSource: the first request returns true and every other one false", "", Own,
                   Public) {
  typename TestType::Source source;
  typename TestType::Source copy = source;
  const typename TestType::Token token = source.get_token();
  CHECK(source.stop_possible());
  CHECK(token.stop_possible());
  CHECK_FALSE(source.stop_requested());
  CHECK_FALSE(token.stop_requested());
  CHECK(copy.request_stop());
  CHECK_FALSE(source.request_stop());
  CHECK_FALSE(copy.request_stop());
  CHECK(source.stop_requested());
  CHECK(source.stop_possible());
  CHECK(token.stop_requested());
  CHECK(token.stop_possible());
}

TEMPLATE_TEST_CASE("StopToken: without a source no stop is possible", "", Own, Public) {
  const typename TestType::Token none;
  CHECK_FALSE(none.stop_possible());
  CHECK_FALSE(none.stop_requested());

  typename TestType::Source empty{typename TestType::NoState()};
  CHECK_FALSE(empty.stop_possible());
  CHECK_FALSE(empty.stop_requested());
  CHECK_FALSE(empty.request_stop());
  CHECK(empty.get_token() == none);
}

TEMPLATE_TEST_CASE("StopToken: a stop stays possible until the last source is destroyed", "", Own,
                   Public) {
  using Source = typename TestType::Source;
  const Source none(typename TestType::NoState{});
  auto one = std::make_unique<Source>();
  auto other = std::make_unique<Source>(*one);
  const typename TestType::Token token = one->get_token();
  Source assigned;
  assigned = *one;
  one.reset();
  CHECK(token.stop_possible());
  *other = none;
  CHECK(token.stop_possible());
  Source moved(std::move(assigned));
  CHECK(token.stop_possible());
  const Source& same = moved;
  moved = same;
  CHECK(token.stop_possible());
  moved = none;
  CHECK_FALSE(token.stop_possible());
  CHECK_FALSE(token.stop_requested());
}

// libstdc++ 12 forgets to count down here.
TEST_CASE("StopSource: one that another is moved over no longer counts for its stop") {
  own::StopSource source;
  const own::StopToken token = source.get_token();
  own::StopSource& same = source;
  source = std::move(same);
  CHECK(token.stop_possible());
  source = own::StopSource();
  CHECK_FALSE(token.stop_possible());
  CHECK(source.stop_possible());
  CHECK(source.get_token().stop_possible());
}

TEMPLATE_TEST_CASE("StopToken: a requested stop stays requested without any source", "", Own,
                   Public) {
  auto source = std::make_unique<typename TestType::Source>();
  const typename TestType::Token token = source->get_token();
  source->request_stop();
  source.reset();
  CHECK(token.stop_requested());
  CHECK(token.stop_possible());
}

TEMPLATE_TEST_CASE("StopToken: what shares a stop is equal and what was moved from has none", "",
                   Own, Public) {
  using Token = typename TestType::Token;
  using Source = typename TestType::Source;
  Source source;
  Source other;
  CHECK(source == Source(source));
  CHECK(source != other);
  Token token = source.get_token();
  CHECK(token == source.get_token());
  CHECK(token != other.get_token());
  CHECK(Token() == Token());

  Token of_other = other.get_token();
  swap(token, of_other);
  CHECK(token == other.get_token());
  token.swap(of_other);
  CHECK(token == source.get_token());
  const Source was = source;
  swap(source, other);
  CHECK(other == was);
  source.swap(other);
  CHECK(source == was);

  const Token taken(std::move(token));
  CHECK(taken == source.get_token());
  CHECK_FALSE(token.stop_possible());  // NOLINT(bugprone-use-after-move)
  const Source moved(std::move(source));
  CHECK(moved == was);
  CHECK_FALSE(source.stop_possible());  // NOLINT(bugprone-use-after-move)
}

TEMPLATE_TEST_CASE("StopSource: it allocates once and tokens and callbacks never", "", Own,
                   Public) {
  const std::size_t before = allocations;
  typename TestType::Source source;
  CHECK(allocations - before == 1);
  {
    const typename TestType::Source copy = source;
    const typename TestType::Token token = copy.get_token();
    const typename TestType::template Callback<Quiet> callback(token, Quiet());
    const typename TestType::Source none(typename TestType::NoState{});
    source.request_stop();
  }
  CHECK(allocations - before == 1);
}

TEMPLATE_TEST_CASE("StopCallback: it runs once and on the thread that requests the stop", "", Own,
                   Public) {
  typename TestType::Source source;
  std::vector<std::thread::id> ran_on;
  const AnyCallback<TestType> one(source.get_token(),
                                  [&] { ran_on.push_back(std::this_thread::get_id()); });
  const AnyCallback<TestType> other(source.get_token(),
                                    [&] { ran_on.push_back(std::this_thread::get_id()); });
  CHECK(ran_on.empty());
  std::thread::id requester;
  bool first = false;
  JoiningThread([&] {
    requester = std::this_thread::get_id();
    first = source.request_stop();
  }).join();
  CHECK(first);
  CHECK(ran_on == std::vector(2, requester));
  CHECK_FALSE(source.request_stop());
  CHECK(ran_on.size() == 2);
}

TEMPLATE_TEST_CASE("StopCallback: one that was destroyed before does not run", "", Own, Public) {
  typename TestType::Source source;
  int ran = 0;
  std::optional<AnyCallback<TestType>> first, middle, last;
  first.emplace(source.get_token(), [&] { ran += 1; });
  middle.emplace(source.get_token(), [&] { ran += 10; });
  last.emplace(source.get_token(), [&] { ran += 100; });
  middle.reset();
  source.request_stop();
  CHECK(ran == 101);
}

TEMPLATE_TEST_CASE("StopCallback: after a request its constructor runs it on this thread", "", Own,
                   Public) {
  typename TestType::Source source;
  source.request_stop();
  std::thread::id ran_on;
  const AnyCallback<TestType> callback(source.get_token(),
                                       [&] { ran_on = std::this_thread::get_id(); });
  CHECK(ran_on == std::this_thread::get_id());
}

TEMPLATE_TEST_CASE("StopCallback: it does not run where no stop is possible", "", Own, Public) {
  int ran = 0;
  const AnyCallback<TestType> without_state(typename TestType::Token(), [&] { ++ran; });
  auto source = std::make_unique<typename TestType::Source>();
  const typename TestType::Token token = source->get_token();
  source.reset();
  const AnyCallback<TestType> without_source(token, [&] { ++ran; });
  CHECK(ran == 0);
}

TEMPLATE_TEST_CASE("StopCallback: it outlives the token and the sources", "", Own, Public) {
  auto source = std::make_unique<typename TestType::Source>();
  std::optional<AnyCallback<TestType>> callback;
  int ran = 0;
  callback.emplace(source->get_token(), [&] { ++ran; });
  source.reset();
  callback.reset();
  CHECK(ran == 0);
}

TEMPLATE_TEST_CASE("StopCallback: what it calls is deduced and may be a reference", "", Own,
                   Public) {
  struct CountsRvalues {
    int& ran;
    void operator()() && { ran += 1; }
    void operator()() & { ran += 10; }
  };
  typename TestType::Source source;
  int ran = 0;
  CountsRvalues counts{ran};
  const typename TestType::template Callback<CountsRvalues> kept(source.get_token(), counts);
  const typename TestType::template Callback<CountsRvalues&> referred(source.get_token(), counts);
  std::unique_ptr<int> value = std::make_unique<int>(100);
  auto move_only = [&ran, value = std::move(value)] { ran += *value; };
  if constexpr (std::same_as<TestType, Own>) {
    const own::StopCallback deduced(source.get_token(), std::move(move_only));
    source.request_stop();
  } else {
    const singleflight::StopCallback deduced(source.get_token(), std::move(move_only));
    source.request_stop();
  }
  CHECK(ran == 111);
}

TEMPLATE_TEST_CASE("StopCallback: one whose construction throws is not registered", "", Own,
                   Public) {
  typename TestType::Source source;
  using Callback = typename TestType::template Callback<Throws>;
  CHECK_THROWS_AS(Callback(source.get_token(), 1), std::runtime_error);
  CHECK(source.request_stop());
  CHECK_THROWS_AS(Callback(source.get_token(), 1), std::runtime_error);
}

TEMPLATE_TEST_CASE("StopCallback: a callback may destroy itself", "", Own, Public) {
  typename TestType::Source source;
  std::optional<AnyCallback<TestType>> callback;
  int ran = 0;
  const AnyCallback<TestType> before(source.get_token(), [&] { ++ran; });
  callback.emplace(source.get_token(), [&its = callback, &count = ran] {
    auto& counts = count;
    its.reset();
    ++counts;
  });
  const AnyCallback<TestType> after(source.get_token(), [&] { ++ran; });
  CHECK(source.request_stop());
  CHECK_FALSE(callback.has_value());
  CHECK(ran == 3);
}

TEMPLATE_TEST_CASE("StopCallback: a callback may destroy any other one", "", Own, Public) {
  typename TestType::Source source;
  std::vector<std::unique_ptr<AnyCallback<TestType>>> callbacks(5);
  int ran = 0;
  const auto destroy_others = [&](std::size_t mine) {
    ++ran;
    for (std::size_t i = 0; i < callbacks.size(); ++i) {
      if (i != mine) callbacks[i].reset();
    }
  };
  for (std::size_t i = 0; i < callbacks.size(); ++i) {
    callbacks[i] =
        std::make_unique<AnyCallback<TestType>>(source.get_token(), [&, i] { destroy_others(i); });
  }
  CHECK(source.request_stop());
  CHECK(ran == 1);
}

TEMPLATE_TEST_CASE("StopCallback: a callback may destroy one that has run", "", Own, Public) {
  typename TestType::Source source;
  std::optional<AnyCallback<TestType>> one, other;
  int ran = 0;
  const auto destroy_both_at_last = [&] {
    auto& first = one;
    auto& second = other;
    if (++ran < 2) return;
    first.reset();
    second.reset();
  };
  one.emplace(source.get_token(), destroy_both_at_last);
  other.emplace(source.get_token(), destroy_both_at_last);
  CHECK(source.request_stop());
  CHECK(ran == 2);
  CHECK_FALSE(one.has_value());
  CHECK_FALSE(other.has_value());
}

TEMPLATE_TEST_CASE("StopCallback: a callback may destroy the source that asked", "", Own, Public) {
  auto source = std::make_unique<typename TestType::Source>();
  typename TestType::Source& asks = *source;
  std::optional<AnyCallback<TestType>> callback;
  int ran = 0;
  callback.emplace(source->get_token(), [&] {
    auto& its = callback;
    auto& count = ran;
    source.reset();
    its.reset();
    ++count;
  });
  CHECK(asks.request_stop());
  CHECK(ran == 1);
  CHECK(source == nullptr);
}

TEMPLATE_TEST_CASE("StopCallback: a callback that requests the stop itself gets false", "", Own,
                   Public) {
  typename TestType::Source source;
  std::vector<bool> first;
  bool requested = false;
  const AnyCallback<TestType> callback(source.get_token(), [&] {
    requested = source.stop_requested();
    first.push_back(source.request_stop());
  });
  CHECK(source.request_stop());
  CHECK(requested);
  CHECK(first == std::vector{false});
}

TEMPLATE_TEST_CASE("StopCallback: one that a callback constructs runs at once", "", Own, Public) {
  typename TestType::Source source;
  std::vector<int> ran;
  std::optional<AnyCallback<TestType>> inner;
  const AnyCallback<TestType> outer(source.get_token(), [&] {
    ran.push_back(1);
    inner.emplace(source.get_token(), [&] { ran.push_back(2); });
    ran.push_back(3);
  });
  CHECK(source.request_stop());
  CHECK(ran == std::vector{1, 2, 3});
}

TEMPLATE_TEST_CASE("StopCallback: its destructor waits for a callback on another thread", "", Own,
                   Public) {
  for (int round = 0; round < 50; ++round) {
    typename TestType::Source source;
    std::atomic<bool> started = false, destroying = false;
    int finished = 0;  // not atomic: the destructor must order it
    std::optional<AnyCallback<TestType>> callback;
    callback.emplace(source.get_token(), [&] {
      started = true;
      Await([&] { return destroying.load(); });
      LetOthersRun(20);
      ++finished;
    });
    JoiningThread requester([&] { source.request_stop(); });
    Await([&] { return started.load(); });
    destroying = true;
    callback.reset();
    const int seen = finished;
    requester.join();
    REQUIRE(seen == 1);
  }
}

TEMPLATE_TEST_CASE("StopCallback: no destructor waits for another callback", "", Own, Public) {
  typename TestType::Source source;
  std::atomic<int> started = 0;
  std::latch release(1);
  std::vector<std::optional<AnyCallback<TestType>>> callbacks(4);
  std::vector<std::atomic<int>> ran(4);
  for (std::size_t i = 0; i < 4; ++i) {
    callbacks[i].emplace(source.get_token(), [&, i] {
      ++ran[i];
      if (++started == 2) release.wait();  // one has run, and two have not
    });
  }
  JoiningThread requester([&] { source.request_stop(); });
  Await([&] { return started == 2; });
  std::vector<int> ran_before;
  for (const auto& count : ran) ran_before.push_back(count);
  std::optional<AnyCallback<TestType>> late;
  bool late_ran = false;
  late.emplace(source.get_token(), [&] { late_ran = true; });
  CHECK(late_ran);
  late.reset();
  // The one that runs is among these. It is the only one whose destructor waits.
  std::vector<JoiningThread> destroyers;
  std::atomic<int> destroyed = 0;
  for (auto& callback : callbacks) {
    destroyers.emplace_back([&] {
      callback.reset();
      ++destroyed;
    });
  }
  Await([&] { return destroyed == 3; });
  release.count_down();
  destroyers.clear();
  requester.join();
  CHECK(destroyed == 4);
  CHECK(started == 2);
  for (std::size_t i = 0; i < 4; ++i) CHECK(ran[i] == ran_before[i]);
}

TEMPLATE_TEST_CASE("StopCallback: a new one in the place of one that still runs has no wait", "",
                   Own, Public) {
  typename TestType::Source source;
  std::optional<AnyCallback<TestType>> callback;
  std::latch replaced(1), release(1);
  int new_one_ran = 0;
  const auto replace = [&] {
    auto& its = callback;
    auto& count = new_one_ran;
    auto& token_of = source;
    auto& says = replaced;
    auto& until = release;
    its.reset();  // what is captured is gone from here on
    its.emplace(token_of.get_token(), [&count] { ++count; });
    says.count_down();
    until.wait();
  };
  callback.emplace(source.get_token(), replace);
  JoiningThread requester([&] { source.request_stop(); });
  replaced.wait();
  callback.reset();  // would wait for ever if it were taken for the one that runs
  release.count_down();
  requester.join();
  CHECK(new_one_ran == 1);
}

TEMPLATE_TEST_CASE("StopSource: of requests at one time exactly one returns true", "", Own,
                   Public) {
  for (int round = 0; round < 50; ++round) {
    typename TestType::Source source;
    int plain = 0;  // not atomic: written by the first request alone
    const AnyCallback<TestType> callback(source.get_token(), [&] { ++plain; });
    std::atomic<int> first = 0;
    std::latch start(3);
    std::vector<JoiningThread> requesters;
    for (int i = 0; i < 3; ++i) {
      requesters.emplace_back([&, its_source = source]() mutable {
        start.arrive_and_wait();
        if (its_source.request_stop()) ++first;
      });
    }
    requesters.clear();
    REQUIRE(first == 1);
    REQUIRE(plain == 1);
  }
}

TEMPLATE_TEST_CASE("StopCallback: one that is registered during a request runs exactly once", "",
                   Own, Public) {
  for (int round = 0; round < 50; ++round) {
    typename TestType::Source source;
    int written = 0;  // not atomic: what the requester did before happens before the callbacks
    std::latch start(3);
    std::vector<JoiningThread> threads;
    std::vector<int> ran(2 * 20, 0);
    std::vector<int> saw(2 * 20, 0);
    std::vector<std::optional<AnyCallback<TestType>>> callbacks(2 * 20);
    for (std::size_t thread = 0; thread < 2; ++thread) {
      threads.emplace_back([&, thread] {
        const typename TestType::Token token = source.get_token();
        start.arrive_and_wait();
        for (std::size_t i = 20 * thread; i < 20 * (thread + 1); ++i) {
          callbacks[i].emplace(token, [&, i] {
            ++ran[i];
            saw[i] = written;
          });
        }
      });
    }
    threads.emplace_back([&] {
      start.arrive_and_wait();
      written = 7;
      source.request_stop();
    });
    threads.clear();
    REQUIRE(ran == std::vector<int>(2 * 20, 1));
    REQUIRE(saw == std::vector<int>(2 * 20, 7));
  }
}

TEMPLATE_TEST_CASE("StopCallback: one that is destroyed during a request never runs afterwards", "",
                   Own, Public) {
  for (int round = 0; round < 50; ++round) {
    typename TestType::Source source;
    std::latch start(3);
    std::atomic<int> ran_late = 0;
    std::vector<JoiningThread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        const typename TestType::Token token = source.get_token();
        start.arrive_and_wait();
        for (bool once_more = true; once_more;) {
          once_more = !token.stop_requested();
          int ran = 0;  // not atomic: the destructor must order it
          bool destroyed = false;
          {
            const AnyCallback<TestType> callback(token, [&] { destroyed ? ++ran_late : ++ran; });
          }
          destroyed = true;
          if (ran > 1 || (!once_more && ran != 1)) ++ran_late;
        }
      });
    }
    threads.emplace_back([&] {
      start.arrive_and_wait();
      for (int i = 0; i < round; ++i) std::this_thread::yield();
      source.request_stop();
    });
    threads.clear();
    REQUIRE(ran_late == 0);
  }
}

TEMPLATE_TEST_CASE("StopToken: who sees a stop requested sees what came before the request", "",
                   Own, Public) {
  for (int round = 0; round < 50; ++round) {
    typename TestType::Source source;
    int written = 0;  // not atomic: the request must order it
    int saw = 0;
    JoiningThread watching([&, token = source.get_token()] {
      Await([&] { return token.stop_requested(); });
      saw = written;
    });
    written = 7;
    source.request_stop();
    watching.join();
    REQUIRE(saw == 7);
  }
}

TEST_CASE("StopToken: the example of its header works") {
  StopSource shutdown;
  singleflight::Group<int, int> group;
  std::atomic<bool> loading = false, was_asked = false;
  const auto load = [&](StopToken stop) {
    loading = true;
    Await([&] { return stop.stop_requested(); });
    was_asked = true;
    return 1;
  };
  Caller caller([&] { return group.Do(1, load, {.stop = shutdown.get_token()}); });
  Await([&] { return loading.load(); });
  shutdown.request_stop();
  CHECK(caller.Join().value == 1);
  CHECK(was_asked);
}
