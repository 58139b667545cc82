// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <ranges>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../../key_result.hpp"
#include "../../result.hpp"
#include "../call.hpp"
#include "../errors.hpp"
#include "../group_like.hpp"

namespace singleflight::detail {

// A batch, as the caller of one of its keys. `Base` is a Waiter.
template <class Base, class Key>
struct BatchMember : Base {
  ~BatchMember() override {
    if constexpr (requires { this->DetachOrWait(); }) this->DetachOrWait();
  }

  const Key* key = nullptr;
  std::size_t times = 0;  // how often the key is in the batch
  bool led = false;       // the call that it last asked for is this batch's
  bool joined = false;    // it is, or was, on that call
  bool left = false;      // it left, because a stop was requested
  Role role = Role::kFollower;
  std::exception_ptr error;  // why it is not on a call, or has left it
};

// The members of a batch, one for each different key, and the places of the keys in the batch.
template <class G, class Member>
class BatchMembers {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using State = SharedState<Value>;

 public:
  // Reads `keys` once, and copies each key that it has not seen before.
  template <class Keys>
  explicit BatchMembers(Keys& keys) {
    if constexpr (std::ranges::sized_range<Keys&>) {
      const auto size = static_cast<std::size_t>(std::ranges::size(keys));
      places_.reserve(size);
      index_.reserve(size);
    }
    for (auto&& key : keys) {
      places_.push_back(&*index_.try_emplace(detail::CopyKey<G>(key), index_.size()).first);
    }
    members_ = std::vector<Member>(index_.size());
    for (const Entry* place : places_) {
      Member& member = members_[place->second];
      member.key = &place->first;
      ++member.times;
    }
    results_.reserve(places_.size());
  }

  // In the order in which the keys first came.
  auto begin() noexcept { return members_.begin(); }
  auto end() noexcept { return members_.end(); }
  std::size_t Size() const noexcept { return members_.size(); }

  // Returns a result or an error for each place. Call it once, when no member waits any more.
  std::vector<KeyResult<Value>> TakeResults() {
    for (const Entry* place : places_) {
      try {
        results_.push_back(Take(members_[place->second]));
      } catch (...) {  // the value's move threw
        results_.push_back(KeyResult<Value>::Failure(Caught()));
      }
    }
    return std::move(results_);
  }

  // Destroys the keys. The members stay.
  void ReleaseKeys() noexcept {
    places_.clear();
    index_.clear();
  }

 private:
  using Index =
      std::unordered_map<Key, std::size_t, typename G::HashType, typename G::KeyEqualType>;
  using Entry = typename Index::value_type;

  static KeyResult<Value> Take(Member& member) {
    if (member.left) return KeyResult<Value>::Failure(MakeCanceled());
    if (member.error != nullptr) return KeyResult<Value>::Failure(member.error);
    const std::shared_ptr<State>& state = State::Of(member);
    if (std::exception_ptr error = state->Error()) {
      return KeyResult<Value>::Failure(std::move(error));
    }
    return member.times > 1 ? State::ReceiveShared(state, member.role) : member.TakeResult();
  }

  Index index_;  // each key once, with the number of its member
  std::vector<const Entry*> places_;
  std::vector<KeyResult<Value>> results_;  // no allocation is left to fail when they are taken
  std::vector<Member> members_;            // declared last, so destroyed first
};

}  // namespace singleflight::detail
