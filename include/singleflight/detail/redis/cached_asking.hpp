// SPDX-License-Identifier: MIT
#pragma once

// CachedAsking: Asking, where the server may have a value already.

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../errors.hpp"
#include "answer.hpp"
#include "asking.hpp"
#include "cache_protocol.hpp"
#include "cache_state.hpp"
#include "event_loop.hpp"
#include "fleet.hpp"
#include "protocol.hpp"
#include "reply.hpp"
#include "router.hpp"
#include "tenure.hpp"
#include "timer_queue.hpp"

namespace singleflight::redis::detail {

// It ends as Asking does, or with OnHit, or with OnOldValue if there is one.
//
// If a hit is expected, it looks for the value by one MGET first, since a script costs the server
// ten times as much. Whatever that does not settle is asked by the script.
//
// Thread: the loop's.
class CachedAsking : public Asking {
 protected:
  // Thread: any.
  CachedAsking(std::shared_ptr<GroupContext> its_context, std::string_view key)
      : Asking(std::move(its_context), {}, {}),
        key_(key),
        patience_(context->Loop().Timers(), [this] { OnImpatient(); }) {}
  ~CachedAsking() = default;

  // The server is being asked. What it answers is of no use to a caller that comes later.
  virtual void OnAsks() noexcept = 0;
  // The server has a value.
  virtual void OnHit(CachedValue value) noexcept = 0;
  // This process should load a new value in the background.
  virtual void OnRefresh(std::shared_ptr<Tenure> tenure, bool is_early) noexcept = 0;
  // Whether this process has an expired value.
  virtual bool HasOldValue() const noexcept = 0;
  // Its callers are to have that.
  virtual void OnOldValue() noexcept = 0;

  void Begin() {
    StartAsking();
    if (const auto& patience = context->cache->Patience(); patience && HasOldValue()) {
      patience_.Set(began_ + *patience);
    }
    const auto take = [](CachedAsking& self) {
      self.has_turn_ = true;
      if (!self.is_asking_) return self.OnAnswered();
      if (!self.Look()) self.Take();
    };
    const auto later = [take, self = Self(*this)] { take(*self); };
    if (!context->cache->WaitsForTurn(key_, later)) take(*this);
  }
  // It has ended with a value or an outcome that was packed with this token.
  void NoteGiven(std::string token) { given_ = std::move(token); }
  // The expired value that was waited with, once this has ended. Thread: the one that delivers.
  std::optional<CachedValue> TakeStale() { return std::exchange(stale_, {}); }
  // The outcome, or the value, did not decode.
  void Undecodable() {
    unreadable_ = given_;
    stale_.reset();
    own_token_.clear();  // a refresh may have the lease with this one
    Asking::Undecodable();
  }
  // The value is of another type.
  void OfAnotherType() {
    StartAsking();
    stale_.reset();
    OnOutage(std::errc::protocol_error, detail::Printable(base_) +
                                            " has a value of another type than '" + context->tag +
                                            "': give each type a prefix of its own");
  }

