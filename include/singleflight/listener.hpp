// SPDX-License-Identifier: MIT
#pragma once

// Listener: what a group calls when something happens to a call. With it you count, log or trace.
//
//   struct Tracer {
//     using Span = SpanContext;
//     Span OnLead(std::string_view key) { return StartSpan(key); }
//     void OnFollow(std::string_view, const Span& leader) { AddLink(leader); }
//     void OnLand(std::string_view, const Span& span, const singleflight::Landing& how) {
//       EndSpan(span, how.failed);
//     }
//   };
//   struct Traced : singleflight::GroupTraits {
//     using Listener = Tracer;
//   };
//
//   singleflight::Group<std::string, User, singleflight::DefaultHash<std::string>,
//                       singleflight::DefaultEqual<std::string>, Traced> users;
//
// A listener is any class that has some of these functions, its hooks. It need not derive from
// anything. It must not be final. A hook with another signature does not compile.
//
//   Tag OnLead(key)
//     A call begins. Called once for each call, on the leader's thread, before `fn`.
//   void OnFollow(key, const Tag&)
//     This caller follows a call, and gets the tag of that call.
//   void OnLeave(key, const Tag&, LeaveReason)
//     A caller leaves its call before that has landed.
//   void OnLand(key, const Tag&, const Landing&)
//     A call has landed. Called once for each call.
//   void OnRefuse(key, std::error_code)
//     A caller is refused: it neither leads nor follows.
//
// The key is a const Key&. For a string Key it is a std::string_view, as for a Cache: see
// read_through.hpp. It is valid until the hook returns. A Tag is what OnLead returns: any type
// whose default construction and copying throw nothing, such as the ids of a trace and of a span.
// The call carries it. If OnLead returns void, or is missing, there is no tag, and the other hooks
// take none: OnLand(key, landing). OnLand may take a `const TimedLanding&` instead. Then the group
// reads the clock twice for each call, and otherwise never.
//
// Each way of waiting tells the same. DoMany and the like tell it of each key. The second try after
// a failure (OnFailure::kRetry) is a call of its own. A value that a ReadThrough finds in its cache
// at the first look is no call, and a load in the background is one. A call that finds the value at
// its second look is told like any other.
//
// What a group's Stats count is told: `executions` by OnLead, `followers` by OnFollow, `left` by
// OnLeave, `refused` by OnRefuse, which also tells of a deadlock in Do. One thing is not told: that
// a follower could have asked again after a failure, but did not come to it.
//
// A call that Cancel takes from its callers is told to land when its work has finished. Its callers
// have been notified before.
//
// Order: OnLead returns before anything else is told of its call. A caller's OnFollow comes before
//   its OnLeave, and before its Do or Join returns. OnLand comes before a caller is notified. So
//   once all callers of a call have returned, everything has been told, but for a second try: a
//   caller that comes when it has landed gets its outcome at once. Two threads may overtake each
//   other: an OnFollow or OnLeave may come after the OnLand of its call. When OnLand is called, the
//   key is free, so the OnLead of the next call may come before it returns.
//
// Thread: a hook runs on the thread that does what it tells: OnLand on the one that lands the call,
//   OnLeave on the one that makes the caller leave. No lock is held. Hooks of several threads run
//   at the same time, so a listener must be safe for that.
// Errors: what a hook throws is dropped, and nobody is harmed. If OnLead throws, the tag is Tag().
//   In a thread that may be cancelled, only OnLead, OnFollow and OnRefuse of a caller in Do may
//   reach a cancellation point.
// Lifetime: the listener is a member of its group: see Group::GetListener. To share one, let it
//   hold a pointer.
// Cost: without a listener none at all, in code, time and size. With OnLeave, the first caller of a
//   call that does not block in Do has its key copied. With OnFollow or OnLeave, and a tag, a
//   caller that joins while OnLead runs waits until that has returned, even if it does not block
//   otherwise or its timeout passes. So OnLead must be short. OnLand delays the callers.
//
// **Warning:** a hook should not ask a group, and must not destroy it. An OnLead that asks for its
// own key gets `resource_deadlock_would_occur`. In the others, a deadlock may be reported where
// there is none, and one that two hooks make together is not detected.

#include <chrono>
#include <cstddef>

#include "detail/requirements.hpp"

namespace singleflight {

// How a call landed.
struct Landing {
  std::size_t callers;  // those that had not left, its leader included
  bool failed;          // with an exception, or with a value that is a failure: see IsFailure
  bool canceled;        // by Cancel, which took it from its callers: it has none, and has failed
};

// The same, for a hook that needs the time.
struct TimedLanding : Landing {
  std::chrono::nanoseconds took;  // from when it began until its outcome was there
};

// Why a caller left.
enum class LeaveReason : unsigned char {
  kTimeout,  // its timeout passed
  kStop,     // a stop was requested of it, or its Asio operation was cancelled
  kLeft,     // Leave was called, its handle or coroutine was destroyed, or its thread was cancelled
};

// Has no hooks: nothing is told, and no code is generated for it.
struct NoListener {};

}  // namespace singleflight
