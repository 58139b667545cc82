// SPDX-License-Identifier: MIT
#pragma once

// CacheCommand: one command about a cache, by itself: to invalidate, put or peek. It is sent again
// if the generation of its names is out of date, or if its answer was lost.

#include <array>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../../key_result.hpp"
#include "../errors.hpp"
#include "answer.hpp"
#include "cache_protocol.hpp"
#include "cache_state.hpp"
#include "command_result.hpp"
#include "fleet.hpp"
#include "outage.hpp"
#include "payload.hpp"
#include "protocol.hpp"
#include "reply.hpp"

namespace singleflight::redis::detail {

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

// Returns what a caller gets of the answer to a kPeek.
template <class Value, class ValueCodec>
KeyResult<std::optional<Value>> PeekedAt(const GroupContext& context, const Answer& answer) {
  using Peeked = KeyResult<std::optional<Value>>;
  if (!answer.IsReply()) return Peeked::Failure(detail::ErrorOf(answer));
  Reply reply = answer.reply;
  const std::optional<Taken> taken = detail::ReadTaken(reply);
  if (!taken || taken->kind != Taken::Kind::kHit) return Peeked(std::optional<Value>());
  const auto payload = detail::Unpack(taken->value.payload, context.tag_hash, taken->value.token);
  try {
    if (payload) {
      if (std::optional<Value> value = ValueCodec::Decode(payload->body)) {
        return Peeked(std::move(value));
      }
    }
  } catch (...) {
    return Peeked::Failure(singleflight::detail::Caught());
  }
  return Peeked::Failure(std::make_exception_ptr(
      Outage(std::errc::protocol_error, "the server's value does not decode")));
}

}  // namespace singleflight::redis::detail
