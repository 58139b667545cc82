// SPDX-License-Identifier: MIT

// Tests what the listener of a redis::Group, or of a redis::ReadThrough, is told, also across
// processes. See processes.hpp: a client of its own stands for a process.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/many.hpp>
#include <singleflight/observe.hpp>
#include <singleflight/redis.hpp>
#include <singleflight/redis_listener.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::CallOptions;
using singleflight::DoMany;
using singleflight::Future;
using singleflight::Landing;
using singleflight::LeaveReason;
using singleflight::NoListener;
using singleflight::StopSource;
using singleflight::redis::Codec;
using singleflight::redis::CopyBytes;
using singleflight::redis::LeaseInfo;

namespace fleet_listeners {

// A tag: the number of a process, and that of a call in it.
struct SpanTag {
  std::uint32_t process = 0, call = 0;
  bool operator==(const SpanTag&) const = default;
};
struct OtherTag {
  std::uint32_t process = 0, call = 0;
};
struct BadTag {
  int number = 0;
};

}  // namespace fleet_listeners

template <>
struct singleflight::redis::Codec<fleet_listeners::SpanTag>
    : singleflight::redis::CopyBytes<fleet_listeners::SpanTag> {};
template <>
struct singleflight::redis::Codec<fleet_listeners::OtherTag>
    : singleflight::redis::CopyBytes<fleet_listeners::OtherTag> {};
template <>
struct singleflight::redis::Codec<fleet_listeners::BadTag> {
  static std::string Encode(const fleet_listeners::BadTag& tag) {
    if (tag.number % 2 == 1) throw std::runtime_error("no encoding");
    return "x";
  }
  static std::optional<fleet_listeners::BadTag> Decode(std::string_view bytes) {
    if (bytes == "x") throw std::runtime_error("no decoding");
    return std::nullopt;
  }
};

namespace {

using fleet_listeners::BadTag;
using fleet_listeners::OtherTag;
using fleet_listeners::SpanTag;
using ToldLines = std::vector<std::string>;

template <class Tag>
std::string NameOfTag(const Tag& tag) {
  return std::to_string(tag.process) + '.' + std::to_string(tag.call);
}

// Keeps what it is told, as lines.
template <class Tag>
class FleetRecorder {
 public:
  explicit FleetRecorder(std::uint32_t process = 0) : notes_(std::make_shared<Notes>()) {
    notes_->process = process;
  }

  Tag OnLead(std::string_view key) {
    const std::lock_guard lock(notes_->mutex);
    const Tag tag{notes_->process, ++notes_->calls};
    notes_->lines.push_back("lead " + std::string(key) + ' ' + NameOfTag(tag));
    return tag;
  }
  void OnFollow(std::string_view key, const Tag& leader) { Note("follow", key, leader); }
  void OnRemoteLead(std::string_view key, const Tag& own, const Tag& leader) {
    std::function<void()> first;
    {
      const std::lock_guard lock(notes_->mutex);
      first = notes_->before_remote;
    }
    if (first) first();
    Note("remote", key, own, NameOfTag(leader));
  }
  void OnLand(std::string_view key, const Tag& own, const Landing& landing) {
    Note(landing.failed ? "fail" : "land", key, own, std::to_string(landing.callers));
  }
  void OnLeave(std::string_view key, const Tag& leader, LeaveReason why) {
    constexpr const char* kWhy[] = {"timeout", "stop", "left"};
    Note("leave", key, leader, kWhy[static_cast<unsigned char>(why)]);
  }
  void OnRefuse(std::string_view key, const std::error_code&) {
    const std::lock_guard lock(notes_->mutex);
    notes_->lines.push_back("refuse " + std::string(key));
  }

  ToldLines Lines() const {
    const std::lock_guard lock(notes_->mutex);
    return notes_->lines;
  }
  // Has OnRemoteLead do this first.
  void BeforeRemote(std::function<void()> then) const {
    const std::lock_guard lock(notes_->mutex);
    notes_->before_remote = std::move(then);
  }

 private:
  struct Notes {
    std::mutex mutex;
    std::uint32_t process = 0, calls = 0;
    ToldLines lines;
    std::function<void()> before_remote;
  };

