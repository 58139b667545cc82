// SPDX-License-Identifier: MIT
#pragma once

// redis::Group: one leader for a fleet of processes, which share a Redis or Valkey server.
//
//   singleflight::redis::Client redis({.host = "redis"});  // one for a server and a process
//   singleflight::redis::Group<std::string> pages(redis, "shop:pages");
//
//   // Ten containers with a hundred callers each ask at once: one of them renders.
//   auto [page, shared] = pages.Do("/prices", [] { return Render("/prices"); });
//   auto result = co_await CoDo(pages, "/prices", render, stop);  // and DoAsync, AsyncDo, DoMany
//
// The callers of one process share one call of a group of its own. For each call, the client asks
// the server for the lease, which is the right of one process to lead. If it has the lease, one of
// the callers runs `fn`. If another process has it, the client waits for a message from that one.
// Callers in other processes get a copy of the value, made by a Codec, or an exception: see
// redis_codec.hpp.
//
// Warning: this saves work, but it is not a lock. `fn` runs twice at the same time if a leader's
// process stalls for longer than its lease, if the server loses its memory, or if it cannot be
// reached. If a second execution would do harm, make the store that `fn` writes to refuse the older
// of two writes. For that, the `fn` of Do may take a Lease, whose fence() grows with every lease of
// its key:
//
//   pages.Do("/prices", [](const singleflight::redis::Lease& lease) {
//     return Store(Render("/prices"), lease.fence());
//   });
//
// Within one process, a redis::Group behaves as a Group does. What differs:
//   - A process knows only after a round trip whether it leads. So a caller's timeout counts from
//     when it asks until it leads, too, and ends the wait for a server that does not answer. What
//     CoDo, AsyncDo and the others are given is kept until then: copied, or moved.
//   - A plain `fn` of CoDo or CoDoMany without an executor does not run on the thread that awaits,
//     but on Options::executor.
//   - `fn` of DoMany, CoDoMany and DoManyAsync runs again if another process gives up a key later.
//   - A caller that asks after a call has landed never gets its result, with two exceptions. It may
//     join a caller of its own process that asked earlier and is about to be notified. And it may
//     follow a call that has landed in another process, until that has published the outcome.
//   - shared() is true if other callers of this process have followed, or if another process led.
//     A leader does not know whether other processes follow.
//   - If all callers in the leader's process leave a call that can be stopped, another process
//     takes over and runs `fn`.
//   - Cancel is for the callers of this process. If it leads, another process that follows takes
//     over and runs `fn`.
//   - There is no ForgetUnshared, since no process knows all callers.
//   - Warning: processes that wait for each other's keys in a circle wait for ever, since deadlocks
//     are detected only within a process. Give callers timeouts.
//
// When something fails:
//   the leader's process dies       another caller leads, after at most `lease`
//   it stalls for longer than that  the same. Its late outcome reaches its own process
//   the server cannot be used       new callers: `on_outage` decides, at once. Followers wait for
//                                   the rest of the lease, and then likewise
//   the server hangs                the same, once it has been silent for `command_timeout`
//   the server refuses a command    new callers: `on_outage` decides
//   a publish meets an outage       it is tried again, as long as the lease would have lasted
//   a message is lost               followers ask again, twice in every `linger`
//   the server loses its memory     the leader makes the lease again, unless another is first
//   an outcome does not decode      another caller leads, at once
//   an outcome cannot be told       the processes that follow run `fn` themselves, at once
//   the key has another type        new callers: `on_outage` decides, and LastOutage says so
//
// Describe, Nodes, GetStats, LastOutage, Inspect and InspectFleet say what goes on. A listener is
// told of each call, and of the process that leads it: see redis_listener.hpp. README.md has the
// rights that a server's user needs, and what a fleet takes.
//
// Needs Redis 5, or any Valkey. TLS needs OpenSSL: link the CMake target singleflight::redis, or
// define SINGLEFLIGHT_REDIS_TLS and link -lssl -lcrypto. Runs on Linux and other systems with
// getentropy and poll.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/listening.hpp"
#include "detail/redis/blocking_caller.hpp"
#include "detail/redis/check_options.hpp"
#include "detail/redis/fleet.hpp"
#include "detail/redis/fleet_call.hpp"
#include "detail/redis/fleet_group.hpp"
#include "options.hpp"
#include "redis_client.hpp"
#include "redis_codec.hpp"
#include "redis_options.hpp"

