// SPDX-License-Identifier: MIT

// What without_listener.test.sh compiles: callers of groups that have no listener.

#include <singleflight/group.hpp>
#include <string>
#include <type_traits>

namespace {

using Group = singleflight::Group<std::string, int>;
using Listening = Group::Lead::LedgerType::Listening;

static_assert(std::is_empty_v<Listening::CallNote>);
static_assert(std::is_empty_v<Listening::StateTag>);
static_assert(std::is_empty_v<Listening::StateKey>);
static_assert(std::is_empty_v<Listening::ToldKey>);

}  // namespace

int Unshared(Group& group, const std::string& key) {
  return *group.Do(key, [&] { return static_cast<int>(key.size()); });
}

int WithOptions(Group& group, const std::string& key, singleflight::CallOptions options) {
  return *group.Do(
      key, [&] { return static_cast<int>(key.size()); }, options);
}

singleflight::Role Joined(Group& group, const std::string& key, Group::Waiter& waiter) {
  return group.Join(key, waiter, [](Group::Lead lead) { lead.Succeed(1); });
}