  void Note(const char* what, std::string_view key, const Tag& tag, const std::string& more = {}) {
    const std::lock_guard lock(notes_->mutex);
    notes_->lines.push_back(what + (' ' + std::string(key)) + ' ' + NameOfTag(tag) +
                            (more.empty() ? "" : ": " + more));
  }

  std::shared_ptr<Notes> notes_;
};

template <class ListenerArg>
struct ListenedTraits : singleflight::GroupTraits {
  using Listener = ListenerArg;
};

// Like RedisProcess, with a listener.
template <class ListenerArg>
class ListenedProcess : private redis_process_detail::HasClient,
                        public singleflight::redis::Group<std::string, Codec<std::string>,
                                                          ListenedTraits<ListenerArg>> {
  using Base =
      singleflight::redis::Group<std::string, Codec<std::string>, ListenedTraits<ListenerArg>>;

 public:
  explicit ListenedProcess(const RedisServer& server, ListenerArg listener = ListenerArg(),
                           const singleflight::redis::Options& options = LongLease())
      : HasClient{singleflight::redis::Client(ClientOptionsFor(server))},
        Base(client, "t", options, std::move(listener)) {}

  singleflight::redis::Client& GetClient() { return client; }
};
using RecordedProcess = ListenedProcess<FleetRecorder<SpanTag>>;

class RecordedCache
    : private redis_process_detail::HasClient,
      public singleflight::redis::ReadThrough<std::string, Codec<std::string>,
                                              ListenedTraits<FleetRecorder<SpanTag>>> {
  using Base = singleflight::redis::ReadThrough<std::string, Codec<std::string>,
                                                ListenedTraits<FleetRecorder<SpanTag>>>;

 public:
  RecordedCache(const RedisServer& server, std::uint32_t process, const PageOptions& options)
      : HasClient{singleflight::redis::Client(ClientOptionsFor(server))},
        Base(client, "c", options, FleetRecorder<SpanTag>(process)) {}
};

template <class G>
ToldLines LinesOf(const G& group) {
  return group.GetListener().Lines();
}
template <class G>
void AwaitLine(const G& group, const std::string& line) {
  Await([&] {
    const ToldLines lines = LinesOf(group);
    return std::ranges::find(lines, line) != lines.end();
  });
}
FleetRecorder<SpanTag> Recorder(std::uint32_t process) { return FleetRecorder<SpanTag>(process); }

}  // namespace

// ---- One process

TEST_CASE("redis: a listener is told of the calls of its process as that of a Group is") {
  const RedisServer server;
  RecordedProcess pages(server, Recorder(1));
  CHECK(*pages.Do("a", [] { return "v"s; }) == "v");
  CHECK(LinesOf(pages) == ToldLines{"lead a 1.1", "land a 1.1: 1"});
  CHECK_THROWS_AS(pages.Do("b", []() -> std::string { throw std::runtime_error("down"); }),
                  std::runtime_error);
  RedisLeader<RecordedProcess> leader(pages, "c", "v"s);
  CHECK(ErrorOf([&] { return pages.Do("c", NeverRun, {.timeout = 1ms}); }) == std::errc::timed_out);
  StopSource stop;
  test::Caller follower([&] { return pages.Do("c", NeverRun, {.stop = stop.get_token()}); });
  AwaitCallers(pages, "c", 2);
  stop.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  leader.Finish();
  CHECK(LinesOf(pages) == ToldLines{"lead a 1.1", "land a 1.1: 1", "lead b 1.2", "fail b 1.2: 1",
                                    "lead c 1.3", "follow c 1.3", "leave c 1.3: timeout",
                                    "follow c 1.3", "leave c 1.3: stop", "land c 1.3: 1"});
  pages.Close();
  CHECK(ErrorOf([&] { return pages.Do("d", NeverRun); }) ==
        std::errc::resource_unavailable_try_again);
  CHECK(LinesOf(pages).back() == "refuse d");
}