namespace singleflight::redis {

// All Groups with the same server and prefix share one call for each key, in whatever process.
//
// Thread: every member but the destructor may be called from any thread at any time.
// Lifetime: the Client must outlive the Group. In a forked child, members that ask throw
//   `operation_not_permitted`, others know of nothing, and the destructor leaves the server and the
//   parent alone. None of them waits for a thread that the child does not have.
template <class Value, class ValueCodec = Codec<Value>, class Traits = GroupTraits>
class Group : public detail::FleetGroup<Value, detail::FleetCall<Value, ValueCodec, Traits>,
                                        detail::GroupContext> {
  static_assert(CodecFor<ValueCodec, Value>,
                "a codec needs static functions Encode(const Value&), whose result converts to "
                "std::string_view, and Decode(std::string_view), which returns "
                "std::optional<Value>");

  using Base =
      detail::FleetGroup<Value, detail::FleetCall<Value, ValueCodec, Traits>, detail::GroupContext>;
  using KeyRef = typename Base::KeyRef;
  using WithDefaultListener = singleflight::detail::WithDefaultListener<typename Traits::Listener>;

 public:
  using CodecType = ValueCodec;
  using Listener = typename Traits::Listener;

  // All names of the group on the server begin with `prefix`, which must not be empty, nor contain
  // braces: those mark the key. Give each type of value, and each format of it, a prefix of its
  // own. Asks the server for nothing yet.
  //
  // Errors: std::invalid_argument for a prefix or an option that cannot be used.
  Group(Client& client, std::string_view prefix, const Options& options = {})
      : Base(client, MakeContext(client, prefix, WithDefaultListener::Check(options))) {}
  // The same with a listener, which is moved here: see redis_listener.hpp.
  Group(Client& client, std::string_view prefix, const Options& options, Listener listener)
      : Base(client, MakeContext(client, prefix, options), std::move(listener)) {}

  // Asks the calls that are led asynchronously to stop, and waits until they have landed, as ~Group
  // does. Calls that wait for another process land with `operation_canceled`.
  //
  // Lifetime: no thread may be inside another member, or enter one, meanwhile.
  ~Group() = default;

  // Returns the result of the call in flight for `key` in any process. If there is none, leads one:
  // runs `fn()`, `fn(StopToken)` or `fn(const Lease&)`, whichever it accepts. The key is as in
  // singleflight::Group, and may be any bytes.
  //
  // Thread: blocks until the call lands. A leader runs `fn` on this thread, once. A follower does
  //   not run it.
  // Errors: what `fn` threw, and what Group::Do throws. If it threw in another process, see
  //   redis_codec.hpp. With OnOutage::kFail, also `not_connected` and `protocol_error`.
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn) {
    return Do(key, std::forward<Fn>(fn), CallOptions());
  }

  // Does the same for a caller with options, as in singleflight::Group. Waiting for the server and
  // for another process is following, too.
  //
  // Leaving: `timeout` and `stop` take effect at once, until this caller leads. If it was the one
  //   who would have led, another of its process's callers does.
  // Errors: also `timed_out` and `operation_canceled`.
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Do(const K& key, Fn&& fn, const CallOptions& options) {
    detail::CheckFleetFn<Value, Fn>();
    return this->DoWith(std::tuple(), key, fn, options);
  }

  template <class K = singleflight::detail::BracedKey<std::string>, class Fn,
            singleflight::detail::NotCallOptions CallOptionsArg>
  void Do(const K&, Fn&&, CallOptionsArg&&) = delete;  // write {.timeout = 50ms, .stop = token}

  // Makes the next caller for `key` start a new call, in every process. True if a call was in
  // flight in this one. Callers already on the call still get its result. So do callers that join
  // them in other processes, until these have heard of it. Does not wait for the server.
  //
  // Errors: throws `operation_not_permitted` in a forked child, and std::bad_alloc.
  template <class K = singleflight::detail::BracedKey<std::string>>
  bool Forget(const K& key) {
    this->core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    const std::shared_ptr<detail::GroupContext>& context = this->context_;
    std::string base = detail::BaseOf(context->prefix, adapted);
    const bool had = this->local_->Forget(adapted);  // before the server's answer does so
    context->Loop().Post([context, base = std::move(base)] { context->Forget(base); });
    return this->local_->Forget(adapted) || had;  // also a call that has begun meanwhile
  }

  // Makes the callers of this process's call for `key` get `operation_canceled`, and forgets the
  // call here, as Group::Cancel. True if one was in flight. If this process leads, its lease is
  // given back at once, and if other processes follow, one of them leads: it runs `fn` itself. If
  // another process leads, this one only stops following. Does not wait for the server.
  //
  // Thread, Errors: as for Group::Cancel. Also throws `operation_not_permitted` in a forked child.
  template <class K = singleflight::detail::BracedKey<std::string>>
  bool Cancel(const K& key) {
    this->core_.Start();
    return this->local_->Cancel(KeyRef::Adapt(key));
  }

  // Returns how many callers of this process are now on its call for `key`, or 0 if there is none.
  template <class K = singleflight::detail::BracedKey<std::string>>
  std::size_t Callers(const K& key) const {
    return this->IsForked() ? 0 : this->local_->Callers(key);
  }

  // Returns the counts of this process.
  Stats GetStats() const { return this->FleetStats(); }

  // LastOutage, Close, Inspect, InspectFleet, and what callers that do not block use, as in
  // singleflight::Group: see detail/redis/fleet_group.hpp.

 private:
  static auto MakeContext(Client& client, std::string_view prefix, const Options& options) {
    detail::CheckGroupOptions(prefix, options);
    return std::make_shared<detail::GroupContext>(detail::ClientAccess::FleetOf(client),
                                                  std::string(prefix), options,
                                                  std::string(detail::TagOf<Value, ValueCodec>()));
  }
};

}  // namespace singleflight::redis
