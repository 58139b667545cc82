// SPDX-License-Identifier: MIT
#pragma once

// CacheCommand: one command about a cache, by itself: to invalidate, put or peek. It is sent again
// if the generation of its names is out of date, or if its answer was lost.

#include <array>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../key_result.hpp"
#include "../../options.hpp"
#include "../../stop_token.hpp"
#include "../errors.hpp"
#include "../thread_mark.hpp"
#include "answer.hpp"
#include "cache_protocol.hpp"
#include "cache_state.hpp"
#include "fleet.hpp"
#include "outage.hpp"
#include "protocol.hpp"

namespace singleflight::redis::detail {

// How many commands have not ended. ~ReadThrough waits for them.
class PendingCommands {
 public:
  void Begin() noexcept {
    const std::lock_guard lock(mutex_);
    ++count_;
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

// Thread: the loop's, except the constructor.
class CacheCommand : public std::enable_shared_from_this<CacheCommand> {
 public:
  // kInvalidate also puts a value, if there is one.
  enum class Kind : unsigned char { kInvalidate, kPeek, kInvalidateAll };

  // `then(answer)` gets an answer that is a reply, or says why there is none.
  CacheCommand(std::shared_ptr<GroupContext> context, Kind kind, std::string key,
               std::function<void(Answer)> then)
      : context_(std::move(context)), kind_(kind), key_(std::move(key)), then_(std::move(then)) {}

  struct NewValue {
    std::string fresh, usable, token, payload;
  };
  NewValue value;  // set before Send

  void Send() {
    CacheState& cache = *context_->cache;
    cache.Open();
    cache.WithGeneration([self = shared_from_this()](const Answer* failure) {
      if (failure == nullptr) return self->SendNow();
      self->context_->NoteOutage(failure->why);
      self->then_(*failure);
    });
  }

 private:
  void SendNow() {
    CacheState& cache = *context_->cache;
    const std::string base = cache.BaseOf(key_);
    const std::string value_name = detail::ValueName(base);
    switch (kind_) {
      case Kind::kInvalidate: {
        const std::string lease = detail::LeaseName(base);
        const std::string fresh = detail::FreshName(base);
        const std::string failure = detail::FailureName(base);
        const std::string forgotten = detail::ForgottenName(base, {});
        Run(detail::InvalidateScript(),
            std::array<std::string_view, 4>{lease, value_name, fresh, failure},
            std::array<std::string_view, 9>{forgotten, cache.Channel(), key_, value.fresh,
                                            value.usable, value.token, value.payload,
                                            cache.GenerationName(), cache.Generation()});
        return;
      }
      case Kind::kPeek:
        Run(detail::PeekScript(), std::array<std::string_view, 1>{value_name},
            std::array<std::string_view, 12>{"", "", "", "", "", "", "", "", cache.GenerationName(),
                                             cache.Generation(), "", cache.WhenExpired()});
        return;
      case Kind::kInvalidateAll:
        Run(detail::InvalidateAllScript(), std::array<std::string_view, 1>{cache.GenerationName()},
            std::array<std::string_view, 1>{cache.Generation()});
        return;
    }
  }

  void Run(const Script& script, std::span<const std::string_view> keys,
           std::span<const std::string_view> words) {
    context_->fleet.Core().Commands().RunScript(
        script, keys, words,
        [self = shared_from_this()](Answer answer) { self->OnAnswer(std::move(answer)); });
  }

  void OnAnswer(Answer answer) {
    if (answer.kind == Answer::Kind::kUnknown && ++lost_ < 3) return Send();
    if (answer.IsReply() && answer.reply.elements.size() == 2 &&
        answer.reply.elements[0].text == "generation") {
      context_->cache->Learn(std::move(answer.reply.elements[1].text));
      if (++outdated_ < CacheState::kMostGenerations) return Send();
      answer = {Answer::Kind::kRefused, {}, CacheState::kNoGenerationLasts};
    }
    if (answer.IsReply() && kind_ == Kind::kInvalidateAll) {
      context_->cache->Learn(answer.reply.text);
    }
    if (!answer.IsReply()) context_->NoteOutage(answer.why);
    then_(std::move(answer));
  }

  const std::shared_ptr<GroupContext> context_;
  const Kind kind_;
  const std::string key_;
  const std::function<void(Answer)> then_;
  int lost_ = 0;      // answers
  int outdated_ = 0;  // how often another generation was in use
};

// ---- What a caller gets

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
      return T(**slot->result);
    }
  }
  std::rethrow_exception(slot->stopped ? singleflight::detail::MakeCanceled()
                                       : singleflight::detail::MakeTimedOut());
}

}  // namespace singleflight::redis::detail