TEST_CASE("redis: a listener is told why callers of DoMany leave") {
  const RedisServer server;
  RecordedProcess here(server, Recorder(1)), there(server, Recorder(2));
  RedisLeader<RecordedProcess> leader(there, "k", "v"s);
  const auto never = [](std::span<const std::string> keys) -> std::vector<std::string> {
    throw std::logic_error(keys.front());
  };
  CHECK_FALSE(DoMany(here, std::vector{"k"s}, never, {.timeout = 1ms}).at(0));
  CHECK(LinesOf(here).at(0) == "lead k 1.1");
  AwaitLine(here, "leave k 1.1: timeout");
}

// ---- Another process leads

TEST_CASE("redis: a process that follows is told the tag of the one that leads") {
  const RedisServer server;
  RecordedProcess here(server, Recorder(1)), there(server, Recorder(2));
  static_cast<void>(here.Do("before", [] { return "v"s; }));
  RedisLeader<RecordedProcess> leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  AwaitLine(there, "remote k 2.1: 1.2");
  test::Caller second([&] { return there.Do("k", NeverRun); });
  AwaitCallers(there, "k", 2);
  leader.Finish();
  CHECK(follower.Join().value == "v");
  CHECK(second.Join().value == "v");
  CHECK(LinesOf(there) ==
        ToldLines{"lead k 2.1", "remote k 2.1: 1.2", "follow k 2.1", "land k 2.1: 2"});
  CHECK(LinesOf(here) ==
        ToldLines{"lead before 1.1", "land before 1.1: 1", "lead k 1.2", "land k 1.2: 1"});
}

TEST_CASE("redis: a process that takes over is told who led before") {
  const RedisServer server;
  for (const bool in_do : {true, false}) {
    INFO("in Do: " << in_do);
    RecordedProcess here(server, Recorder(1)), there(server, Recorder(2));
    RedisLeader<RecordedProcess> leader(here, "k", "v"s);
    const auto fn = [] { return "w"s; };
    std::optional<Future<std::string>> future;
    if (!in_do) future.emplace(DoAsync(there, "k", fn));
    test::Caller caller([&] { return there.Do("k", fn); });
    AwaitLine(there, "remote k 2.1: 1.1");
    if (!in_do) AwaitLine(there, "follow k 2.1");
    REQUIRE(here.Cancel("k"));
    CHECK(caller.Join().value == "w");
    ToldLines expected = {"lead k 2.1", "remote k 2.1: 1.1", "land k 2.1: 1"};
    if (future) {
      CHECK(*future->Get() == "w");
      expected.back().back() = '2';
      expected.insert(expected.begin() + 2, "follow k 2.1");
    }
    ToldLines lines = LinesOf(there);
    // It may follow in the process before the answer of the server is there.
    if (future) std::ranges::sort(lines), std::ranges::sort(expected);
    CHECK(lines == expected);
    leader.Finish();
    CHECK(LinesOf(here) == ToldLines{"lead k 1.1", "fail k 1.1: 0"});
  }
}

