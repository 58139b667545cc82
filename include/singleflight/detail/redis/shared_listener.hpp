// SPDX-License-Identifier: MIT
#pragma once

// SharedListener: the listener of a process's own group, which passes everything on to that of a
// redis::Group or of a redis::ReadThrough. The latter has two such groups: its calls, and its loads
// in the background.

#include "../../listener.hpp"
#include "../listening.hpp"

namespace singleflight::redis::detail {

// Where everything is passed on to. It is no listener without hooks, because there may be an
// OnRemoteLead.
template <class Listener>
struct ListenerPointer : NoListener {
  Listener* target = nullptr;  // set as long as the group is used
};

// One base for each hook, which has it only if the listener does.
template <class Listener, class Base, bool kHas>
struct PassesLead : Base {
  template <class... Args>
  decltype(auto) OnLead(const Args&... args) requires requires(Listener& it) {
    it.OnLead(args...);
  }
  { return this->target->OnLead(args...); }
};
template <class Listener, class Base>
struct PassesLead<Listener, Base, false> : Base {};

template <class Listener, class Base, bool kHas>
struct PassesFollow : Base {
  template <class... Args>
  void OnFollow(const Args&... args) requires requires(Listener& it) {
    it.OnFollow(args...);
  }
  { this->target->OnFollow(args...); }
};
template <class Listener, class Base>
struct PassesFollow<Listener, Base, false> : Base {};

template <class Listener, class Base, bool kHas>
struct PassesLeave : Base {
  template <class... Args>
  void OnLeave(const Args&... args) requires requires(Listener& it) {
    it.OnLeave(args...);
  }
  { this->target->OnLeave(args...); }
};
template <class Listener, class Base>
struct PassesLeave<Listener, Base, false> : Base {};

template <class Listener, class Base, bool kHas>
struct PassesLand : Base {
  template <class... Args>
  void OnLand(const Args&... args) requires requires(Listener& it) {
    it.OnLand(args...);
  }
  { this->target->OnLand(args...); }
};
template <class Listener, class Base>
struct PassesLand<Listener, Base, false> : Base {};

template <class Listener, class Base, bool kHas>
struct PassesRefuse : Base {
  template <class... Args>
  void OnRefuse(const Args&... args) requires requires(Listener& it) {
    it.OnRefuse(args...);
  }
  { this->target->OnRefuse(args...); }
};
template <class Listener, class Base>
struct PassesRefuse<Listener, Base, false> : Base {};

template <class Listener, class Has = singleflight::detail::HasHooks<Listener>>
using PassingListener = PassesLead<
    Listener,
    PassesFollow<
        Listener,
        PassesLeave<
            Listener,
            PassesLand<Listener, PassesRefuse<Listener, ListenerPointer<Listener>, Has::kRefuse>,
                       Has::kLand>,
            Has::kLeave>,
        Has::kFollow>,
    Has::kLead>;

template <class Listener>
struct SharedListener : PassingListener<Listener> {
  SharedListener() noexcept = default;
  explicit SharedListener(Listener& its_target) noexcept { this->target = &its_target; }
};

}  // namespace singleflight::redis::detail
