// SPDX-License-Identifier: MIT
#pragma once

// Spans for a tracing system such as OpenTelemetry: one for each call, and one for each caller.
//
//   SpanStore store;  // yours is an exporter
//   struct Traced : singleflight::GroupTraits {
//     using Listener = SpanListener;
//   };
//   singleflight::Group<std::string, User, ..., Traced> users({}, SpanListener(store, "users"));
//
//   User Handle(const Request& request) {
//     Span span(store, "GET /users", ParseTraceparent(request.header("traceparent")));
//     return span.Run([&] { return *users.Do(request.id, load); });
//   }
//
// A leader's span has the call's span as its child. A follower's span, which is in a trace of its
// own, has a link to the call's span. So whoever looks at a slow request finds what it waited for,
// also if it left or got an exception.
//
//   trace of request 1:  [ GET /users: leader, ok        ]
//                           [ users: 2 callers         ]  <------+ link
//   trace of request 2:           [ GET /users: follower, left ]-+
//
// In a fleet, a redis::Group, each process has a call of its own. The span of a call that follows
// another process has a link to the span of the call there.
//
// In a coroutine, write `co_await span.Await(CoDo(users, id, load))`. For a Future, let one Run
// contain DoAsync, and another one Get.
//
// A call's span has the key as an attribute. If that is secret, leave it out in OnLand.
//
// It is not for callers that do not block and ask again after a failure (OnFailure::kRetry). They
// do so on the thread that landed the call, where another span may be the current one.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <singleflight/errors.hpp>
#include <singleflight/listener.hpp>
#include <singleflight/redis_codec.hpp>  // needs only the standard library
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "trace_context.hpp"

// A span that has ended.
struct SpanRecord {
  using Clock = std::chrono::system_clock;

  TraceContext context;
  std::array<std::uint8_t, 8> parent = {};  // zero: it has none
  std::string name;
  bool is_request = false;  // a caller's, not a call's
  Clock::time_point start = {}, end = {};
  std::vector<std::pair<std::string, std::variant<std::string, std::int64_t>>> attributes = {};
  std::vector<TraceContext> links = {};
  std::string error = {};  // empty: it has not failed
};

// Keeps the spans of traces that are recorded, until they are taken.
//
// Thread: any.
class SpanStore {
 public:
  explicit SpanStore(std::size_t most = 10'000) : most_(most) {}

  void Add(SpanRecord record) {
    const std::lock_guard lock(mutex_);
    const auto links = later_links_.extract(record.context.span_id);
    if (!record.context.IsSampled()) return;
    if (!links.empty()) {
      record.links.insert(record.links.end(), links.mapped().begin(), links.mapped().end());
    }
    if (records_.size() < most_) {
      records_.push_back(std::move(record));
    } else {
      ++dropped_;
    }
  }
  // Gives a link to a span that will be added later.
  void Link(const TraceContext& span, const TraceContext& to) {
    const std::lock_guard lock(mutex_);
    later_links_[span.span_id].push_back(to);
  }
  std::vector<SpanRecord> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(records_, {});
  }
  // Returns how many there was no room for.
  std::size_t Dropped() const {
    const std::lock_guard lock(mutex_);
    return dropped_;
  }

 private:
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::vector<SpanRecord> records_;  // guarded by mutex_
  std::size_t dropped_ = 0;          // guarded by mutex_
  std::map<std::array<std::uint8_t, 8>, std::vector<TraceContext>>
      later_links_;  // guarded by mutex_
};

