// SPDX-License-Identifier: MIT
#pragma once

// A listener that writes down what it is told, as one line each.

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <singleflight/listener.hpp>
#include <singleflight/options.hpp>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "support.hpp"

namespace test {

using Lines = std::vector<std::string>;

// The tag of a call is its number, from 1.
class Recorder {
 public:
  int OnLead(const auto& key) {
    const std::lock_guard lock(mutex_);
    Write("lead ", key, ++calls_, "");
    return calls_;
  }
  void OnFollow(const auto& key, const int& tag) { Record("follow ", key, tag, ""); }
  void OnLeave(const auto& key, const int& tag, singleflight::LeaveReason why) {
    using enum singleflight::LeaveReason;
    Record("leave ", key, tag, why == kTimeout ? ": timeout" : why == kStop ? ": stop" : "");
  }
  void OnLand(const auto& key, const int& tag, const singleflight::Landing& landing) {
    Record("land ", key, tag,
           ": " + std::to_string(landing.callers) + (landing.failed ? ", failed" : ""));
  }
  void OnRefuse(const auto& key, std::error_code code) {
    const bool full = code == std::errc::resource_unavailable_try_again;
    const bool deadlock = code == std::errc::resource_deadlock_would_occur;
    Record("refuse ", key, 0, full ? ": full" : deadlock ? ": deadlock" : ": ?");
  }

  // What it was told so far.
  Lines Told() const {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  // The same, sorted: for what several threads do.
  Lines Sorted() const {
    Lines lines = Told();
    std::sort(lines.begin(), lines.end());
    return lines;
  }
  // Waits until it was told so many times.
  void AwaitTold(std::size_t count) const {
    Await([&] { return Told().size() >= count; });
  }

 private:
  void Record(const char* what, const auto& key, int tag, const std::string& more) {
    const std::lock_guard lock(mutex_);
    Write(what, key, tag, more);
  }
  void Write(const char* what, const auto& key, int tag, const std::string& more) {
    std::ostringstream line;
    line << what << key;
    if (tag != 0) line << " #" << tag;
    line << more;
    told_.push_back(line.str());
  }

  mutable std::mutex mutex_;
  int calls_ = 0;  // guarded by mutex_, as the next
  Lines told_;
};

template <class ItsListener, class Base = singleflight::GroupTraits>
struct ListenedTo : Base {
  using Listener = ItsListener;
};

// A group with a listener.
template <class Listener, class Value = int, class Key = std::string>
using GroupWith = singleflight::Group<Key, Value, singleflight::DefaultHash<Key>,
                                      singleflight::DefaultEqual<Key>, ListenedTo<Listener>>;

// One that records.
using RecordedGroup = GroupWith<Recorder>;

}  // namespace test
