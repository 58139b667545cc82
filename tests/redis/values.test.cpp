// SPDX-License-Identifier: MIT

// Tests what travels from one process to another: values, exceptions, and outcomes that cannot be
// read.

#include <future>
#include <ios>
#include <memory>
#include <optional>
#include <singleflight/errors.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

const std::string kToken = "0123456789abcdef0123456789abcdef";
const std::string kFence = "0000000000000001";
const std::uint64_t kStringTag = redis::detail::Fnv1a("string");

// Acts as another process that leads the call for "k".
void TakeLease(const RedisServer& server, const std::string& tag = "string") {
  server.Ask("HSET", LeaseName("t", "k"), "token", kToken, "fence", kFence, "who", "h:1", "since",
             "1", "tag", tag, "inbox", "t:inbox:" + kToken, "lasts", "3600000");
  server.Ask("PEXPIRE", LeaseName("t", "k"), "3600000");
}
// Acts as that process when its call has landed. `payload` is published as it is.
void PublishOutcome(const RedisServer& server, const std::string& payload) {
  const std::vector<std::string> inboxes = InboxesAt(server, LeaseName("t", "k"));
  server.Ask("SET", OutcomeName("t", "k", kToken), kFence + payload, "PX", "60000");
  server.Ask("DEL", LeaseName("t", "k"));
  for (const std::string& inbox : inboxes) {
    server.Ask("PUBLISH", inbox, kToken + "p" + kFence + payload);
  }
}

struct Point {
  int x;
  double y;
};

struct MoveOnly {
  explicit MoveOnly(int of) : number(std::make_unique<int>(of)) {}
  MoveOnly(MoveOnly&&) noexcept = default;
  MoveOnly& operator=(MoveOnly&&) = delete;
  std::unique_ptr<int> number;
};

// Decodes only numbers below 100, and throws for those with a sign.
struct SmallNumbers {
  static std::string Encode(const int& number) { return std::to_string(number); }
  static std::optional<int> Decode(std::string_view text) {
    if (text.front() == '-') throw std::out_of_range("a sign");
    return text.size() < 3 ? std::optional(std::stoi(std::string(text))) : std::nullopt;
  }
};

// An exception of a program's own, and a codec that knows it.
class NotFound : public std::runtime_error {
 public:
  explicit NotFound(int its_number) : std::runtime_error("not found"), number(its_number) {}
  int number;
};
struct OwnErrors : redis::Codec<std::string> {
  static std::optional<std::string> EncodeError(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const NotFound& not_found) {
      if (not_found.number < 0) throw std::logic_error("EncodeError throws");
      return std::to_string(not_found.number);
    } catch (...) {
      return std::nullopt;
    }
  }
  static std::exception_ptr DecodeError(std::string_view bytes) {
    const int number = std::stoi(std::string(bytes));  // throws for what it cannot read
    return number == 0 ? nullptr : std::make_exception_ptr(NotFound(number));
  }
};

struct First : redis::Codec<std::string> {
  static constexpr std::string_view kTag = "page, version 1";
};
struct Second : redis::Codec<std::string> {
  static constexpr std::string_view kTag = "page, version 2";
};

class OtherCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "of this program only"; }
  std::string message(int) const override { return "its message"; }
};
const OtherCategory kOtherCategory;

// What a caller got instead of a value.
struct Failure {
  std::exception_ptr error;
  std::string Message() const {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& its) {
      return its.what();
    }
  }
  template <class Ask>
  static Failure Of(Ask ask) {
    try {
      static_cast<void>(ask());
      return {};
    } catch (...) {
      return {std::current_exception()};
    }
  }
  template <class Error>
  std::optional<Error> As() const {
    try {
      if (error != nullptr) std::rethrow_exception(error);
    } catch (const Error& its) {
      return its;
    } catch (...) {
    }
    return std::nullopt;
  }
};

// Has a leader in one process throw `error`, and returns what a follower in another one gets.
template <class ValueCodec = redis::Codec<std::string>, class Error>
Failure Elsewhere(const RedisServer& server, Error error) {
  RedisProcess<std::string, ValueCodec> here(server), there(server);
  std::promise<void> begun;
  Failure own, failure;
  {
    JoiningThread leader([&] {
      own = Failure::Of([&] {
        return here.Do("k", [&]() -> std::string {
          begun.set_value();
          AwaitFollowers(server, "k", 1);
          throw error;
        });
      });
    });
    begun.get_future().wait();
    JoiningThread follower([&] { failure = Failure::Of([&] { return there.Do("k", NeverRun); }); });
  }
  CHECK(own.template As<Error>());
  return failure;
}

}  // namespace

