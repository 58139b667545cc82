// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

#include "../../stop_token.hpp"
#include "../batch_fn.hpp"
#include "../errors.hpp"
#include "../led_calls.hpp"
#include "../outcome.hpp"
#include "batch.hpp"

namespace singleflight::detail {

// A batcher's `fn`, and how it finds the outcomes of a batch's keys.
template <class G>
class BatcherFn {
 public:
  using Key = typename G::KeyType;
  using Keys = typename KeyBatch<G>::Keys;

  explicit BatcherFn(bool takes_stop) noexcept : takes_stop_(takes_stop) {}
  virtual ~BatcherFn() = default;
  BatcherFn(const BatcherFn&) = delete;
  BatcherFn& operator=(const BatcherFn&) = delete;

  bool TakesStop() const noexcept { return takes_stop_; }

  // Finds an outcome for each key. No key is in one call of `fn` twice. (It may have several calls,
  // because all but the last were forgotten.) So `fn` may be called more than once.
  //
  // `publish(StopSource)` is called before `fn` is, with what can ask it to stop.
  template <class Publish>
  void Load(Keys& keys, const Publish& publish) {
    Parts parts{keys};
    parts.waiting.swap(keys);
    while (!parts.waiting.empty()) {
      DropUnwanted(parts);
      TakeDistinct(parts);
      if (!parts.asked.empty()) Ask(parts.asked, publish);
      parts.done.splice(parts.done.end(), parts.asked);
    }
  }

  // As in BatcherStats.
  std::uint64_t Batches() const noexcept { return batches_.load(kRelaxed); }
  std::uint64_t KeysAsked() const noexcept { return keys_.load(kRelaxed); }
  std::uint64_t Dropped() const noexcept { return dropped_.load(kRelaxed); }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;  // for counters only

  // Calls the user's `fn`, and stores an outcome in each of `asked`. If it throws, those that are
  // left get that exception.
  virtual void Call(std::span<const Key> keys, StopToken stop, Keys& asked) = 0;

  // A batch's keys, while outcomes are found for them. However that ends, they are put back.
  struct Parts {
    ~Parts() {
      for (Keys* part : {&done, &asked, &waiting}) all.splice(all.end(), *part);
    }
    Keys& all;
    Keys waiting = {};
    Keys asked = {};  // `fn` is called with these
    Keys done = {};
  };

  void DropUnwanted(Parts& parts) {
    for (auto next = parts.waiting.begin(); next != parts.waiting.end();) {
      const auto key = next++;
      if (!key->stop.stop_requested() && !key->lead.HasLanded()) continue;
      key->Fail(detail::MakeCanceled());
      parts.done.splice(parts.done.end(), parts.waiting, key);
      dropped_.fetch_add(1, kRelaxed);
    }
  }

  // Takes the first call for each key. One whose key cannot be hashed or compared is done.
  static void TakeDistinct(Parts& parts) {
    struct Hash {
      std::size_t operator()(const Key* key) const { return hash(*key); }
      [[no_unique_address]] typename G::HashType hash{};
    };
    struct Equal {
      bool operator()(const Key* a, const Key* b) const { return equal(*a, *b); }
      [[no_unique_address]] typename G::KeyEqualType equal{};
    };
    if (parts.waiting.size() == 1) return parts.asked.swap(parts.waiting);
    std::optional<std::unordered_set<const Key*, Hash, Equal>> seen;
    for (auto next = parts.waiting.begin(); next != parts.waiting.end();) {
      const auto key = next++;
      try {
        if (!seen) seen.emplace(parts.waiting.size());
        if (!seen->insert(&key->key).second) continue;
        parts.asked.splice(parts.asked.end(), parts.waiting, key);
      } catch (...) {
        key->Fail(Caught());
        parts.done.splice(parts.done.end(), parts.waiting, key);
      }
    }
  }

  template <class Publish>
  void Ask(Keys& asked, const Publish& publish) {
    std::exception_ptr error;
    try {
      std::vector<Key> keys;
      keys.reserve(asked.size());
      for (BatcherKey<G>& key : asked) keys.push_back(std::move(key.key));
      batches_.fetch_add(1, kRelaxed);
      keys_.fetch_add(keys.size(), kRelaxed);
      if (takes_stop_) {
        CallWithStop(keys, asked, publish);
      } else {
        Call(keys, StopToken(), asked);
      }
    } catch (...) {
      error = Caught();
    }
    for (BatcherKey<G>& key : asked) {
      if (!key.outcome) key.Fail(error);
    }
  }

  template <class Publish>
  void CallWithStop(std::span<const Key> keys, Keys& asked, const Publish& publish) {
    std::vector<StopToken> calls;
    calls.reserve(keys.size());
    for (const BatcherKey<G>& key : asked) calls.push_back(key.stop);
    const StopOfAll stop(calls);
    publish(stop.GetSource());
    Call(keys, stop.GetToken(), asked);
  }

  const bool takes_stop_;
  std::atomic<std::uint64_t> batches_ = 0;
  std::atomic<std::uint64_t> keys_ = 0;
  std::atomic<std::uint64_t> dropped_ = 0;
};

template <class G, class Fn>
class BatcherFnOf final : public BatcherFn<G> {
  using Key = typename G::KeyType;
  using Keys = typename BatcherFn<G>::Keys;
  using Outcome = detail::Outcome<typename G::ValueType>;

  static constexpr bool kIsUsable = detail::CheckBatchFn<G, Fn>();

 public:
  template <class F>
  BatcherFnOf(std::in_place_t, F&& fn)
      : BatcherFn<G>(BatchFn<G, Fn>::kTakesStop), fn_(std::forward<F>(fn)) {}

 private:
  void Call(std::span<const Key> keys, StopToken stop, Keys& asked) override {
    if constexpr (kIsUsable) {
      auto next = asked.begin();
      detail::RunBatchFn<G>(fn_, keys, std::move(stop), [&](std::size_t, Outcome&& outcome) {
        (next++)->Answer(std::move(outcome));
      });
    }
  }

  Fn fn_;
};

}  // namespace singleflight::detail
