// SPDX-License-Identifier: MIT

// These tests interleave callers that find an expired value, and those that change it.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::ExploreAll;
using interleave::ExploreRandom;
using interleave::Mode;
using interleave::Point;
using interleave::Run;
using interleave::Untracked;

namespace {

constexpr int kKey = 1;

// The time is the same in a whole run.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  [[maybe_unused]] static constexpr bool is_steady = true;
  static time_point now() { return time_point(time); }
  static inline duration time{};
};

struct Traits : interleave::OneShard {
  using Clock = ::Clock;
};

// The value is the source's version when its load began.
using Users = singleflight::ReadThrough<int, std::size_t, singleflight::DefaultCache,
                                        singleflight::DefaultHash<int>,
                                        singleflight::DefaultEqual<int>, Traits>;

// Users whose value for kKey has expired. A refresh runs at once, on the thread that found that.
class Expired {
 public:
  Expired() : users_(std::make_unique<Users>(MakeOptions())) {
    users_->Put(kKey, 0);
    Clock::time += 10ms;
  }

  void Get() {
    Point(&invalidated_, Mode::kRead);
    std::size_t at_least;
    {
      const Untracked unseen;
      at_least = invalidated_;
    }
    const std::size_t version = *users_->Get(kKey, [this] {
      Point(&saved_, Mode::kRead);
      const Untracked unseen;
      ++loads_;
      return saved_;
    });
    const Untracked unseen;
    if (version < at_least) interleave::Fail("a caller got what was invalidated before it asked");
  }
  void Change() {
    std::size_t version;
    {
      Point(&saved_, Mode::kWrite);
      const Untracked unseen;
      version = ++saved_;
    }
    users_->Invalidate(kKey);
    Point(&invalidated_, Mode::kWrite);
    const Untracked unseen;
    invalidated_ = std::max(invalidated_, version);
  }

  std::size_t Loads() const { return loads_; }
  void CheckCached() {
    const auto cached = users_->Peek(kKey);
    if (cached && *cached < invalidated_) interleave::Fail("the cache has what was invalidated");
    if (users_->GetStats().calls.in_flight != 0) interleave::Fail("a call is in flight");
  }

 private:
  static Users::Options MakeOptions() {
    return {.ttl = 10ms, .stale_for = 100ms, .executor = [](auto task) { task(); }, .capacity = 10};
  }

  std::unique_ptr<Users> users_;
  std::size_t saved_ = 0, invalidated_ = 0, loads_ = 0;
};

const auto get = [](Expired& expired) { expired.Get(); };
const auto change_then_get = [](Expired& expired) {
  expired.Change();
  expired.Get();
};

template <class... Threads>
auto Scenario(const std::function<void(Expired&)>& at_end, Threads... threads) {
  return [=](Run& run) {
    const auto expired = std::make_shared<Expired>();
    (run.Thread([=] { threads(*expired); }), ...);
    run.AtEnd([=] {
      expired->CheckCached();
      at_end(*expired);
    });
  };
}

}  // namespace

TEST_CASE("Interleavings: callers that find an expired value refresh it once") {
  const auto once = [](Expired& expired) {
    if (expired.Loads() != 1) interleave::Fail("not loaded once");
  };
  ExploreAll("stale_once", Scenario(once, get, get));
  ExploreRandom("stale_once_3", 3000, Scenario(once, get, get, get));
}

TEST_CASE("Interleavings: a refresh of an expired value does not undo an Invalidate") {
  const auto nothing = [](Expired&) {};
  ExploreAll("stale_invalidate", Scenario(nothing, get, change_then_get));
  ExploreRandom("stale_invalidate_3", 3000, Scenario(nothing, get, change_then_get, get));
}
