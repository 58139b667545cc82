// SPDX-License-Identifier: MIT

// A module that uses the library, and that unload.cpp loads and unloads.

#include <optional>
#include <singleflight/singleflight.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace {

using singleflight::DoAsync;
using singleflight::DoThen;

const std::thread::id loader = std::this_thread::get_id();

// A call's copy of the key is destroyed after the call has landed. Here that takes some time.
struct Key {
  Key(int its_number) : number(its_number) {}
  Key(const Key&) = default;
  Key& operator=(const Key&) = default;
  ~Key() {
    if (std::this_thread::get_id() == loader) return;
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
  }
  bool operator==(const Key&) const = default;
  int number;
};
struct HashKey {
  std::size_t operator()(const Key& key) const { return static_cast<std::size_t>(key.number); }
};
using Group = singleflight::Group<Key, int, HashKey>;

struct NoCache {
  std::optional<int> Get(const Key&) { return std::nullopt; }
  void Put(const Key&, int) {}
};

int Seven() { return 7; }

}  // namespace

// Makes a group, lets it start threads in one of several ways, and destroys it. False: there is no
// such way.
extern "C" __attribute__((visibility("default"))) bool UseGroup(int way) {
  Group group;
  const Key key = 1;
  switch (way) {
    case 0:
      static_cast<void>(DoAsync(group, key, Seven).Get());
      return true;
    case 1: {
      const auto dropped = DoAsync(group, key, Seven);
      return true;
    }
    case 2:
      DoThen(group, key, Seven, [](const singleflight::KeyResult<int>&) {}).Detach();
      return true;
    case 3: {
      const auto left = DoThen(group, key, Seven, [](const singleflight::KeyResult<int>&) {});
      return true;
    }
    case 4: {
      std::vector<singleflight::Future<int>> futures;
      for (const int other : {1, 2, 3, 4}) {
        futures.push_back(DoAsync(group, other, Seven));
      }
      for (auto& future : futures) static_cast<void>(future.Get());
      return true;
    }
    case 5: {
      const auto passes_on = [](auto task) { singleflight::NewThread()(std::move(task)); };
      static_cast<void>(DoAsync(group, key, Seven, passes_on).Get());
      return true;
    }
    case 6: {
      singleflight::ReadThrough<Key, int, NoCache, HashKey> numbers{NoCache()};
      numbers.Refresh(key, Seven, singleflight::NewThread());
      return true;
    }
    default:
      return false;
  }
}