 private:
  // False: it is not worth a try, or cannot be sent at once.
  bool Look() {
    const CacheState& cache = *context->cache;
    if (cache.Generation().empty() || !cache.ExpectsHit(key_)) return false;
    base_ = cache.BaseOf(key_);
    const std::string value = detail::ValueName(base_);
    Router& commands = context->fleet.Core().Commands();
    if (!commands.CanSend(base_)) return false;
    OnAsks();
    is_in_flight_ = true;
    const std::string fresh = detail::FreshName(base_);
    const std::array<std::string_view, 4> words = {"MGET", value, fresh, cache.GenerationName()};
    // In a Cluster, the generation is most likely on another node, and is not checked.
    commands.Run(value, std::span(words).first(commands.IsCluster() ? 3 : 4),
                 [self = Self(*this), generation = cache.Generations()](Answer answer) {
                   self->OnLooked(std::move(answer), generation);
                 });
    return true;
  }
  void OnLooked(Answer answer, std::uint64_t generation) {
    is_in_flight_ = false;
    if (!is_asking_) return OnAnswered();
    std::optional<CachedValue> value;
    if (answer.IsReply() && generation == context->cache->Generations()) {
      value = ReadLook(answer.reply.elements);
    }
    if (answer.kind == Answer::Kind::kRefused && !MayComeTrue(answer)) {
      context->cache->ExpectNoHits();  // such as a user who has no right to it
    }
    if (!value) return Take();
    OnAnswered();
    End();
    OnHit(std::move(*value));
  }
  // Returns nothing if there is no fresh value, or if that is not certain.
  std::optional<CachedValue> ReadLook(std::vector<Reply>& found) const {
    if (found.size() < 2 || !found[0].IsText() || found[0].text.size() < kValueHeader) return {};
    const std::string& generation = context->cache->Generation();
    if (found.size() > 2 && (generation.empty() || found[2].text != generation)) return {};
    const std::string_view text = found[0].text;
    const std::string_view token = text.substr(2 * kFenceSize, kTokenSize);
    const bool is_fresh = text[kValueHeader - 1] == '1' || found[1].text == token;
    if (!is_fresh) return {};
    CachedValue value{{}, std::string(token), std::chrono::milliseconds(1)};
    value.payload = std::move(found[0].text);
    value.payload.erase(0, kValueHeader);
    return value;
  }

