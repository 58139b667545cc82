// SPDX-License-Identifier: MIT
#pragma once

// What the listener of a redis::Group or of a redis::ReadThrough is told. Its hooks are those of
// listener.hpp, and one more. They are told of the calls of this process.
//
//   struct Span { std::uint64_t trace, id; };
//   template <>
//   struct singleflight::redis::Codec<Span> : singleflight::redis::CopyBytes<Span> {};
//
//   struct Tracer {
//     Span OnLead(std::string_view key) { return StartSpan(key); }
//     void OnRemoteLead(std::string_view, const Span& own, const Span& leader) {
//       AddLink(own, leader);  // this process waits for the work of another one
//     }
//     void OnLand(std::string_view, const Span& own, const singleflight::Landing& landing) {
//       EndSpan(own, landing.failed);
//     }
//   };
//   struct Traced : singleflight::GroupTraits {
//     using Listener = Tracer;
//   };
//
//   singleflight::redis::Group<Page, PageCodec, Traced> pages(redis, "shop:pages");
//
//   OnRemoteLead(key, const Tag& own, const Tag& leader)  A call follows another process. `own` is
//                                          what OnLead has returned for it here, and `leader` what
//                                          OnLead has returned there, or Tag() if it has sent none.
//   OnRemoteLead(key)                      The same if OnLead returns void, or is missing.
//
// OnLead begins a call of this process, and it is not known then whether this process will lead.
// OnLand tells how that ended. Between them, OnRemoteLead is called once for each lease that the
// call follows: never, if this process leads at once, and twice, if it follows a second process
// after the first has given up. If another caller of the same process leads, it is called only in a
// ReadThrough, whose later callers follow by way of the server.
//
// The tag travels in the lease, in the field `leader`, in the bytes that Codec<Tag> makes of it.
// A listener with OnRemoteLead must have a Codec for its tag: see redis_codec.hpp. Without this
// hook, a tag that has a Codec travels, too, so that InspectFleet shows it: see LeaseInfo. Keep it
// small: the server has it for each lease, and each process that follows gets it.
//
// A ReadThrough tells of each call that asks the server, and of each load in the background. A hit
// of the local cache is no call.
//
// A deadlock in Do is told as OnLeave, because the caller was on its call before that was known.
//
// Order: OnRemoteLead comes after OnLead and before OnLand.
// Thread: OnRemoteLead runs on a thread of the client's, which delivers to all its groups, so it
//   must not block. The others run as listener.hpp says. If another process leads, OnLand runs on
//   that thread, too.
// Errors: what a hook throws, and what the Codec throws, is dropped.
// Lifetime: the listener is a member of its group: see GetListener.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "detail/errors.hpp"
#include "detail/listening.hpp"
#include "detail/redis/payload.hpp"
#include "listener.hpp"
#include "redis_codec.hpp"

namespace singleflight::redis::detail {

// As HookNames of detail/listening.hpp.
struct RemoteHookName {
  int OnRemoteLead;
};
template <class Listener>
struct WithRemoteHookName : Listener, RemoteHookName {};
template <class Listener>
inline constexpr bool kHearsOfRemote = !requires {
  &WithRemoteHookName<Listener>::OnRemoteLead;
};

// What is done for a listener, besides what its process's own group does.
template <class Listener>
class RemoteListening {
  using Has = singleflight::detail::HasHooks<Listener>;

 public:
  using Tag = typename singleflight::detail::TagOf<Listener, std::string_view, Has::kLead>::Type;

  static constexpr bool kHasTag = !std::is_void_v<Tag>;
  // Whether OnRemoteLead is called.
  static constexpr bool kHears = kHearsOfRemote<Listener>;
  // Whether the tag travels.
  static constexpr bool kSends = [] {
    if constexpr (kHasTag) return Encodes<Codec<Tag>, Tag>;
    return false;
  }();

  // Returns what travels: a mark of the tag's type, and the tag. Empty if there is none.
  template <class Call>
  static std::string Pack([[maybe_unused]] const Call& call) {
    if constexpr (kSends) {
      try {
        const auto& encoded = Codec<Tag>::Encode(call.note.tag);
        std::string bytes = Mark();
        return bytes += std::string_view(encoded);
      } catch (...) {
        static_cast<void>(singleflight::detail::Caught());
      }
    }
    return {};
  }
  // Returns what Codec<Tag> has made, or nothing if that was another one.
  static std::string_view Unpack([[maybe_unused]] std::string_view bytes) {
    if constexpr (kSends) {
      const std::string mark = Mark();
      if (bytes.starts_with(mark)) return bytes.substr(mark.size());
    }
    return {};
  }

  template <class Call>
  static void Tell(Listener& listener, const Call& call, [[maybe_unused]] std::string_view leader) {
    try {
      if constexpr (kHasTag) {
        listener.OnRemoteLead(std::string_view(call.key.get()), call.note.tag, Decode(leader));
      } else {
        listener.OnRemoteLead(std::string_view(call.key.get()));
      }
    } catch (...) {
      static_cast<void>(singleflight::detail::Caught());
    }
  }

 private:
  static constexpr bool Takes() {
    if constexpr (kHasTag) {
      return requires(Listener & it, std::string_view key, const Tag& tag) {
        it.OnRemoteLead(key, tag, tag);
      };
    } else {
      return requires(Listener & it, std::string_view key) { it.OnRemoteLead(key); };
    }
  }
  static_assert(!kHears || Takes(),
                "OnRemoteLead must be callable as OnRemoteLead(key, const Tag&, const Tag&), where "
                "the Tag is what OnLead returns, or as OnRemoteLead(key) if that is void");
  static_assert(!kHears || !kHasTag || kSends,
                "the tag that OnLead returns has no Codec, so it cannot travel to other processes: "
                "derive singleflight::redis::Codec<Tag> from CopyBytes<Tag>, or specialize it");

  // Eight bytes.
  static std::string Mark() {
    std::uint64_t hash = detail::Fnv1a(detail::TagOf<Tag, Codec<Tag>>());
    std::string mark;
    for (int i = 0; i < 8; ++i, hash >>= 8) mark += static_cast<char>(hash & 0xff);
    return mark;
  }
  static Tag Decode(std::string_view bytes) {
    try {
      if (std::optional<Tag> tag = Codec<Tag>::Decode(Unpack(bytes))) return *tag;
    } catch (...) {
      static_cast<void>(singleflight::detail::Caught());
    }
    return Tag();
  }
};

}  // namespace singleflight::redis::detail
