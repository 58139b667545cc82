// SPDX-License-Identifier: MIT
#pragma once

// Groups that call `launch` later, if at all: see GroupLike. What is given to their Join must own
// what it needs.

#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace singleflight::detail {

// A group that knows only later whether its process leads, such as a redis::Group.
template <class G>
concept LaunchesLater = requires {
  requires G::kLaunchesLater;
};

// A launch that a call keeps, and a caller that may ask again. It is called once. If the call for
// which it was called has failed, there is nothing to launch for the next, which then lands with
// `owner_dead`.
template <class Launch>
class SharedLaunch {
 public:
  explicit SharedLaunch(Launch launch)
      : launch_(std::make_shared<std::optional<Launch>>(std::in_place, std::move(launch))) {}

  template <class Lead>
  void operator()(Lead lead) const {
    if (!*launch_) return;
    Launch launch(std::move(**launch_));
    launch_->reset();
    std::invoke(std::move(launch), std::move(lead));
  }

 private:
  std::shared_ptr<std::optional<Launch>> launch_;
};

}  // namespace singleflight::detail