  // A hit needs no token, so that one is made as late as this. False: there was none to be had.
  bool HasToken() {
    std::exception_ptr error;
    try {
      if (own_token_.empty()) own_token_ = context->NewToken();
      return true;
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    OnAnswered();
    End();
    OnFailure(std::move(error));
    return false;
  }
  // The generation must be known.
  bool IsReadyToTake() override {
    if (!HasToken()) return false;
    CacheState& cache = *context->cache;
    cache.Open();
    if (cache.Generation().empty()) {
      cache.WithGeneration(
          [self = Self(*this)](const Answer* failure) { self->OnGeneration(failure); });
      return false;
    }
    std::string base = cache.BaseOf(key_);
    is_outdated_ = base != base_ && !awaited_.empty();
    if (is_outdated_) return true;  // it follows a load that InvalidateAll has forgotten
    if (base != base_) {
      GiveBackWhatMayBeOurs();
      base_ = std::move(base);
    }
    is_sent_ = context->fleet.Core().Commands().CanSend(base_);
    if (is_sent_) OnAsks();
    return true;
  }
  void OnGeneration(const Answer* failure) {
    if (!is_asking_) return OnAnswered();
    if (failure == nullptr) return Take();
    if (std::exchange(is_in_flight_, true)) return;
    AnswerHandler()(*failure);
  }

  void SendTake(std::span<const std::string_view> keys,
                std::span<const std::string_view> words) override {
    const CacheState& cache = *context->cache;
    const std::string value = detail::ValueName(base_);
    const std::string failure = detail::FailureName(base_);
    const std::string earliness = cache.DrawEarliness();
    std::array<std::string_view, 7> all_keys;
    *std::ranges::copy(keys, all_keys.begin()).out = value;
    all_keys.back() = failure;
    std::array<std::string_view, 14> all_words;
    std::ranges::copy(
        std::array<std::string_view, 5>{cache.GenerationName(),
                                        is_outdated_ ? std::string_view() : cache.Generation(),
                                        earliness, cache.WhenExpired(), unreadable_},
        std::ranges::copy(words.first(8), all_words.begin()).out);
    all_words.back() = words.back();
    endings_so_far_ = cache.EndingsSoFar();
    context->fleet.Core().Commands().RunScript(detail::GetScript(), all_keys, all_words,
                                               AnswerHandler());
  }

  // The next may ask for the key.
  void OnAnswered() override {
    if (std::exchange(has_turn_, false)) context->cache->EndTurn(key_);
  }

  bool OnTakenFirst(Taken& taken, Clock::time_point asked) override {
    // If the generation has changed since, a call that follows has asked in an earlier one. It was
    // forgotten then, and its epoch is over.
    const bool is_of_now = awaited_.empty() || base_ == context->cache->BaseOf(key_);
    if (!std::exchange(is_sent_, true) && !is_outdated_ && is_of_now) {
      OnAsks();  // it is not known when the server was asked
      if (taken.kind != Taken::Kind::kLead && is_asking_) {
        Take();
        return true;
      }
    }
    const bool is_hit = taken.kind == Taken::Kind::kHit && !taken.value.HasExpired();
    context->cache->NoteHit(key_, is_hit);
    switch (taken.kind) {
      case Taken::Kind::kRefresh:
        OnLeaseToRefresh(std::move(taken), asked);
        return true;
      case Taken::Kind::kGeneration:
        context->cache->Learn(std::move(taken.text));
        if (++outdated_ == CacheState::kMostGenerations) {
          OnOutage(std::errc::protocol_error, CacheState::kNoGenerationLasts);
        } else {
          Take();
        }
        return true;
      case Taken::Kind::kHit:
        if (!is_asking_) return true;
        End();
        OnHit(std::move(taken.value));
        return true;
      case Taken::Kind::kFailure:
        if (!is_asking_ || EndsWithOldValue(/*can_work=*/false)) return true;
        EndWith(std::move(taken.value.payload), std::move(taken.value.token));
        return true;
      case Taken::Kind::kWait:
        if (is_asking_) WaitForNewer(std::move(taken.value));
        return AsksAgainAfter(taken.text);  // else this follows the process that loads it
      case Taken::Kind::kFollow:
        return AsksAgainAfter(taken.text);
      default:
        return false;
    }
  }

  // True if the lease was this process's, and its load had finished before the server was asked.
  bool AsksAgainAfter(const std::string& id) {
    return is_asking_ &&
           context->cache->WaitsForEnd(id, endings_so_far_, [self = Self(*this)] { self->Take(); });
  }

  // The server has a value, and this process has the lease to load a new one.
  void OnLeaseToRefresh(Taken&& taken, Clock::time_point asked) {
    auto tenure = MakeTenure(std::move(taken.text), asked);
    if (!is_asking_) {
      tenure->Begin(nullptr);
      return tenure->GiveBack();
    }
    const bool is_early = !taken.value.HasExpired();
    if (is_early || !context->cache->Patience()) {
      End();
      OnRefresh(std::move(tenure), is_early);
      return OnHit(std::move(taken.value));
    }
    began_ = context->Now();
    WaitForNewer(std::move(taken.value));  // as any other process does
    const std::string id = own_token_ + tenure->FenceText();
    Await(id);
    lease_until_ = asked + context->options.lease;
    timer_.Set(began_ + pause_);
    OnRefresh(std::move(tenure), is_early);
    if (!std::exchange(is_known_to_follow_, true)) OnFollows();
    own_token_.clear();  // a lease that this may take later has another one
    if (!CanAwait(id)) EndsWithOldValue(/*can_work=*/false);
  }

  // There is an expired value, and a process loads a new one.
  void WaitForNewer(CachedValue&& value) {
    stale_ = std::move(value);
    if (!patience_.IsSet()) patience_.Set(context->Now() + *context->cache->Patience());
  }
  void OnImpatient() {
    if (is_asking_) EndsWithOldValue(/*can_work=*/false);
  }
  bool EndsWithOldValue(bool can_work) override {
    if (!stale_ && (can_work || !HasOldValue())) return false;
    // If it has come from the server, the work of this call was given away, or is another's.
    const std::optional<CachedValue> stale = std::exchange(stale_, {});
    End();
    GiveBackWhatMayBeOurs();
    stale ? OnHit(*stale) : OnOldValue();
    return true;
  }
  void OnEnd() override { patience_.Cancel(); }

  const std::string key_;
  int outdated_ = 0;                  // how often another generation was in use
  bool has_turn_ = false;             // nobody else asks for the key at this time
  bool is_sent_ = false;              // the command in flight was sent at once
  bool is_outdated_ = false;          // what it follows is of an earlier generation
  std::string given_;                 // the token of the value or outcome that it has ended with
  std::string unreadable_;            // likewise, of one that did not decode
  std::uint64_t endings_so_far_ = 0;  // when the server was asked
  std::optional<CachedValue> stale_;  // it has expired, and a new one is waited for
  Timer patience_;
};

}  // namespace singleflight::redis::detail