TEST_CASE("redis: a process is told of each lease that it follows in turn") {
  const RedisServer server;
  RecordedProcess one(server, Recorder(1)), two(server, Recorder(2)), there(server, Recorder(3));
  RedisLeader<RecordedProcess> first(one, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitLine(there, "remote k 3.1: 1.1");
  const std::string inbox = InboxesAt(server, LeaseOf("k")).at(0);
  const std::string ask = first.Token() + 'a' + LeaseField(server, "k", "fence");
  server.Ask("DEL", LeaseOf("k"));
  RedisLeader<RecordedProcess> second(two, "k", "w"s);
  server.Ask("PUBLISH", inbox, ask);  // it asks again
  AwaitLine(there, "remote k 3.1: 2.1");
  second.Finish();
  CHECK(follower.Join().value == "w");
  CHECK(LinesOf(there) ==
        ToldLines{"lead k 3.1", "remote k 3.1: 1.1", "remote k 3.1: 2.1", "land k 3.1: 1"});
}

TEST_CASE("redis: work does not begin before the listener has been told who led before") {
  const RedisServer server;
  for (const std::string& way : {"Do"s, "DoAsync"s, "Cancel"s}) {
    INFO(way);
    RecordedProcess here(server, Recorder(1)), there(server, Recorder(2));
    std::promise<void> telling, told;
    there.GetListener().BeforeRemote([&] {
      telling.set_value();
      told.get_future().wait();
    });
    std::atomic<int> runs = 0;
    const auto fn = [&runs] {
      ++runs;
      return "w"s;
    };
    RedisLeader<RecordedProcess> leader(here, "k", "v"s);
    std::optional<Future<std::string>> future;
    std::unique_ptr<test::Caller<std::string>> caller;
    if (way == "DoAsync") {
      future.emplace(DoAsync(there, "k", fn));
    } else {
      caller = std::make_unique<test::Caller<std::string>>([&] { return there.Do("k", fn); });
    }
    telling.get_future().wait();
    REQUIRE(here.Cancel("k"));
    Await([&] {  // the other one has the lease
      const RedisAnswer token = server.Ask("HGET", LeaseOf("k"), "token");
      return !token.nil && token.text != leader.Token();
    });
    AwaitAnswersOf(there);
    CHECK(runs == 0);
    if (way == "Cancel") CHECK(there.Cancel("k"));
    told.set_value();
    if (future) {
      CHECK(*future->Get() == "w");
    } else if (way == "Cancel") {
      CHECK(caller->Join().error == std::errc::operation_canceled);
    } else {
      CHECK(caller->Join().value == "w");
    }
    Await([&] { return there.GetStats().calls.in_flight == 0; });
    CHECK(runs == (way == "Cancel" ? 0 : 1));
    const std::string landed = way == "Cancel" ? "fail k 2.1: 0" : "land k 2.1: 1";
    AwaitLine(there, landed);
    CHECK(LinesOf(there) == ToldLines{"lead k 2.1", "remote k 2.1: 1.1", landed});
    Await([&] { return server.Keys("t:{k}:lease").empty(); });
  }
}

TEST_CASE("redis: a lease that is made again still has the tag") {
  const RedisServer server;
  singleflight::redis::Options options = WithLease(150ms);
  RecordedProcess here(server, Recorder(1), options), there(server, Recorder(2));
  RedisLeader<RecordedProcess> leader(here, "k", "v"s);
  server.Ask("FLUSHALL");
  Await([&] { return !server.Keys(LeaseOf("k")).empty(); });
  test::Caller follower([&] { return there.Do("k", [] { return "w"s; }); });
  AwaitLine(there, "remote k 2.1: 1.1");
  leader.Finish();
  CHECK(follower.Join().value.has_value());
}

// ---- Tags

namespace {

// Counts what it is told, without a tag.
struct TaglessListener {
  void OnLead(std::string_view) { ++counts->leads; }
  void OnRemoteLead(std::string_view key) { counts->remotes += key == "k"; }
  struct Counts {
    std::atomic<int> leads = 0, remotes = 0;
  };
  std::shared_ptr<Counts> counts = std::make_shared<Counts>();
};
// Hears of nothing else.
struct RemoteOnlyListener : NoListener {
  void OnRemoteLead(std::string_view) { ++*remotes; }
  std::shared_ptr<std::atomic<int>> remotes = std::make_shared<std::atomic<int>>(0);
};
// Has no default constructor.
struct NamedListener {
  explicit NamedListener(std::atomic<int>& to) : lands(&to) {}
  void OnLand(std::string_view, const Landing&) const { ++*lands; }
  std::atomic<int>* lands;
};
// Whatever it does throws.
struct ThrowingListener {
  BadTag OnLead(std::string_view) { return BadTag{(*calls)++}; }
  void OnRemoteLead(std::string_view, const BadTag&, const BadTag& leader) {
    if (leader.number == 0) ++*remotes;
    throw std::runtime_error("a hook");
  }
  std::shared_ptr<int> calls = std::make_shared<int>(0);
  std::shared_ptr<std::atomic<int>> remotes = std::make_shared<std::atomic<int>>(0);
};

}  // namespace

TEST_CASE("redis: a listener without a tag is told that another process leads") {
  const RedisServer server;
  RedisPages here(server, LongLease());
  ListenedProcess<TaglessListener> there(server);
  ListenedProcess<RemoteOnlyListener> third(server);
  RedisLeader leader(here, "k", "v"s);
  test::Caller one([&] { return there.Do("k", NeverRun); });
  test::Caller other([&] { return third.Do("k", NeverRun); });
  Await([&] {
    return there.GetListener().counts->remotes == 1 && *third.GetListener().remotes == 1;
  });
  CHECK(there.GetListener().counts->leads == 1);
  CHECK(server.Ask("HEXISTS", LeaseOf("k"), "leader").number == 0);  // nothing travels
  leader.Finish();
}

TEST_CASE("redis: a leader that has sent no tag or another type of tag is told as an empty tag") {
  const RedisServer server;
  RedisPages plain(server, LongLease());
  ListenedProcess<FleetRecorder<OtherTag>> other(server, FleetRecorder<OtherTag>(8));
  RecordedProcess there(server, Recorder(2));
  RedisLeader leader(plain, "plain", "v"s);
  RedisLeader<ListenedProcess<FleetRecorder<OtherTag>>> other_leader(other, "other", "v"s);
  RedisLeader<ListenedProcess<FleetRecorder<OtherTag>>> cut_leader(other, "cut", "v"s);
  server.Ask("HSET", LeaseOf("cut"), "leader", "x");
  test::Caller one([&] { return there.Do("plain", NeverRun); });
  AwaitLine(there, "remote plain 2.1: 0.0");
  test::Caller two([&] { return there.Do("other", NeverRun); });
  AwaitLine(there, "remote other 2.2: 0.0");
  test::Caller three([&] { return there.Do("cut", NeverRun); });
  AwaitLine(there, "remote cut 2.3: 0.0");
  leader.Finish(), other_leader.Finish(), cut_leader.Finish();
}

TEST_CASE("redis: what a hook or a tag's Codec throws is dropped") {
  const RedisServer server;
  ListenedProcess<ThrowingListener> here(server), there(server);
  for (const std::string& key : {"a"s, "b"s}) {  // Decode throws, then Encode
    RedisLeader<ListenedProcess<ThrowingListener>> leader(here, key, "v"s);
    test::Caller follower([&] { return there.Do(key, NeverRun); });
    Await([&] { return *there.GetListener().remotes == (key == "a" ? 1 : 2); });
    leader.Finish();
    CHECK(follower.Join().value == "v");
  }
}

TEST_CASE("redis: InspectFleet shows the tag of a process that leads") {
  const RedisServer server;
  RecordedProcess here(server, Recorder(1)), there(server, Recorder(2));
  ListenedProcess<FleetRecorder<OtherTag>> other(server);
  RedisPages plain(server, LongLease());
  RedisLeader<RecordedProcess> leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  const std::vector<LeaseInfo> leases = there.InspectFleet();
  const std::vector<LeaseInfo> others = other.InspectFleet(), plains = plain.InspectFleet();
  leader.Finish();
  REQUIRE((leases.size() == 1 && others.size() == 1 && plains.size() == 1));
  CHECK((Codec<SpanTag>::Decode(leases[0].leader) == SpanTag{1, 1}));
  CHECK(leases[0].followers == 1);
  CHECK(others[0].leader == "");
  CHECK(plains[0].leader == "");
}

TEST_CASE("redis: a listener without a default constructor is given to the constructor") {
  const RedisServer server;
  std::atomic<int> lands = 0;
  ListenedProcess<NamedListener> pages(server, NamedListener(lands));
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  CHECK(lands == 1);
}

TEST_CASE("redis: a group is destroyed only after its listener has been told everything") {
  const RedisServer server;
  RedisPages here(server, LongLease());
  for (int i = 0; i < 50; ++i) {
    RedisLeader leader(here, "k", "v"s);
    std::atomic<bool> is_destroyed = false, was_late = false;
    {
      singleflight::redis::Client client(ClientOptionsFor(server));
      {
        singleflight::redis::Group<std::string, Codec<std::string>,
                                   ListenedTraits<FleetRecorder<SpanTag>>>
            there(client, "t", LongLease(), Recorder(2));
        there.GetListener().BeforeRemote([&] {
          LetOthersRun(100);
          if (is_destroyed) was_late = true;
        });
        Future<std::string> future = DoAsync(there, "k", NeverRun);
        if (i % 2 == 0) AwaitFollowers(server, "k", 1);
      }
      is_destroyed = true;
    }
    CHECK_FALSE(was_late);
  }
}

// ---- A cache

TEST_CASE("redis::ReadThrough: a listener is told of calls and of loads in the background") {
  const RedisServer server;
  RecordedCache here(server, 1, Stale()), there(server, 2, Stale());
  HeldLoad load("v");
  test::Caller leader([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller follower([&] { return there.Get("k", NeverRun); });
  AwaitLine(there, "remote k 2.1: 1.1");
  load.Finish();
  CHECK(leader.Join().value == "v");
  CHECK(follower.Join().value == "v");
  CHECK(LinesOf(here) == ToldLines{"lead k 1.1", "land k 1.1: 1"});
  CHECK(LinesOf(there) == ToldLines{"lead k 2.1", "remote k 2.1: 1.1", "land k 2.1: 1"});
  Age(server, "k", 1h + 1ms);
  HeldLoad refresh("new");
  CHECK(*here.Get("k", refresh.Load()) == "v");
  refresh.AwaitBegun();
  refresh.Finish();
  AwaitLine(here, "land k 1.3: 1");  // the load in the background
  const ToldLines lines = LinesOf(here);
  CHECK(std::ranges::count(lines, "lead k 1.2") == 1);
  CHECK(std::ranges::count(lines, "land k 1.2: 1") == 1);
  CHECK(std::ranges::count(lines, "lead k 1.3") == 1);
  CHECK(lines.size() == 6);
}

TEST_CASE("redis::ReadThrough: a later caller of the same process is told whose call it follows") {
  const RedisServer server;
  RecordedCache pages(server, 1, LongTtl());
  HeldLoad load("v");
  test::Caller leader([&] { return pages.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller later([&] { return pages.Get("k", NeverRun); });
  AwaitLine(pages, "remote k 1.2: 1.1");
  load.Finish();
  CHECK(leader.Join().value == "v");
  CHECK(later.Join().value == "v");
}

TEST_CASE("redis::ReadThrough: a process that waits for a newer value is told who loads it") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  RecordedCache here(server, 1, options), there(server, 2, options);
  CachePages writer(server, options);
  PutExpired(server, writer, "k");
  HeldLoad load("new");
  test::Caller leader([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller follower([&] { return there.Get("k", NeverRun); });
  AwaitLine(there, "remote k 2.1: 1.1");
  load.Finish();
  CHECK(leader.Join().value == "new");
  CHECK(follower.Join().value == "new");
}

// ---- Ready-made listeners

namespace {

struct MeasuredTraits : singleflight::GroupTraits {
  using Listener = singleflight::LatencyListener;
};
// Can neither be copied nor moved.
struct FixedListener {
  FixedListener() = default;
  FixedListener(const FixedListener&) = delete;
  FixedListener& operator=(const FixedListener&) = delete;
  void OnLand(std::string_view, const Landing&) { ++lands; }
  std::atomic<int> lands = 0;
};

}  // namespace

TEST_CASE("redis: a LatencyListener measures the calls of a group and its loads") {
  const RedisServer server;
  singleflight::redis::Client client(ClientOptionsFor(server));
  singleflight::redis::Group<std::string, Codec<std::string>, MeasuredTraits> group(client, "t");
  CHECK(*group.Do("k", [] { return "v"s; }) == "v");
  CHECK(group.GetListener().TimesOfSuccess().Count() == 1);
  singleflight::redis::ReadThrough<std::string, Codec<std::string>, MeasuredTraits> cache(
      client, "c", LongTtl());
  CHECK(*cache.Get("k", [] { return "v"s; }) == "v");
  CHECK(cache.GetListener().TimesOfSuccess().Count() == 1);
  singleflight::Metrics metrics;
  metrics.Add({{"group", "pages"}}, group).Add({{"group", "cache"}}, cache);
  CHECK(WritePrometheus(metrics).find("call_duration") != std::string::npos);
}

TEST_CASE("redis: a listener that cannot be moved is made in its group") {
  const RedisServer server;
  singleflight::redis::Client client(ClientOptionsFor(server));
  singleflight::redis::Group<std::string, Codec<std::string>, ListenedTraits<FixedListener>> group(
      client, "t");
  CHECK(*group.Do("k", [] { return "v"s; }) == "v");
  CHECK(group.GetListener().lands == 1);
}
