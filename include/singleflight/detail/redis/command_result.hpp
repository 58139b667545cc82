// SPDX-License-Identifier: MIT
#pragma once

// What a caller gets of a command that is sent for it alone: BlockOn waits for that, ErrorOf says
// why there is nothing, and PendingCommands counts those that have not ended.

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include "../../key_result.hpp"
#include "../../options.hpp"
#include "../../stop_token.hpp"
#include "../errors.hpp"
#include "../thread_mark.hpp"
#include "answer.hpp"
#include "outage.hpp"

namespace singleflight::redis::detail {

// How many commands have not ended. The destructor of a group, or of a cache, waits for them.
class PendingCommands {
 public:
  // Counts what `begin()` begins, for which End must be called. If `begin` throws, nothing has
  // begun.
  template <class Fn>
  void Begin(Fn&& begin) {
    struct Undo {
      PendingCommands* commands;
      ~Undo() {
        if (commands != nullptr) commands->End();
      }
    } undo{this};
    {
      const std::lock_guard lock(mutex_);
      ++count_;
    }
    begin();
    undo.commands = nullptr;  // it may have ended, and the commands be gone
  }
  void End() noexcept {
    const std::lock_guard lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  void AwaitNone() {
    std::unique_lock lock(mutex_);
    none_.wait(lock, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  std::size_t count_ = 0;  // guarded by mutex_
};

inline std::exception_ptr ErrorOf(const Answer& answer) {
  const auto code = answer.kind == detail::Answer::Kind::kRefused ? std::errc::protocol_error
                                                                  : std::errc::not_connected;
  return std::make_exception_ptr(Outage(code, answer.why));
}
inline KeyResult<void> Told(const Answer& answer) {
  return answer.IsReply() ? KeyResult<void>() : KeyResult<void>::Failure(detail::ErrorOf(answer));
}

// Blocks until what `begin(done)` has begun calls `done`.
template <class T, class Begin>
T BlockOn(const CallOptions& options, Begin&& begin) {
  struct Slot {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<KeyResult<T>> result;
    bool stopped = false;
  };
  if (options.stop.stop_requested()) {
    std::rethrow_exception(singleflight::detail::MakeCanceled());
  }
  const auto slot = std::make_shared<Slot>();
  begin([slot](KeyResult<T> result) {
    const std::lock_guard lock(slot->mutex);
    slot->result.emplace(std::move(result));
    slot->changed.notify_all();
  });
  singleflight::detail::BeforeBlocking();
  const StopCallback on_stop(options.stop, [&slot] {
    const std::lock_guard lock(slot->mutex);
    slot->stopped = true;
    slot->changed.notify_all();
  });
  std::unique_lock lock(slot->mutex);
  const auto woken = [&] { return slot->result || slot->stopped; };
  if (const auto deadline = options.timeout.Deadline()) {
    slot->changed.wait_until(lock, *deadline, woken);
  } else {
    slot->changed.wait(lock, woken);
  }
  if (slot->result) {
    if constexpr (std::is_void_v<T>) {
      if (auto error = slot->result->error()) std::rethrow_exception(std::move(error));
      return;
    } else {
      return std::move(*slot->result).value();
    }
  }
  std::rethrow_exception(slot->stopped ? singleflight::detail::MakeCanceled()
                                       : singleflight::detail::MakeTimedOut());
}

}  // namespace singleflight::redis::detail
