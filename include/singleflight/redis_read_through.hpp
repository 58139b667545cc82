// SPDX-License-Identifier: MIT
#pragma once

// redis::ReadThrough: a cache that a fleet of processes shares on a Redis or Valkey server. A value
// that is not there is loaded by one process, once.
//
//   singleflight::redis::Client redis({.host = "redis"});
//   singleflight::redis::ReadThrough<Page> pages(redis, "shop:pages",
//                                                {.ttl = 60s, .stale_for = 10s});
//
//   const auto page = pages.Get("/prices", [] { return Render("/prices"); });
//   const auto page = co_await CoDo(pages, "/prices", render);  // and DoAsync, AsyncDo, DoMany
//   ...
//   SaveThePrices();
//   pages.Invalidate("/prices");  // no Get in any process sees the old page from here on
//
// The value is kept beside the lease of its key. So one round trip tells that there is a value, or
// that this process is to load it, or that it will be told what another one loads. A value that is
// loaded is put and told in one step, so no process loads again in between. All times are the
// server's.
//
// With `local_ttl`, values are also kept in this process, and most hits ask nobody.
//
// What a Get may see after an Invalidate has returned:
//   - in the process that called it, and in those without a local cache: no older value
//   - in others: no older value once the message has come. That takes as long as a message takes,
//     or up to local_ttl if the connection is lost meanwhile
//   - InvalidateAll in a Redis Cluster: likewise, with or without a local cache
//   - in a process whose server cannot be used: what its own loads return that began meanwhile
// If a server takes the place of another one and has lost the last writes, it has lost
// invalidations, too.
//
// Everything about leases, processes that die, and outages is as for a redis::Group: see redis.hpp.
// While the server cannot be used, callers get an expired value of the local cache, if stale_for
// allows that. Otherwise Options::on_outage decides.
//
// **Warning:** with stale_for or early_refresh, a load may outlive the caller that brought it. So
// it must own what it uses: capture by value.
//
// Needs what redis.hpp needs.

#include <algorithm>
#include <concepts>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "detail/cached_load.hpp"
#include "detail/errors.hpp"
#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/landed_state.hpp"
#include "detail/listening.hpp"
#include "detail/redis/cache_command.hpp"
#include "detail/redis/cache_context.hpp"
#include "detail/redis/cached_call.hpp"
#include "detail/redis/check_options.hpp"
#include "detail/redis/command_result.hpp"
#include "detail/redis/fleet_group.hpp"
#include "detail/redis/outage.hpp"
#include "key_result.hpp"
#include "options.hpp"
#include "redis_call_info.hpp"
#include "redis_client.hpp"
#include "redis_codec.hpp"
#include "redis_read_through_options.hpp"

