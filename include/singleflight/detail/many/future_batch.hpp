// SPDX-License-Identifier: MIT
#pragma once

// A batch whose caller has a Future for each key.

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "../../result.hpp"
#include "../errors.hpp"
#include "../group_like.hpp"
#include "../landed_state.hpp"

namespace singleflight {

template <class Value>
class Future;

namespace detail {

// The Futures for the keys of a batch.
template <class G>
class FutureBatch {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;

 public:
  // Reads the keys before any call is joined, so that what this throws leaves nothing behind.
  template <class Keys>
  explicit FutureBatch(Keys& keys) {
    for (auto&& key : keys) keys_.push_back(detail::CopyKey<G>(key));
    futures_.reserve(keys_.size());
  }

  // Joins the calls of all keys. For each that nobody has led, `lead(key, Lead)` is called, and in
  // the end `begin()` once, also if the memory for a Future's error is missing.
  template <class Lead, class Begin>
  std::vector<Future<Value>> Join(G& group, const Lead& lead, Begin&& begin) {
    std::exception_ptr error;
    try {
      for (const Key& key : keys_) futures_.push_back(JoinOne(group, key, lead));
    } catch (...) {
      error = Caught();
    }
    begin();
    if (error != nullptr) std::rethrow_exception(error);
    return std::move(futures_);
  }

  // The same for a group that launches later. `leads` is a LaterLeads.
  template <class Leads>
  std::vector<Future<Value>> JoinLater(G& group, const std::shared_ptr<Leads>& leads) {
    std::exception_ptr error;
    try {
      for (const Key& key : keys_) {
        futures_.push_back(JoinWith(group, key, typename Leads::Launch(leads, key)));
      }
    } catch (...) {
      error = Caught();
    }
    leads->Decided();
    if (error != nullptr) std::rethrow_exception(error);
    return std::move(futures_);
  }

 private:
  template <class Lead>
  static Future<Value> JoinOne(G& group, const Key& key, const Lead& lead) {
    return JoinWith(group, key, [&](typename G::Lead its_lead) { lead(key, std::move(its_lead)); });
  }
  template <class Launch>
  static Future<Value> JoinWith(G& group, const Key& key, Launch&& launch) {
    std::exception_ptr error;
    try {
      return group.Join(key, std::forward<Launch>(launch));
    } catch (...) {
      error = Caught();
    }
    return Future<Value>(LandedState<Value>::Failure(std::move(error)), Role::kFollower);
  }

  std::vector<Key> keys_;
  std::vector<Future<Value>> futures_;
};

}  // namespace detail

}  // namespace singleflight
