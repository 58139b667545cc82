// SPDX-License-Identifier: MIT
#pragma once

// CachedCall: one call of a redis::ReadThrough, which asks the server for a value and, if there is
// none, is led or follows like that of a redis::Group.

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "../../waiter.hpp"
#include "../errors.hpp"
#include "../outcome.hpp"
#include "../wait_graph.hpp"
#include "cache_context.hpp"
#include "cached_asking.hpp"
#include "fleet_call.hpp"
#include "payload.hpp"
#include "runner_slot.hpp"
#include "tenure.hpp"

namespace singleflight::redis::detail {

template <class Value, class ValueCodec, class Traits>
class CachedCall final
    : public BasicFleetCall<CachedCall<Value, ValueCodec, Traits>, Value, ValueCodec, CachedAsking,
                            PublishLoad<Value, ValueCodec, Traits>> {
  using Base = BasicFleetCall<CachedCall, Value, ValueCodec, CachedAsking,
                              PublishLoad<Value, ValueCodec, Traits>>;
  using Context = CacheContext<Value, Traits>;
  using Outcome = typename Base::Outcome;
  using Guard = typename Base::Hook::Guard;

 public:
  // Used by Start.
  CachedCall(std::shared_ptr<Context> its_context, std::shared_ptr<typename Base::Async> async,
             OldValue<Value> old = {})
      : Base(std::move(its_context), std::move(async)),
        old_(std::move(old)),
        epoch_(this->context->cache->EpochOf(this->async_->key)) {}

  typename Base::Hook MakeHook(std::shared_ptr<Guard> guard) const {
    return {{std::move(guard)}, CacheOf(), epoch_, Clock::now(), /*is_background=*/false, old_};
  }

 private:
  std::shared_ptr<Context> CacheOf() const noexcept {
    return std::static_pointer_cast<Context>(this->context);
  }

  void OnAsks() noexcept override {
    this->async_->Forget();
    asked_ = this->context->Now();
    epoch_ = this->context->cache->EpochOf(this->async_->key);
  }

  // It must not wait for itself: a load of this process may be asking for its own key.
  bool CanAwait(const std::string& id) override {
    awaits_ = this->context->cache->LeadOf(id);
    return awaits_ == nullptr ||
           singleflight::detail::WaitEdge::Link(*this->async_->call.state, *awaits_);
  }
  void OnLead(std::shared_ptr<Tenure> tenure) noexcept override {
    if (HasNoRunner()) return Vanish(tenure.get());
    this->context->cache->NoteLead(tenure->Token() + tenure->FenceText(), this->async_->call.state);
    Base::OnLead(std::move(tenure));
  }
  void OnMustRun(std::shared_ptr<Tenure> tenure) noexcept override {
    if (HasNoRunner()) return Vanish(tenure.get());
    const auto forget = [given = this->given_, fleet = &this->context->fleet] {
      if (std::shared_ptr<typename Base::Async> async = given.lock()) {
        async->Forget();
        fleet->Deliveries().Post([released = std::move(async)] {});  // what it holds is the user's
      }
    };
    this->context->cache->WhenServersChange(this->given_, forget);
    Base::OnMustRun(std::move(tenure));
  }

  void OnOutcome(std::string payload, std::string token) noexcept override {
    this->NoteGiven(token);
    Base::OnOutcome(std::move(payload), std::move(token));
  }
  bool IsLedHere() const noexcept override { return awaits_ != nullptr; }
  void OnHit(CachedValue value) noexcept override {
    this->Deliver([this, value = std::move(value)] { LandHit(value); });
  }

  bool HasOldValue() const noexcept override {
    return old_.value != nullptr && CacheOf()->MayGive(old_, this->async_->key);
  }
  void OnOldValue() noexcept override {
    this->async_->Forget();
    this->Deliver([this] { LandOld(); });
  }

  // One of the callers, or its function, gets a call of its own for the background load.
  void OnRefresh(std::shared_ptr<Tenure> tenure, bool is_early) noexcept override {
    const std::string id = tenure->Token() + tenure->FenceText();
    tenure->Begin(nullptr);
    const auto guard = std::make_shared<Guard>(std::move(tenure));  // if dropped, gives it back
    auto hook = MakeHook(guard);
    hook.is_background = true;
    hook.old = {};
    const auto launch = [&](typename Base::Local::Lead lead) {
      const auto target = lead.SharedTarget();
      guard->Watch(lead.SharedCall());
      this->SlotOf(*lead.SharedCall()).NoteLeads();
      typename Base::Lead full(std::move(lead), std::move(hook));
      this->context->cache->NoteLead(id, target);
      ++this->context->count.executions;
      if (is_early) ++CacheOf()->early_refreshes;
      if (GiveRefresh(std::move(full))) return;
      --this->context->count.executions;  // all callers have left
      if (is_early) --CacheOf()->early_refreshes;
    };
    try {
      JoinUnattended(launch);
    } catch (...) {  // no memory: nobody refreshes it now
      static_cast<void>(singleflight::detail::Caught());
    }
  }
  bool GiveRefresh(typename Base::Lead lead) {
    RunnerSlot::Taken taken;
    const auto give = [&lead](redis::detail::Runner& runner) {
      static_cast<typename Base::Runner&>(runner).Take(std::move(lead));
    };
    if (!this->SlotOf(*this->async_).GiveOther(give, taken)) return false;
    if (taken.runner == nullptr) return true;
    has_given_runner_ = true;
    this->Deliver([owned = std::shared_ptr<redis::detail::Runner>(std::move(taken.owned)),
                   lead = std::move(lead)]() mutable {
      static_cast<typename Base::Runner&>(*owned).Take(std::move(lead));
    });
    return true;
  }
  // Its only function was to refresh the value, and cannot do the work of this call, too.
  bool HasNoRunner() noexcept {
    return has_given_runner_ && !this->SlotOf(*this->async_).HasRunner();
  }
  void Vanish(Tenure* tenure) noexcept {
    if (tenure != nullptr) {
      tenure->Begin(nullptr);
      tenure->GiveBack();
    }
    this->OnFailure(singleflight::detail::MakeOwnerDead());
  }
  template <class Launch>
  void JoinUnattended(const Launch& launch) {
    struct Unattended final : Waiter<Value> {
      void OnLanded() noexcept override { delete this; }
    };
    auto waiter = std::make_unique<Unattended>();
    CacheOf()->refreshes->Join(this->async_->key, *waiter, [&](typename Base::Local::Lead lead) {
      static_cast<void>(waiter.release());  // it has joined: OnLanded deletes it
      launch(std::move(lead));
    });
    static_cast<void>(waiter.release());  // it waits for an earlier one
  }

  // A value that is a failure is not what the callers get, if there is an expired one.
  bool LandsOtherwise(const Outcome& outcome) override {
    const std::optional<CachedValue> stale = this->TakeStale();
    if (outcome.value() == nullptr || !singleflight::detail::Failed(outcome)) {
      if (stale) ++CacheOf()->hits;  // the server had that
      return false;
    }
    if (stale) {
      LandHit(*stale);
    } else if (HasOldValue()) {
      LandOld();
    } else {
      return false;
    }
    return true;
  }
  void LandOld() {
    ++CacheOf()->stale;
    std::exception_ptr error;
    try {
      return this->Land(Outcome(std::in_place, *old_.value));
    } catch (...) {  // a copy of it throws
      error = singleflight::detail::Caught();
    }
    this->Land(Outcome(std::move(error)));
  }

  // Thread: the one that delivers.
  void LandHit(const CachedValue& hit) {
    Context& cache = *CacheOf();
    const auto payload = detail::Unpack(hit.payload, cache.tag_hash, hit.token);
    const bool is_value = payload && payload->kind == PayloadKind::kValue;
    std::optional<Outcome> outcome = is_value ? Base::Decode(*payload) : std::nullopt;
    if (!outcome) {
      const bool is_other = !payload && detail::IsOfAnotherType(hit.payload, cache.tag_hash);
      cache.Loop().Post([this, is_other, token = hit.token] {
        if (this->is_canceled_) return this->LandUnwanted();
        this->NoteGiven(token);
        is_other ? this->OfAnotherType() : this->Undecodable();
      });
      return;
    }
    ++cache.hits;
    if (hit.HasExpired()) ++cache.stale;
    if (const Value* const value = outcome->value()) {
      cache.TryPutLocal(this->async_->key, *value, epoch_, asked_, hit.left);
    }
    this->Land(std::move(*outcome));
  }

  const OldValue<Value> old_;
  // Used by the loop's thread, and from when the call's work begins, by the one that does it.
  CacheState::Epoch epoch_;
  Clock::time_point asked_ = {};   // when the server was asked
  bool has_given_runner_ = false;  // to refresh the value. The loop's thread alone
  // The call of this process that it follows, if it is one. Kept as long as this, which lands first
  std::shared_ptr<const singleflight::detail::WaitTarget> awaits_;
};

}  // namespace singleflight::redis::detail
