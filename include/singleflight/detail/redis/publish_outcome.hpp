// SPDX-License-Identifier: MIT
#pragma once

// PublishOutcome: the last of a call's work in the process that has the lease: its outcome goes to
// the processes that follow. LeaseGuard: keeps the lease until then. LocalGroup: the group of one
// process.

#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "../../group.hpp"
#include "../../hash.hpp"
#include "../../options.hpp"
#include "../../stop_token.hpp"
#include "../call_table.hpp"
#include "../errors.hpp"
#include "../outcome.hpp"
#include "payload.hpp"
#include "remote_error.hpp"
#include "runner_slot.hpp"
#include "shared_listener.hpp"
#include "tenure.hpp"

namespace singleflight::redis::detail {

template <class Traits>
struct FleetTraits : Traits {
  using CallExtra = RunnerSlot;
  using Listener = SharedListener<typename Traits::Listener>;
};

template <class Value, class Traits>
using LocalGroup = singleflight::Group<std::string, Value, DefaultHash<std::string>,
                                       DefaultEqual<std::string>, FleetTraits<Traits>>;

// Keeps a lease for as long as this process may do the work of its call.
template <class Async>
class LeaseGuard {
 public:
  // `async` is asked to stop when nobody wants it any more. If it obeys, or was cancelled, others
  // may take over at once.
  LeaseGuard(std::shared_ptr<Tenure> tenure, std::shared_ptr<Async> async)
      : tenure_(std::move(tenure)),
        async_(std::move(async)),
        on_stop_(std::in_place, async_->WatchStop(), OnStop{this}) {}
  // For a call that is to be made: Watch should follow.
  explicit LeaseGuard(std::shared_ptr<Tenure> tenure) : tenure_(std::move(tenure)) {}
  // Errors: std::bad_alloc.
  void Watch(std::shared_ptr<Async> async) {
    async_ = std::move(async);
    on_stop_.emplace(async_->WatchStop(), OnStop{this});
  }
  ~LeaseGuard() {
    if (tenure_ != nullptr) tenure_->GiveBack();  // nothing was published
  }
  LeaseGuard(const LeaseGuard&) = delete;
  LeaseGuard& operator=(const LeaseGuard&) = delete;

  Tenure& operator*() const noexcept { return *tenure_; }

  // Nothing will be published: others take over.
  void GiveBack() noexcept {
    tenure_->GiveBack();
    Release();
  }
  // The outcome is on its way. A Lead that outlives the client must not keep the lease.
  void Release() noexcept {
    on_stop_.reset();
    tenure_ = nullptr;
    async_ = nullptr;
  }

 private:
  struct OnStop {
    LeaseGuard* self;
    void operator()() const noexcept {
      if (self->async_->IsUnwanted() && !self->tenure_->IsLost()) self->tenure_->GiveBack();
    }
  };

  std::shared_ptr<Tenure> tenure_;
  std::shared_ptr<Async> async_;
  std::optional<StopCallback<OnStop>> on_stop_;
};

// The hook before a call of the process lands: publishes its outcome to the fleet.
template <class Value, class ValueCodec, class TraitsArg>
struct PublishOutcome {
  using Traits = TraitsArg;
  using Local = LocalGroup<Value, Traits>;
  using Ledger = typename Local::Lead::LedgerType;
  using Guard = LeaseGuard<typename Ledger::AsyncCall>;

  // False: the outcome is of no use to anybody.
  bool operator()(Ledger& ledger, const singleflight::detail::CallBase& call, const std::string&,
                  singleflight::detail::Outcome<Value>& outcome,
                  std::optional<PutOrder> put = {}) const {
    // A function that obeys a stop may return before the guard has been told of it. Others must not
    // get what it returns then. If the lease was lost, that is why it was asked to stop.
    const bool is_lost = guard != nullptr && (**guard).IsLost();
    const bool is_useless = is_lost ? ledger.IsCanceled(call) : ledger.IsUnwanted(call);
    if (guard != nullptr && !is_useless) {
      Publish(outcome, std::move(put));
      guard->Release();
    } else if (guard != nullptr) {
      guard->GiveBack();
    }
    return !is_useless;
  }
  // The thread that does the work is being cancelled, and the call has landed.
  void OnVanished() const noexcept {
    if (guard != nullptr) guard->GiveBack();
  }

  std::shared_ptr<Guard> guard;  // null: there is no lease

 private:
  void Publish(singleflight::detail::Outcome<Value>& outcome, std::optional<PutOrder> put) const {
    std::exception_ptr error;
    try {
      if (const auto* const value = outcome.value()) {
        if constexpr (std::is_void_v<Value>) {
          return (**guard).End(PayloadKind::kValue, {});
        } else {
          const auto& bytes = ValueCodec::Encode(*value);  // throws before `put` is moved
          return (**guard).End(PayloadKind::kValue, bytes, std::move(put));
        }
      }
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    if (error != nullptr) {  // the callers of this process get what Encode has thrown
      outcome.SetError(error);
      if (put && !put->fresh.empty()) put = PutOrder{.fresh = "-"};  // else it was a failure
    } else {
      error = outcome.Error();
    }
    PublishError(error, std::move(put));
  }

  void PublishError(const std::exception_ptr& error, std::optional<PutOrder> put) const {
    try {
      if constexpr (requires { ValueCodec::EncodeError(error); }) {
        if (const std::optional<std::string> own = ValueCodec::EncodeError(error)) {
          return (**guard).End(PayloadKind::kOwnError, *own, std::move(put));
        }
      }
      const PackedError packed = detail::PackError(error);
      (**guard).End(packed.kind, packed.body, std::move(put));
    } catch (...) {
      static_cast<void>(singleflight::detail::Caught());
      PublishRunIt();
    }
  }
  void PublishRunIt() const {
    try {
      (**guard).End(PayloadKind::kRunIt, {});
    } catch (const std::bad_alloc&) {
      (**guard).GiveBack();
    }
  }
};

}  // namespace singleflight::redis::detail