// The span of one caller. It ends when it is destroyed.
//
// Thread: one at a time.
// Lifetime: the store must outlive it.
class Span {
 public:
  // With a parent it is in the parent's trace, and begins a new one otherwise.
  Span(SpanStore& store, std::string name, const std::optional<TraceContext>& parent = {})
      : store_(store) {
    record_.context = parent ? ChildOf(*parent) : NewTrace();
    if (parent) record_.parent = parent->span_id;
    record_.name = std::move(name);
    record_.is_request = true;
    record_.start = SpanRecord::Clock::now();
  }
  ~Span() {
    record_.end = SpanRecord::Clock::now();
    try {
      if (role_ != nullptr) record_.attributes.emplace_back("singleflight.role", role_);
      record_.attributes.emplace_back("singleflight.outcome", outcome_);
      store_.Add(std::move(record_));
    } catch (const std::exception&) {  // there is no memory for it
    }
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

  // Returns what `ask()` returns. What it asks on this thread belongs to this span.
  template <class Ask>
  decltype(auto) Run(Ask&& ask) {
    const Scope scope(this);
    outcome_ = "ok";
    record_.error.clear();
    try {
      return std::forward<Ask>(ask)();
    } catch (...) {
      Fail();
      throw;
    }
  }

  // The same, for what a coroutine awaits. If the coroutine is destroyed meanwhile, it has left.
  template <class Awaitable>
  auto Await(Awaitable&& awaitable) {
    return Awaited<decltype(std::forward<Awaitable>(awaitable).operator co_await())>(
        *this, std::forward<Awaitable>(awaitable));
  }

  const TraceContext& Context() const { return record_.context; }

  // Returns the span that asks on this thread, or null.
  static Span* Current() { return current; }

  // ---- For a SpanListener

  void Lead() { role_ = "leader"; }
  void Follow(const TraceContext& call) {
    role_ = "follower";
    if (call.IsValid()) record_.links.push_back(call);
  }

 private:
  class Scope {
   public:
    explicit Scope(Span* span) : before_(std::exchange(current, span)) {}
    ~Scope() { current = before_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Span* const before_;
  };

  template <class Awaiter>
  class Awaited {
   public:
    template <class Awaitable>
    Awaited(Span& span, Awaitable&& awaitable)
        : span_(span), awaiter_(std::forward<Awaitable>(awaitable).operator co_await()) {}

    bool await_ready() {
      return span_.Run([this] { return awaiter_.await_ready(); });
    }
    auto await_suspend(auto handle) {
      const Scope scope(&span_);  // is not in the frame, which may be gone when it is destroyed
      span_.outcome_ = "left";
      return awaiter_.await_suspend(handle);
    }
    auto await_resume() {
      return span_.Run([this] { return awaiter_.await_resume(); });
    }

   private:
    Span& span_;
    Awaiter awaiter_;
  };

  // In a catch block.
  void Fail() noexcept {
    outcome_ = "left";
    if (std::current_exception() == nullptr) return;  // the thread is cancelled
    try {
      throw;
    } catch (const std::system_error& failure) {
      const bool is_ours = failure.code().category() == singleflight::Category();
      const auto is = [&](std::errc code) { return is_ours && failure.code() == code; };
      // Also if the call was cancelled, which its own span says.
      if (is(std::errc::timed_out) || is(std::errc::operation_canceled)) return;
      const bool is_refused = is(std::errc::resource_unavailable_try_again) ||
                              is(std::errc::resource_deadlock_would_occur);
      EndWith(is_refused ? "refused" : "error", failure.what());
    } catch (const std::exception& failure) {
      EndWith("error", failure.what());
    } catch (...) {
      EndWith("error", "an exception that is no std::exception");
    }
  }
  void EndWith(const char* outcome, const char* error) noexcept {
    outcome_ = outcome;
    try {
      record_.error = error;
    } catch (const std::exception&) {  // there is no memory for it
    }
  }

  static inline thread_local Span* current = nullptr;

  SpanStore& store_;
  SpanRecord record_;
  const char* role_ = nullptr;
  const char* outcome_ = "ok";
};

// What a call carries.
struct CallSpan {
  TraceContext context = {};
  std::array<std::uint8_t, 8> parent = {};
};

// How it travels in the lease of a fleet: as a `traceparent`, which a reader understands.
template <>
struct singleflight::redis::Codec<CallSpan> {
  static constexpr std::string_view kTag = "traceparent";
  static std::string Encode(const CallSpan& call) { return Traceparent(call.context); }
  static std::optional<CallSpan> Decode(std::string_view bytes) {
    const std::optional<TraceContext> context = ParseTraceparent(bytes);
    return context ? std::optional(CallSpan{*context, {}}) : std::nullopt;
  }
};

// Makes the spans of a group's calls, and tells each caller's span about its call.
//
// Lifetime: the store must outlive the group.
class SpanListener {
 public:
  // `name` is that of the calls' spans. Tracing systems expect few names: let it be the group's.
  SpanListener(SpanStore& store, std::string name) : store_(&store), name_(std::move(name)) {}

  CallSpan OnLead(std::string_view) {
    Span* const caller = Span::Current();
    if (caller == nullptr) return {NewTrace(), {}};
    caller->Lead();
    return {ChildOf(caller->Context()), caller->Context().span_id};
  }
  void OnFollow(std::string_view, const CallSpan& call) {
    if (Span* const caller = Span::Current()) caller->Follow(call.context);
  }
  // In a redis::Group: this process's call waits for that of another process.
  void OnRemoteLead(std::string_view, const CallSpan& own, const CallSpan& leader) {
    if (leader.context.IsValid()) store_->Link(own.context, leader.context);
  }
  void OnLand(std::string_view key, const CallSpan& call,
              const singleflight::TimedLanding& landing) {
    const auto now = SpanRecord::Clock::now();
    SpanRecord record{.context = call.context, .parent = call.parent, .name = name_};
    record.start = now - std::chrono::duration_cast<SpanRecord::Clock::duration>(landing.took);
    record.end = now;
    record.attributes.emplace_back("singleflight.key", std::string(key));
    record.attributes.emplace_back("singleflight.callers",
                                   static_cast<std::int64_t>(landing.callers));
    if (landing.failed) record.error = "the call failed";
    if (landing.canceled) record.error = "the call was cancelled";
    store_->Add(std::move(record));
  }

 private:
  SpanStore* store_;
  std::string name_;
};
