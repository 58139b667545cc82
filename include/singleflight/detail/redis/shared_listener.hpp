// SPDX-License-Identifier: MIT
#pragma once

// SharedListener: the listener of a process's own group, which passes everything on to that of a
// redis::Group or of a redis::ReadThrough. The latter has two such groups: its calls, and its loads
// in the background.

#include <type_traits>
#include <utility>

#include "../../listener.hpp"
#include "../listening.hpp"

namespace singleflight::redis::detail {

// One base for each hook, which has it only if the listener does.
template <class Self, bool kHas>
struct PassesLead {
  template <class... Args>
  decltype(auto) OnLead(const Args&... args) requires requires(typename Self::Target& it) {
    it.OnLead(args...);
  }
  { return static_cast<Self&>(*this).target->OnLead(args...); }
};
template <class Self, bool kHas>
struct PassesFollow {
  template <class... Args>
  void OnFollow(const Args&... args) requires requires(typename Self::Target& it) {
    it.OnFollow(args...);
  }
  { static_cast<Self&>(*this).target->OnFollow(args...); }
};
template <class Self, bool kHas>
struct PassesLeave {
  template <class... Args>
  void OnLeave(const Args&... args) requires requires(typename Self::Target& it) {
    it.OnLeave(args...);
  }
  { static_cast<Self&>(*this).target->OnLeave(args...); }
};
template <class Self, bool kHas>
struct PassesLand {
  template <class... Args>
  void OnLand(const Args&... args) requires requires(typename Self::Target& it) {
    it.OnLand(args...);
  }
  { static_cast<Self&>(*this).target->OnLand(args...); }
};
template <class Self, bool kHas>
struct PassesRefuse {
  template <class... Args>
  void OnRefuse(const Args&... args) requires requires(typename Self::Target& it) {
    it.OnRefuse(args...);
  }
  { static_cast<Self&>(*this).target->OnRefuse(args...); }
};
template <class Self>
struct PassesLead<Self, false> {};
template <class Self>
struct PassesFollow<Self, false> {};
template <class Self>
struct PassesLeave<Self, false> {};
template <class Self>
struct PassesLand<Self, false> {};
template <class Self>
struct PassesRefuse<Self, false> {};

// It derives from NoListener, because the listener may have no other hook than OnRemoteLead.
template <class Listener, class Has = singleflight::detail::HasHooks<Listener>>
struct SharedListener : NoListener,
                        PassesLead<SharedListener<Listener>, Has::kLead>,
                        PassesFollow<SharedListener<Listener>, Has::kFollow>,
                        PassesLeave<SharedListener<Listener>, Has::kLeave>,
                        PassesLand<SharedListener<Listener>, Has::kLand>,
                        PassesRefuse<SharedListener<Listener>, Has::kRefuse> {
  using Target = Listener;

  SharedListener() noexcept = default;
  explicit SharedListener(Listener& its_target) noexcept : target(&its_target) {}

  Listener* target = nullptr;  // set as long as the group is used
};

}  // namespace singleflight::redis::detail