template <>
struct singleflight::redis::Codec<Point> : singleflight::redis::CopyBytes<Point> {};
template <>
struct singleflight::redis::Codec<MoveOnly> {
  static std::string Encode(const MoveOnly& value) { return std::to_string(*value.number); }
  static std::optional<MoveOnly> Decode(std::string_view text) {
    return MoveOnly(std::stoi(std::string(text)));
  }
};

// ---- Values

TEST_CASE("redis: values of any bytes, up to max_value of them, reach other processes unchanged") {
  const RedisServer server;
  const redis::Options options;
  RedisPages here(server), there(server);
  std::string large(options.max_value, 'x');
  for (std::size_t i = 0; i < large.size(); i += 4099) large[i] = static_cast<char>(i >> 12);
  const std::size_t small = 16 * 1024;  // about the size up to which a message carries the value
  for (const std::string& value : {""s, "\0\r\n\xff"s, "*1\r\n$4\r\nPING\r\n"s,
                                   large.substr(0, small - 19), large.substr(0, small - 18),
                                   large.substr(0, small - 17), large.substr(0, 1 << 20), large}) {
    RedisLeader leader(here, "k", value);
    test::Caller follower([&] { return there.Do("k", NeverRun); });
    AwaitFollowers(server, "k", 1);
    CHECK((leader.Finish().value == value));
    CHECK((follower.Join().value == value));
  }
  CHECK(there.GetStats().remote == 8);
}

