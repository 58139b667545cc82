// SPDX-License-Identifier: MIT
#pragma once

// A batch whose caller has a Future for each key.

#include <exception>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "../../future.hpp"
#include "../../result.hpp"
#include "../batch_fn.hpp"
#include "../errors.hpp"
#include "../group_like.hpp"
#include "../landed_state.hpp"
#include "batch_work.hpp"

namespace singleflight::detail {

template <class G, class Fn>
class FutureBatch {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using Work = BatchWork<G, Fn>;

 public:
  // Reads `keys` before it joins any call, so that what this throws leaves nothing behind.
  template <class Keys>
  FutureBatch(G& group, Keys& keys) {
    std::vector<Key> all;
    for (auto&& key : keys) all.push_back(detail::CopyKey<G>(key));
    futures_.reserve(all.size());
    for (const Key& key : all) futures_.push_back(Join(group, key));
  }

  // Gives the work of the calls that nobody has led to the executor.
  template <class F, class Executor>
  std::vector<Future<Value>> Launch(F&& fn, Executor&& executor) {
    if (work_ != nullptr && !work_->Calls().Empty()) {
      std::exception_ptr error;
      try {
        work_->Keep(std::forward<F>(fn));
        std::invoke(std::forward<Executor>(executor), BatchTask<G, Fn>(work_));
      } catch (...) {
        error = Caught();
      }
      if (error != nullptr) work_->Fail(error);  // outside the catch block
    }
    return std::move(futures_);
  }

 private:
  Future<Value> Join(G& group, const Key& key) {
    std::exception_ptr error;
    try {
      return group.Join(key, [&](typename G::Lead lead) {
        if (work_ == nullptr) work_ = std::make_shared<Work>();
        work_->Calls().template Add<BatchFn<G, Fn>::kTakesStop>(key, std::move(lead));
      });
    } catch (...) {
      error = Caught();
    }
    return Future<Value>(LandedState<Value>::Failure(std::move(error)), Role::kFollower);
  }

  std::vector<Future<Value>> futures_;
  std::shared_ptr<Work> work_;  // null if nothing is led
};

}  // namespace singleflight::detail