namespace singleflight::redis {

// All ReadThroughs with the same server and prefix are one cache, in whatever process.
//
// Thread: every member but the destructor may be called from any thread at any time.
// Lifetime: the Client must outlive the ReadThrough. In a forked child, members that ask throw
//   `operation_not_permitted`, also for what the local cache has. The rest is as for redis::Group.
template <class Value, class ValueCodec = Codec<Value>, class Traits = GroupTraits>
class ReadThrough : public detail::FleetGroup<Value, detail::CachedCall<Value, ValueCodec, Traits>,
                                              detail::CacheContext<Value, Traits>> {
  static_assert(!std::is_void_v<Value>, "Value is void: there is nothing to cache; use a Group");
  static_assert(std::copy_constructible<Value>,
                "a value that the server or the local cache has is copied for its callers");
  static_assert(CodecFor<ValueCodec, Value>,
                "a codec needs static functions Encode(const Value&), whose result converts to "
                "std::string_view, and Decode(std::string_view), which returns "
                "std::optional<Value>");

  using Call = detail::CachedCall<Value, ValueCodec, Traits>;
  using Context = detail::CacheContext<Value, Traits>;
  using Base = detail::FleetGroup<Value, Call, Context>;
  using KeyRef = typename Base::KeyRef;
  using Command = detail::CacheCommand;
  using WithDefaultListener = singleflight::detail::WithDefaultListener<typename Traits::Listener>;

 public:
  using Listener = typename Traits::Listener;
  using CodecType = ValueCodec;
  using Options = ReadThroughOptions<Value>;
  using Waiter = typename Base::Waiter;

  // All names of the cache on the server begin with `prefix`, as for a redis::Group. Asks the
  // server for nothing yet.
  //
  // Errors: std::invalid_argument for a prefix or an option that cannot be used.
  ReadThrough(Client& client, std::string_view prefix, const Options& options)
      : ReadThrough(Made(), client, prefix, WithDefaultListener::Check(options)) {}
  // The same with a listener, which is moved here: see redis_listener.hpp.
  ReadThrough(Client& client, std::string_view prefix, const Options& options, Listener listener)
      : ReadThrough(Made(), client, prefix, options, std::move(listener)) {}

  // As ~Group of redis.hpp. Waits for background loads, and for commands such as InvalidateThen.
  ~ReadThrough() {
    if (this->IsForked()) {
      static_cast<void>(refreshes_.release());
      return;
    }
    this->Drain(*refreshes_);
    if (!this->context_->cache->IsOpen()) return;
    this->context_->Loop().Post([cache = this->context_->cache] { cache->Close(); });
  }

  // Returns the local cache's value for `key`, or else the server's. If there is none, one caller
  // of all processes loads it: `load()` or `load(StopToken)` runs, the value is put, and all
  // callers get it. The key may be any bytes. `load` may return Cached(value, options) in place of
  // a Value, where options say how long that value is fresh: see read_through_options.hpp.
  //
  // Thread: blocks. `load` runs on this thread, unless it refreshes a value: then a copy of it runs
  //   on Options::executor, or on a new thread.
  // Leaving: as in redis::Group. A caller whose stop was requested before still gets a value of the
  //   local cache.
  // Errors: as in redis::Group. With retry_after, also what an earlier load threw.
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Get(const K& key, Fn&& load) {
    return Get(key, std::forward<Fn>(load), CallOptions());
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn>
  Result<Value> Get(const K& key, Fn&& load, const CallOptions& options) {
    // Evaluated here, so that what they say is a compiler's first error.
    static_assert((singleflight::detail::CheckLoad<Value, std::decay_t<Fn>>(),
                   singleflight::detail::CheckKept<Fn&>(), true));
    auto&& adapted = KeyRef::Adapt(key);
    auto found = LookLocal(adapted);
    if (found.is_fresh) {
      return singleflight::detail::ResultFactory::Alone<Value>(std::move(*found.value),
                                                               Role::kLeader);
    }
    return this->DoWith(OldOf(std::move(found)), adapted, load, options);
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Fn,
            singleflight::detail::NotCallOptions CallOptionsArg>
  void Get(const K&, Fn&&, CallOptionsArg&&) = delete;  // write {.timeout = 50ms, .stop = token}

  // Removes the value for `key` from the server and from all local caches, and forgets the load in
  // flight, whose value is not put. Callers already waiting for that still get it. So change the
  // source first, and then invalidate.
  //
  // Thread: blocks until the server has answered.
  // Leaving: at once, if the timeout passes or the stop is requested. The command goes on.
  // Errors: std::system_error: `not_connected` or `protocol_error` if the server has not confirmed
  //   it, and what Leaving says. The values of other processes may then be there still.
  template <class K = singleflight::detail::BracedKey<std::string>>
  void Invalidate(const K& key, const CallOptions& options = {}) {
    detail::BlockOn<void>(options, [&](auto done) { InvalidateThen(key, std::move(done)); });
  }
  // Puts a value of the caller's own, which may be Cached(value, options), in place of what
  // Invalidate would remove. "Not found" is put, too, and keep_if is not asked.
  //
  // Thread, Leaving: as for Invalidate.
  // Errors: also `message_size` if the value is larger than max_value, and what Encode throws.
  template <class K = singleflight::detail::BracedKey<std::string>>
  void Put(const K& key, const Value& value, const CallOptions& options = {}) {
    detail::BlockOn<void>(options, [&](auto done) { PutThen(key, value, std::move(done)); });
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class T>
  void Put(const K& key, const Cached<T>& value, const CallOptions& options = {}) {
    detail::BlockOn<void>(options, [&](auto done) { PutThen(key, value, std::move(done)); });
  }
  // The same as Invalidate for all keys. What was there takes up room on the server until its time
  // is over.
  void InvalidateAll(const CallOptions& options = {}) {
    detail::BlockOn<void>(options, [&](auto done) { InvalidateAllThen(std::move(done)); });
  }
  // Returns what Get would return without a load: a value that is fresh, or that stale_for allows.
  // While the server cannot be used, that is the local cache's. soft_timeout has no effect.
  //
  // Thread, Leaving, Errors: as for Invalidate. Also `protocol_error` if it does not decode.
  template <class K = singleflight::detail::BracedKey<std::string>>
  std::optional<Value> Peek(const K& key, const CallOptions& options = {}) {
    return detail::BlockOn<std::optional<Value>>(
        options, [&](auto done) { PeekThen(key, std::move(done)); });
  }

  // The same for callers that do not block: `callback` gets a KeyResult<void>, which says whether
  // it was done. That of PeekThen gets a KeyResult<std::optional<Value>>.
  //
  // Thread: the callback runs on a thread of the client's, and must not throw.
  // Errors: those that say that the command could not begin are thrown here.
  // Lifetime: ~ReadThrough waits for the callback.
  template <class K = singleflight::detail::BracedKey<std::string>, class Callback>
  void InvalidateThen(const K& key, Callback&& callback) {
    Change(std::string(KeyRef::Adapt(key)), {}, std::forward<Callback>(callback));
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Callback>
  void PutThen(const K& key, const Value& value, Callback&& callback) {
    PutWith(key, value, {}, std::forward<Callback>(callback));
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class T, class Callback>
  void PutThen(const K& key, const Cached<T>& value, Callback&& callback) {
    PutWith(key, value.value, value.options, std::forward<Callback>(callback));
  }
  template <class Callback>
  void InvalidateAllThen(Callback&& callback) {
    this->core_.RefuseIfForked();
    this->context_->ClearLocal();
    Send(Command::Kind::kInvalidateAll, {}, {},
         [this, callback = std::decay_t<Callback>(std::forward<Callback>(callback))](
             const detail::Answer& answer) mutable {
           this->context_->ClearLocal();
           this->ForgetCalls();  // calls that have not asked the server
           callback(detail::Told(answer));
         });
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Callback>
  void PeekThen(const K& key, Callback&& callback) {
    this->core_.RefuseIfForked();
    std::string copy(KeyRef::Adapt(key));
    auto found = this->context_->LookLocal(copy);
    if (found.is_fresh) {
      return this->pending_.Begin([&] {
        this->Tell([found = std::move(found),
                    callback = std::decay_t<Callback>(std::forward<Callback>(callback))]() mutable {
          callback(Peeked(std::move(found.value)));
        });
      });
    }
    Send(Command::Kind::kPeek, std::move(copy), {},
         [this, old = std::move(found.value),
          callback = std::decay_t<Callback>(std::forward<Callback>(callback))](
             const detail::Answer& answer) mutable {
           callback(answer.IsReply() || !old
                        ? detail::PeekedAt<Value, ValueCodec>(*this->context_, answer)
                        : Peeked(std::move(old)));
         });
  }

  // Cancels the load of this process for `key`, also one in the background, as Group::Cancel of
  // redis.hpp: its callers get `operation_canceled`, and nothing is put. So do callers here that
  // wait for another process's load, or for a newer value than an expired one. Values that were put
  // before stay, and retry_after does not count it as a failure. True if there was such a load.
  template <class K = singleflight::detail::BracedKey<std::string>>
  bool Cancel(const K& key) {
    this->core_.Start();
    auto&& adapted = KeyRef::Adapt(key);
    // Those that wait come first: they would lead again as soon as a load gives its lease back.
    const bool had_call = Base::CancelAllIn(*this->local_, adapted);
    return Base::CancelAllIn(*refreshes_, adapted) || had_call;
  }

  // Returns every call of this process, as in redis::Group, and every load in the background. A
  // call is forgotten once the server has been asked: the next caller asks it again.
  std::vector<CallInfo> Inspect() const {
    std::vector<CallInfo> calls = Base::CallsIn(*this->local_);
    std::vector<CallInfo> loads = Base::CallsIn(*refreshes_);
    std::ranges::move(loads, std::back_inserter(calls));
    return calls;
  }

  // Returns the counts of this process.
  ReadThroughStats GetStats() const {
    const Context& context = *this->context_;
    ReadThroughStats stats;
    stats.local_hits = context.local_hits;
    stats.hits = context.hits;
    stats.stale = context.stale;
    stats.early_refreshes = context.early_refreshes;
    stats.invalidations = context.cache->Invalidations();
    stats.emptied = context.cache->Emptied();
    stats.evictions = context.Evictions();
    stats.fleet = this->FleetStats();
    stats.loads = stats.fleet.executions;
    return stats;
  }
  // Returns how long the loads of this process took, failed ones included.
  const LatencyHistogram& LoadTimes() const noexcept { return this->context_->load_times; }

  // As in singleflight::ReadThrough, but a value that is on the server reaches the waiter later.
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    auto&& adapted = KeyRef::Adapt(key);
    auto found = LookLocal(adapted);
    if (found.is_fresh) {
      singleflight::detail::LandedState<Value>::Notify(waiter, std::move(*found.value));
      return Role::kLeader;
    }
    return this->JoinWith(OldOf(std::move(found)), adapted, waiter, std::forward<Launch>(launch),
                          on_failure);
  }
  template <class K = singleflight::detail::BracedKey<std::string>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    auto found = LookLocal(adapted);
    if (found.is_fresh) {
      return Future<Value>(singleflight::detail::LandedState<Value>::Ready(std::move(*found.value)),
                           Role::kLeader);
    }
    return this->JoinWith(OldOf(std::move(found)), adapted, std::forward<Launch>(launch));
  }

  // Internal: see FleetGroup.
  template <class K = singleflight::detail::BracedKey<std::string>>
  detail::JoinedCall<Value> JoinOnThread(const K& key, Waiter& waiter,
                                         typename Base::ThreadRunner& runner, bool again,
                                         OnFailure on_failure) {
    auto&& adapted = KeyRef::Adapt(key);
    auto found = again ? typename Context::Found() : LookLocal(adapted);
    if (found.is_fresh) {
      singleflight::detail::LandedState<Value>::Notify(waiter, std::move(*found.value));
      return {nullptr, Role::kLeader};
    }
    return this->JoinOnThreadWith(OldOf(std::move(found)), adapted, waiter, runner, again,
                                  on_failure);
  }

 private:
  using Peeked = KeyResult<std::optional<Value>>;

  struct Made {};
  template <class... ListenerArg>
  ReadThrough(Made, Client& client, std::string_view prefix, const Options& options,
              ListenerArg&&... listener)
      : Base(client,
             (detail::CheckGroupOptions(prefix, options.fleet),
              std::make_shared<Context>(detail::ClientAccess::FleetOf(client), std::string(prefix),
                                        options, std::string(detail::TagOf<Value, ValueCodec>()))),
             std::forward<ListenerArg>(listener)...),
        refreshes_(this->MakeLocal({.timed = options.fleet.group.timed})) {
    this->context_->refreshes = refreshes_.get();
    this->context_->NoteRefusals();
  }

  typename Context::Found LookLocal(std::string_view key) {
    this->core_.RefuseIfForked();
    auto found = this->context_->LookLocal(key);
    if (found.is_fresh) ++this->context_->local_hits;
    return found;
  }
  static std::tuple<detail::OldValue<Value>> OldOf(typename Context::Found&& found) {
    if (!found.value) return {};
    return {{std::make_shared<const Value>(std::move(*found.value)), found.epoch}};
  }

  template <class K, class Callback>
  void PutWith(const K& key, const Value& value, const CachedOptions& own, Callback&& callback) {
    this->core_.RefuseIfForked();
    Command::NewValue put;
    const auto order = this->context_->OrderFor(value, own, {});
    if (order) {
      put.fresh = order->fresh;
      put.usable = order->usable;
      put.token = this->context_->NewToken();
      const auto& encoded = ValueCodec::Encode(value);
      const std::string_view bytes = encoded;
      if (bytes.size() > this->context_->options.max_value) {
        singleflight::detail::Throw(std::errc::message_size,
                                    "singleflight::redis: the value is larger than max_value");
      }
      put.payload =
          detail::Pack({detail::PayloadKind::kValue, bytes}, this->context_->tag_hash, put.token);
    }
    Change(std::string(KeyRef::Adapt(key)), std::move(put), std::forward<Callback>(callback));
  }

  template <class Callback>
  void Change(std::string key, Command::NewValue put, Callback&& callback) {
    this->core_.RefuseIfForked();
    this->context_->EraseLocal(key);
    Send(Command::Kind::kInvalidate, key, std::move(put),
         [this, key, callback = std::decay_t<Callback>(std::forward<Callback>(callback))](
             const detail::Answer& answer) mutable {
           this->context_->EraseLocal(key);
           this->local_->Forget(key);  // a call that has not asked the server
           callback(detail::Told(answer));
         });
  }

  // Sends a command. `then(answer)` runs on the thread that delivers.
  template <class Then>
  void Send(Command::Kind kind, std::string key, Command::NewValue value, Then then) {
    this->core_.Start();
    const auto shared = std::make_shared<Then>(std::move(then));
    const auto command = std::make_shared<Command>(
        this->context_, kind, std::move(key), [this, shared](detail::Answer answer) {
          auto kept = std::make_shared<detail::Answer>(std::move(answer));
          this->Tell([shared, kept] { (*shared)(*kept); });
        });
    command->value = std::move(value);
    this->pending_.Begin([&] { this->context_->Loop().Post([command] { command->Send(); }); });
  }
  std::unique_ptr<typename Base::Local> refreshes_;  // whose calls are the background loads
};

}  // namespace singleflight::redis