TEST_CASE("redis: a struct whose codec derives from CopyBytes reaches other processes") {
  const RedisServer server;
  RedisProcess<Point> here(server), there(server);
  RedisLeader<RedisProcess<Point>> leader(here, "k", Point{3, 0.5});
  test::Caller follower([&] { return there.Do("k", []() -> Point { throw 1; }); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  REQUIRE(follower.Join().value);
  CHECK(follower.Join().value->x == 3);
  CHECK(follower.Join().value->y == 0.5);
}

TEST_CASE(
    "redis: a value that cannot be copied or assigned reaches other processes through its codec") {
  const RedisServer server;
  RedisProcess<MoveOnly> here(server), there(server);
  int led = 0, followed = 0;
  {
    std::promise<void> begun;
    JoiningThread leader([&] {
      led = *here.Do("k",
                     [&] {
                       begun.set_value();
                       AwaitFollowers(server, "k", 1);
                       return MoveOnly(7);
                     })
                 ->number;
    });
    begun.get_future().wait();
    followed = *there.Do("k", []() -> MoveOnly { throw 1; })->number;
  }
  CHECK(led == 7);
  CHECK(followed == 7);
}

TEST_CASE("redis: a Value may be void") {
  const RedisServer server;
  RedisProcess<void> here(server), there(server);
  std::promise<void> begun;
  JoiningThread leader([&] {
    static_cast<void>(here.Do("k", [&] {
      begun.set_value();
      AwaitFollowers(server, "k", 1);
    }));
  });
  begun.get_future().wait();
  const Result<void> result = there.Do("k", [] { throw 1; });
  CHECK(result.shared());
  CHECK(result.role() == Role::kFollower);
}

TEST_CASE("redis: an exception from Encode reaches all callers") {
  struct Refuses {
    static std::string Encode(const int&) { throw std::runtime_error("not this one"); }
    static std::optional<int> Decode(std::string_view) { return std::nullopt; }
  };
  using Process = RedisProcess<int, Refuses>;
  const RedisServer server;
  Process here(server), there(server);
  RedisLeader<Process> leader(here, "k", 1);
  test::Caller follower([&] { return there.Do("k", [] { return 2; }); });
  AwaitFollowers(server, "k", 1);
  CHECK(leader.Finish().message == "not this one");
  CHECK(follower.Join().message == "not this one");
}

// ---- Exceptions

TEST_CASE(
    "redis: an exception is unchanged in its own process, and a RemoteError with its message in "
    "others") {
  const RedisServer server;
  RedisPages here(server), there(server);
  Failure own, local, remote;
  std::promise<void> begun;
  {
    JoiningThread leader([&] {
      own = Failure::Of([&] {
        return here.Do("k", [&]() -> std::string {
          begun.set_value();
          AwaitCallers(here, "k", 2);
          AwaitFollowers(server, "k", 1);
          throw std::domain_error("no\0pe"s);
        });
      });
    });
    begun.get_future().wait();
    JoiningThread same([&] { local = Failure::Of([&] { return here.Do("k", NeverRun); }); });
    JoiningThread follower([&] { remote = Failure::Of([&] { return there.Do("k", NeverRun); }); });
  }
  REQUIRE(own.As<std::domain_error>());
  CHECK(own.error == local.error);
  REQUIRE(remote.As<redis::RemoteError>());
  CHECK(remote.As<redis::RemoteError>()->what() == "no"s);
  CHECK(here.GetStats().calls.failures == 1);
  CHECK(there.GetStats().calls.failures == 1);
  CHECK(there.GetStats().remote == 1);
}

TEST_CASE(
    "redis: a thrown object that is not a std::exception reaches other processes as a message, "
    "too") {
  const RedisServer server;
  const auto error = Elsewhere(server, 42).As<redis::RemoteError>();
  REQUIRE(error);
  CHECK(error->what() == "an exception that is not derived from std::exception"s);
}

TEST_CASE("redis: a std::system_error keeps its code and its message in other processes") {
  const RedisServer server;
  const std::vector<std::error_code> codes = {
      std::make_error_code(std::errc::no_such_file_or_directory),
      std::error_code(ECONNRESET, std::system_category()),
      std::error_code(-7, std::system_category()),
      std::error_code(0, std::generic_category()),
      std::make_error_code(std::io_errc::stream),
      std::make_error_code(std::future_errc::broken_promise),
      std::error_code(static_cast<int>(std::errc::timed_out), singleflight::Category())};
  for (const std::error_code& code : codes) {
    const Failure failure = Elsewhere(server, std::system_error(code, "at work"));
    const auto error = failure.As<std::system_error>();
    REQUIRE(error);
    CHECK(error->code() == code);
    CHECK(error->code().category() == code.category());
    CHECK(failure.Message() == std::system_error(code, "at work").what());
  }
}

TEST_CASE("redis: a class derived from std::system_error keeps its code in other processes") {
  const RedisServer server;
  const auto error = Elsewhere(server, std::ios_base::failure("no disk")).As<std::system_error>();
  REQUIRE(error);
  CHECK(error->code() == std::io_errc::stream);
}

TEST_CASE("redis: a code of a category that another program may not have arrives as its message") {
  const RedisServer server;
  const Failure failure = Elsewhere(server, std::system_error(5, kOtherCategory, "at work"));
  CHECK_FALSE(failure.As<std::system_error>());
  REQUIRE(failure.As<redis::RemoteError>());
  CHECK(failure.As<redis::RemoteError>()->what() == "at work: its message"s);
}

TEST_CASE("redis: exceptions of a program's own reach other processes through its codec") {
  const RedisServer server;
  const auto error = Elsewhere<OwnErrors>(server, NotFound(7)).As<NotFound>();
  REQUIRE(error);
  CHECK(error->number == 7);
  const auto other = Elsewhere<OwnErrors>(server, std::logic_error("other"));
  REQUIRE(other.As<redis::RemoteError>());
  CHECK(other.As<redis::RemoteError>()->what() == "other"s);
}

TEST_CASE("redis: an error that a codec cannot read makes another process run the function") {
  using Process = RedisProcess<std::string, OwnErrors>;
  const RedisServer server;
  Process here(server), there(server);
  RedisLeader<Process> leader(here, "k", [](const auto&) -> std::string { throw NotFound(0); });
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitFollowers(server, "k", 1);
  CHECK(leader.Finish().message == "not found");
  CHECK(follower.Join().value == "mine");
  CHECK(there.GetStats().undecodable == 1);
}

TEST_CASE("redis: if EncodeError throws, the other processes are told to run the function") {
  using Process = RedisProcess<std::string, OwnErrors>;
  const RedisServer server;
  Process here(server), there(server);
  RedisLeader<Process> leader(here, "k", [](const auto&) -> std::string { throw NotFound(-1); });
  test::Caller follower([&] { return there.Do("k", [] { return "mine"s; }); });
  AwaitFollowers(server, "k", 1);
  CHECK(leader.Finish().message == "not found");
  CHECK(follower.Join().value == "mine");
  CHECK(there.GetStats().told_to_run == 1);
}

// ---- What cannot be read

TEST_CASE("redis: an outcome that a codec cannot read counts as if its leader had died") {
  using Process = RedisProcess<int, SmallNumbers>;
  const RedisServer server;
  for (const int number : {100, -1}) {  // Decode returns nothing for 100, and throws for -1
    Process here(server), there(server);
    RedisLeader<Process> leader(here, "k", number);
    test::Caller follower([&] { return there.Do("k", [] { return 5; }); });
    AwaitFollowers(server, "k", 1);
    CHECK(leader.Finish().value == number);
    CHECK(follower.Join().value == 5);
    CHECK(there.GetStats().undecodable == 1);
    CHECK(there.GetStats().takeovers == 1);
    Await([&] { return !server.Ask("EXISTS", LeaseName("t", "k")).number; });
  }
}

TEST_CASE(
    "redis: an outcome of another format, or a damaged one, counts as if its leader had died") {
  using redis::detail::Pack, redis::detail::PayloadKind, redis::detail::Checksum;
  const std::string whole = Pack({PayloadKind::kValue, "v"}, kStringTag, kToken);
  const auto with = [&](std::size_t at, int byte) {
    std::string changed = whole;
    changed[at] = static_cast<char>(byte);
    return changed;
  };
  std::string of_tomorrow = with(0, whole[0] + 1);
  const std::uint64_t checksum = Checksum(kToken, std::string_view(of_tomorrow).substr(0, 10), "v");
  for (std::size_t i = 0; i < 8; ++i) of_tomorrow[10 + i] = static_cast<char>(checksum >> 8 * i);
  const RedisServer server;
  for (const std::string& payload :
       {""s, "x"s, of_tomorrow, with(0, 0), with(1, 2), with(1, 9), with(5, 'x'), with(12, 'x'),
        with(18, 'w'), whole + "x", whole.substr(0, 10), whole.substr(0, 18),
        Pack({PayloadKind::kValue, "v"}, kStringTag, std::string(32, 'a')),
        Pack({PayloadKind::kValue, "v"}, kStringTag + 1, kToken),
        Pack({static_cast<PayloadKind>(9), "v"}, kStringTag, kToken),
        Pack({static_cast<PayloadKind>(0), "v"}, kStringTag, kToken)}) {
    RedisPages pages(server);
    TakeLease(server);
    test::Caller follower([&] { return pages.Do("k", [] { return "mine"s; }); });
    AwaitFollowers(server, "k", 1);
    PublishOutcome(server, payload);
    CHECK(follower.Join().value == "mine");
    const std::uint64_t undecodable = pages.GetStats().undecodable;
    CHECK((undecodable == 1 || undecodable == 2));  // it was told, and may have asked just then
    CHECK(pages.GetStats().outages == 0);
    server.Ask("FLUSHALL");
  }
}

TEST_CASE("redis: a system error's payload that is damaged counts as if its leader had died") {
  using redis::detail::Pack, redis::detail::PayloadKind;
  const RedisServer server;
  for (const std::string& body : {""s, "1234567"s, "12345678"s, "12345678generic"s}) {
    RedisPages pages(server);
    TakeLease(server);
    test::Caller follower([&] { return pages.Do("k", [] { return "mine"s; }); });
    AwaitFollowers(server, "k", 1);
    PublishOutcome(server, Pack({PayloadKind::kSystemError, body}, kStringTag, kToken));
    CHECK(follower.Join().value == "mine");
    server.Ask("FLUSHALL");
  }
}

TEST_CASE("redis: a valid outcome is read, whoever wrote it") {
  using redis::detail::Pack, redis::detail::PayloadKind;
  const RedisServer server;
  RedisPages pages(server);
  TakeLease(server);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  PublishOutcome(server, Pack({PayloadKind::kValue, "v"}, kStringTag, kToken));
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: messages that make no sense are ignored") {
  using redis::detail::Pack, redis::detail::PayloadKind;
  const RedisServer server;
  RedisPages pages(server);
  TakeLease(server);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  const std::string inbox = InboxesAt(server, LeaseName("t", "k")).at(0);
  Await([&] { return server.Ask("PUBLISH", inbox, "").number == 1; });  // it is subscribed
  const std::string payload = Pack({PayloadKind::kValue, "w"}, kStringTag, kToken);
  const std::string other = "f" + kToken.substr(1);
  for (const std::string& message :
       {"x"s, kToken, kToken + "p", kToken + "p" + kFence.substr(1), other + "p" + kFence + payload,
        kToken + "p" + "0000000000000002" + payload, kToken + "z" + kFence, "\r\n"s,
        kToken + "p" + kFence + "nonsense", std::string(1 << 20, 'x')}) {
    CHECK(server.Ask("PUBLISH", inbox, message).number == 1);
  }
  PublishOutcome(server, Pack({PayloadKind::kValue, "v"}, kStringTag, kToken));
  CHECK(follower.Join().value == "v");
  CHECK(pages.GetStats().outages == 0);
}

// ---- Types

TEST_CASE("redis: a value of another type is never given to a caller, and an error says so") {
  const RedisServer server;
  RedisPages users(server, {}, "shared");
  RedisProcess<int> orders(server, {.on_outage = redis::OnOutage::kFail}, "shared");
  RedisLeader leader(users, "42", "secret"s);
  const Failure failure = Failure::Of([&] { return orders.Do("42", [] { return 1; }); });
  const auto error = failure.As<std::system_error>();
  REQUIRE(error);
  CHECK(error->code() == std::errc::protocol_error);
  const std::string what = failure.Message();
  INFO(what);
  CHECK(what.find("shared:{42}") != std::string::npos);
  CHECK(what.find("'string'") != std::string::npos);
  CHECK(what.find("'int'") != std::string::npos);
  CHECK(what.find("secret") == std::string::npos);
  CHECK(orders.LastOutage().find("'string'") != std::string::npos);
}

TEST_CASE("redis: a caller of another type runs its function, and LastOutage says why") {
  const RedisServer server;
  RedisPages users(server, {}, "shared");
  RedisProcess<int> orders(server, {}, "shared");
  RedisLeader leader(users, "42", "a user"s);
  CHECK(*orders.Do("42", [] { return 1; }) == 1);
  CHECK(orders.GetStats().outages == 1);
  CHECK(orders.LastOutage().find("prefix") != std::string::npos);
  CHECK(leader.Finish().value == "a user");
  CHECK(users.GetStats().outages == 0);
}

TEST_CASE("redis: a codec's tag tells its versions apart") {
  using Old = RedisProcess<std::string, First>;
  const RedisServer server;
  Old old_program(server);
  RedisProcess<std::string, Second> new_program(server);
  RedisLeader<Old> leader(old_program, "k", "v"s);
  CHECK(*new_program.Do("k", [] { return "w"s; }) == "w");
  CHECK(new_program.LastOutage().find("'page, version 1', not 'page, version 2'") !=
        std::string::npos);
}

TEST_CASE("redis: of a key an outage's message has its name alone, in one line") {
  const RedisServer server;
  RedisPages users(server, {}, "shared");
  RedisProcess<int> orders(server, {}, "shared");
  const std::string key = "a\r\nINFO forged \x1b[0m line\0x"s;
  RedisLeader leader(users, key, "v"s);
  CHECK(*orders.Do(key, [] { return 1; }) == 1);
  const std::string why = orders.LastOutage();
  INFO(why);
  CHECK(why.find("forged") != std::string::npos);
  CHECK(why.find_first_of("\r\n\x1b\0"s) == std::string::npos);
}

TEST_CASE("redis: what a lease has as its type cannot forge another line of a log") {
  const RedisServer server;
  TakeLease(server, "int'\r\nINFO forged \x1b[0m" + std::string(10'000, 'x'));
  RedisPages pages(server);
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  const std::string why = pages.LastOutage();
  CHECK(why.find("forged") != std::string::npos);
  CHECK(why.find_first_of("\r\n\x1b") == std::string::npos);
  CHECK(why.size() < 2000);
}

TEST_CASE("redis: a lease that lasts longer than a clock can count is followed in peace") {
  const RedisServer server;
  for (const char* left : {"10000000000000", "9000000000000000"}) {
    TakeLease(server);
    server.Ask("HSET", LeaseName("t", "k"), "lasts", left);
    server.Ask("PEXPIRE", LeaseName("t", "k"), left);
    RedisPages pages(server, {.linger = 1h});
    const auto asked = [&] { return Calls(server, "evalsha") + Calls(server, "eval"); };
    const auto before = asked();
    CHECK(ErrorOf([&] { return pages.Do("k", NeverRun, {.timeout = 100ms}); }) ==
          std::errc::timed_out);
    CHECK(asked() - before < 10);
    const auto leases = pages.InspectFleet();
    REQUIRE(leases.size() == 1);
    CHECK(leases[0].left > 1h);
    CHECK(leases[0].left < std::chrono::hours(24 * 365 * 101));
  }
}
