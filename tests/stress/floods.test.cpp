// SPDX-License-Identifier: MIT

// Tests promise 12 (bounded damage) at scale: keys made to collide, a million callers on one call,
// and a million calls in flight. Counts are exact. Times are only held to ratios that a busy
// machine does not reach.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <singleflight/detail/call_table.hpp>
#include <singleflight/detail/hash_mixer.hpp>
#include <string>
#include <vector>

#include "sanitizers/sanitizers.hpp"
#include "support/catch.hpp"
#include "support/evidence.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Role;
using singleflight::Stats;

namespace {

#if defined(UNDER_SANITIZER)
constexpr std::size_t kLess = 20;
#else
constexpr std::size_t kLess = 1;
#endif
constexpr std::size_t kMany = 1'000'000 / kLess;

constexpr auto kRefused = std::errc::resource_unavailable_try_again;

// A caller that only counts how often it is notified.
template <class G>
struct Counted final : G::Waiter {
  void OnLanded() noexcept override { ++told; }
  int told = 0;
};

// Returns how many nanoseconds of processor time each of `count` parts of `work` takes. What other
// programs do meanwhile does not count.
template <class Work>
double NanosecondsEach(std::size_t count, Work&& work) {
  const std::clock_t start = std::clock();
  work();
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  return std::max(seconds * 1e9, 1000.0) / static_cast<double>(count);  // the clock's step: 1 us
}

// ---- Keys in flight

// The cost of beginning and of landing a call, in nanoseconds.
struct Cost {
  double begin = 0;
  double land = 0;
};

// Calls for many keys at the same time, led by this thread.
template <class G>
class CallsInFlight {
  using Key = typename G::KeyType;

 public:
  CallsInFlight(G& group, const std::vector<Key>& keys) : group_(group), keys_(keys) {
    leads_.reserve(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) waiters_.emplace_back();
    cost.begin = NanosecondsEach(keys.size(), [&] {
      for (std::size_t i = 0; i < keys_.size(); ++i) {
        leaders += group_.Join(keys_[i], waiters_[i], [&](typename G::Lead lead) {
          leads_.push_back(std::move(lead));
        }) == Role::kLeader;
      }
    });
  }
  // Lands the oldest first, since these are the last in a chain.
  void Land() {
    cost.land = NanosecondsEach(keys_.size(), [&] {
      for (auto& lead : leads_) lead.Succeed(1);
    });
    for (const auto& waiter : waiters_) told += static_cast<std::size_t>(waiter.told);
  }

  Cost cost;
  std::size_t leaders = 0;
  std::size_t told = 0;

 private:
  G& group_;
  const std::vector<Key>& keys_;
  std::deque<Counted<G>> waiters_;
  std::vector<typename G::Lead> leads_;
};

template <class G>
Cost CostOf(const std::vector<typename G::KeyType>& keys) {
  G group;
  CallsInFlight<G> calls(group, keys);
  REQUIRE(calls.leaders == keys.size());
  REQUIRE(group.GetStats() == Stats{.executions = keys.size(), .in_flight = keys.size()});
  calls.Land();
  REQUIRE(calls.told == keys.size());
  REQUIRE(group.GetStats() == Stats{.executions = keys.size()});
  return calls.cost;
}

// Returns the least of three runs, the one that other programs have disturbed least.
template <class Measure>
double Least(Measure&& measure) {
  double least = measure();
  for (int i = 0; i < 2; ++i) least = std::min(least, measure());
  return least;
}
template <class G>
Cost BestCostOf(const std::vector<typename G::KeyType>& keys) {
  Cost best = CostOf<G>(keys);
  for (int i = 0; i < 2; ++i) {
    const Cost cost = CostOf<G>(keys);
    best = {std::min(best.begin, cost.begin), std::min(best.land, cost.land)};
  }
  return best;
}

struct CountsCompared {
  bool operator()(int a, int b) const {
    ++compared;
    return a == b;
  }
  static inline std::size_t compared = 0;
};

struct OneHash {
  std::size_t operator()(int) const { return 42; }
};

// Returns numbers spread over all 64 bits, always the same ones.
std::vector<std::uint64_t> Scattered(std::size_t count) {
  std::vector<std::uint64_t> numbers;
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    numbers.push_back(state ^ state >> 29);
  }
  return numbers;
}

// A hash that returns the key, as libstdc++'s and libc++'s std::hash do for numbers.
struct Identity {
  std::size_t operator()(std::uint64_t key) const { return static_cast<std::size_t>(key); }
};
using NumberGroup = Group<std::uint64_t, int, Identity>;

}  // namespace

TEST_CASE("Flood: keys with the same hash cost one comparison for each call in flight") {
  using Collide = Group<int, int, OneHash, CountsCompared>;
  constexpr int kCalls = 2000;
  Collide group({.max_calls_in_flight = kCalls});
  std::vector<int> keys;
  for (int i = 0; i < kCalls; ++i) keys.push_back(i);
  CountsCompared::compared = 0;
  CallsInFlight<Collide> calls(group, keys);
  CHECK(calls.leaders == kCalls);
  // Each is compared with all that are in flight, until the limit bounds the chain.
  CHECK(CountsCompared::compared == std::size_t{kCalls} * (kCalls - 1) / 2);
  CountsCompared::compared = 0;
  CHECK(ErrorOf([&] { return group.Do(kCalls, [] { return 1; }); }) == kRefused);
  CHECK(CountsCompared::compared == kCalls);
  CountsCompared::compared = 0;
  calls.Land();  // compares addresses only
  CHECK(CountsCompared::compared == 0);
  CHECK(calls.told == kCalls);
  CHECK(group.GetStats() == Stats{.executions = kCalls, .refused = 1});
  Evidence("floods.one_hash.calls", kCalls);
  Evidence("floods.one_hash.begin_ns", calls.cost.begin);
  Evidence("floods.one_hash.land_ns", calls.cost.land);
}

// ---- Keys that are chosen to share buckets

namespace {

using singleflight::detail::CallBase;
using singleflight::detail::CallTable;
using singleflight::detail::HashMixer;
using Hashes = std::vector<std::uint64_t>;
using MixFn = std::function<std::uint64_t(std::uint64_t)>;

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;

// The odd number by which to multiply to undo a multiplication by `odd`.
constexpr std::uint64_t InverseOf(std::uint64_t odd) {
  std::uint64_t inverse = odd;  // right in its three lowest bits. Each step doubles their number.
  for (int i = 0; i < 5; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}

// A group's table alone, with calls for `hashes` in it. Their hashes are mixed by `mix`, or if
// there is none, as the table does it.
template <std::size_t kShards>
class FilledTable {
 public:
  explicit FilledTable(const Hashes& hashes, const MixFn& mix = nullptr) {
    for (const std::uint64_t hash : hashes) {
      CallBase& call = calls_.emplace_back();
      call.hash = mix ? mix(hash) : Mix(hash);
      table_->Lock(call.hash)->Insert(call);
    }
  }

  std::uint64_t Mix(std::uint64_t hash) const { return table_->HashOf(Identity{}, hash); }

  // Returns how many calls a bucket's chain has after and with each of the calls in it, on average.
  // It is what looking up and landing a call cost. Stops counting at a thousand.
  double Links() const {
    std::size_t links = 0;
    for (const CallBase& call : calls_) {
      for (const CallBase* next = &call; next != nullptr; next = next->next) ++links;
      if (links > 1000 * calls_.size()) break;
    }
    return static_cast<double>(links) / static_cast<double>(calls_.size());
  }

 private:
  std::unique_ptr<CallTable<std::mutex, kShards>> table_ =
      std::make_unique<CallTable<std::mutex, kShards>>();
  std::deque<CallBase> calls_;
};
constexpr std::size_t kGroupShards = singleflight::GroupTraits::kShards;
double LinksOf(const Hashes& hashes, const MixFn& mix = nullptr) {
  return FilledTable<kGroupShards>(hashes, mix).Links();
}

template <class Hash>
Hashes Each(std::size_t count, Hash&& hash) {
  Hashes hashes;
  for (std::uint64_t i = 0; i < count; ++i) hashes.push_back(hash(i));
  return hashes;
}

// Returns numbers whose hashes, mixed by `mix`, share one bucket in each shard.
Hashes MeetIn(const MixFn& mix, std::size_t count) {
  const std::uint64_t buckets = std::bit_ceil(count / kGroupShards);
  Hashes hashes;
  for (std::uint64_t i = 0; hashes.size() < count; ++i) {
    if ((mix(i) >> 32) % buckets == 0) hashes.push_back(i);
  }
  return hashes;
}

// Hashes that meet in one bucket of each shard under a mix with any salt, and that mix.
struct Attack {
  std::string name;
  Hashes hashes;
  MixFn mix;
};

std::vector<Attack> Attacks() {
  constexpr std::size_t kCount = 65'536 / kLess;
  constexpr int kBits = std::countr_zero(std::bit_ceil(kCount));
  const auto upper = [](std::uint64_t i) { return i << (64 - kBits); };
  const std::uint64_t salt = Scattered(1000).back();
  // Its 64th power changes nothing, so the 63rd undoes it.
  const auto linear = [](std::uint64_t hash) {
    return hash ^ std::rotr(hash, 25) ^ std::rotr(hash, 47);
  };
  const auto undo_linear = [&](std::uint64_t hash) {
    for (int i = 0; i < 63; ++i) hash = linear(hash);
    return hash;
  };
  const HashMixer known({kGolden, kGolden, kGolden});
  return {
      {"no mix, lower bits equal", Each(kCount, [](auto i) { return i << 44 | 0xABCDEu; }),
       [](auto hash) { return hash; }},
      {"no mix, upper bits equal", Each(kCount, [](auto i) { return 0xABCDEull << 44 | i; }),
       [](auto hash) { return hash; }},
      {"no mix, middle bits equal",
       Each(kCount, [](auto i) { return (i & 0xFF) | i >> 8 << 56 | 0xABCDEull << 16; }),
       [](auto hash) { return hash; }},
      // A sum or product changes no bit below the lowest that changes in its operands.
      {"a salt that is added, and a known factor",
       Each(kCount, [&](auto i) { return upper(i) * InverseOf(kGolden); }),
       [=](auto hash) { return hash * kGolden + salt; }},
      {"a salt that is added, a linear map, and a known factor",
       Each(kCount, [&](auto i) { return undo_linear(upper(i)); }),
       [=](auto hash) { return linear(hash ^ salt) * kGolden; }},
      {"a salt that is a factor, too", Each(kCount, upper),
       [=](auto hash) { return (hash ^ salt) * (salt | 1); }},
      {"this mix with a known salt", MeetIn(known, kCount), known},
  };
}

}  // namespace

TEST_CASE("Flood: keys made to share a bucket cost what random keys do") {
  const double random = LinksOf(Scattered(65'536 / kLess));
  for (const auto& [name, hashes, mix] : Attacks()) {
    CAPTURE(name);
    CHECK(LinksOf(hashes, mix) > 10 * random);  // the attack works where it was meant to
    CHECK(LinksOf(hashes) < 2 * random);
  }
}

TEST_CASE("Flood: keys that share a bucket in one group are spread in another") {
  constexpr std::size_t kCount = 65'536 / kLess;
  const FilledTable<kGroupShards> known({});
  const Hashes hashes = MeetIn([&](std::uint64_t hash) { return known.Mix(hash); }, kCount);
  const double random = LinksOf(Scattered(kCount));
  CHECK(LinksOf(hashes, [&](std::uint64_t hash) { return known.Mix(hash); }) > 10 * random);
  CHECK(LinksOf(hashes) < 2 * random);
}

TEST_CASE("Flood: evenly spaced keys cost what random keys do in each of many groups") {
  constexpr std::size_t kCount = 1024;
  double worst_random = 0;
  double worst = 0;
  for (std::size_t group = 0; group < 300 / kLess + 20; ++group) {
    worst_random = std::max(worst_random, FilledTable<1>(Scattered(kCount)).Links());
    for (const std::uint64_t step :
         {std::uint64_t{1}, std::uint64_t{8}, std::uint64_t{1} << 16, std::uint64_t{1} << 27,
          std::uint64_t{1} << 32, std::uint64_t{1} << 40, std::uint64_t{1} << 54}) {
      const auto keys = Each(kCount, [step](auto i) { return i * step; });
      worst = std::max(worst, FilledTable<1>(keys).Links());
    }
  }
  CHECK(worst_random > 1);
  CHECK(worst < 1.5 * worst_random);
}

TEST_CASE("Flood: two keys share a bucket no more often than by chance, whatever they are") {
  constexpr std::size_t kGroups = 4096;
  const std::vector<HashMixer> groups(kGroups);
  const auto meet = [](std::uint64_t a, std::uint64_t b) {  // once in 4096 times, by chance
    return (a ^ b) >> 58 == 0 && ((a ^ b) >> 32) % 64 == 0;
  };
  // std::rotl takes an unsigned number of bits in libc++ 14.
  const auto rotated = [](std::uint64_t word, int bits) {
    return word << bits | word >> (64 - bits) % 64;
  };
  struct Pair {
    std::uint64_t a;
    std::uint64_t b;
  };
  std::vector<Pair> pairs;
  for (const std::uint64_t a : {std::uint64_t{0}, std::uint64_t{12345}, Scattered(10).back()}) {
    for (int bit = 0; bit < 64; ++bit) {
      pairs.push_back({a, a ^ rotated(std::uint64_t{1}, bit)});
      pairs.push_back({a, a ^ rotated(std::uint64_t{3}, bit)});
      pairs.push_back({a, a ^ rotated(std::uint64_t{1} << 32 | 1, bit)});
      pairs.push_back({a, a + rotated(std::uint64_t{1}, bit)});
    }
    pairs.push_back({a, ~a});
    pairs.push_back({a + 1, 0 - (a + 1)});
    pairs.push_back({a + 1, rotated(a + 1, 32)});
    // If a salt were only added to a known multiple of the hash, these would often meet: the rest
    // of the mix maps sums that are so far apart to one bucket in 2 of 100 cases.
    for (const std::uint64_t apart :
         {0x0000080800040000u, 0x000003FFE0000100u, 0x0080007FFFFFFE00u}) {
      pairs.push_back({a, a + apart * InverseOf(kGolden)});
    }
  }
  std::size_t most = 0;
  for (const auto& [a, b] : pairs) {
    std::size_t met = 0;
    for (const HashMixer& mix : groups) met += meet(mix(a), mix(b));
    most = std::max(most, met);
  }
  CHECK(most > 0);
  CHECK(most < 25);  // Poisson: one of 10^26 pairs reaches this
}

TEST_CASE("Flood: without random numbers, groups and moments still have salts of their own") {
  constexpr std::uint64_t kStep = 10;
  std::set<std::uint64_t> words;
  double worst = 0;
  for (std::uint64_t address = 0; address < kStep; ++address) {
    for (std::uint64_t time = 0; time < kStep; ++time) {
      const auto salt = HashMixer::SaltOf(0x7FFC0000 + address * 64, 1'000'000 + time);
      words.insert(salt.begin(), salt.end());
      const auto keys = Each(1024, [](auto i) { return i; });
      worst = std::max(worst, FilledTable<1>(keys, HashMixer(salt)).Links());
    }
  }
  CHECK(words.size() == kStep * kStep * 3);
  CHECK(worst < 2 * FilledTable<1>(Scattered(1024)).Links());
}

#if defined(__GLIBCXX__) && SIZE_MAX > 0xFFFFFFFF
namespace {

// Returns strings that std::hash maps to one number. It reads 16 bytes as two words, and combines
// each with what it has by steps that can be undone (MurmurHash64A, as libstdc++ has it).
std::vector<std::string> StringsOfOneHash(std::size_t count) {
  constexpr std::uint64_t kFactor = 0xC6A4A7935BD1E995u;
  const auto scramble = [](std::uint64_t word) {
    word *= kFactor;
    return (word ^ word >> 47) * kFactor;
  };
  const auto undo = [inverse = InverseOf(kFactor)](std::uint64_t word) {
    word *= inverse;
    return (word ^ word >> 47) * inverse;
  };
  std::vector<std::string> strings;
  for (std::uint64_t first = 1; first <= count; ++first) {
    const std::uint64_t start = 0xC70F6907u ^ 16 * kFactor;
    const std::array<std::uint64_t, 2> words = {first, undo((start ^ scramble(first)) * kFactor)};
    strings.emplace_back(16, '\0');
    std::memcpy(strings.back().data(), words.data(), 16);
  }
  return strings;
}
struct StdStringHash {
  std::size_t operator()(const std::string& key) const { return std::hash<std::string>{}(key); }
};

}  // namespace

TEST_CASE("Flood: strings that std::hash maps to one number cost what other strings do") {
  constexpr std::size_t kCount = 65'536 / kLess;
  const std::vector<std::string> chosen = StringsOfOneHash(kCount);
  REQUIRE(std::set(chosen.begin(), chosen.end()).size() == kCount);
  for (const std::string& each : chosen)
    REQUIRE(StdStringHash{}(each) == StdStringHash{}(chosen[0]));
  std::vector<std::string> others;
  for (std::size_t i = 0; i < kCount; ++i)
    others.push_back("user:" + std::to_string(100'000'000'000 + i));
  const auto cost_of = [](const std::vector<std::string>& keys) {
    const Cost cost = BestCostOf<Group<std::string, int>>(keys);
    return cost.begin + cost.land;
  };
  static_cast<void>(cost_of(others));  // allocates the memory
  const double ratio = cost_of(chosen) / cost_of(others);
  Evidence("floods.strings_of_one_hash.ratio", ratio);
  CHECK(ratio < 5);
  // With std::hash, they are one chain.
  struct CountedEqual {
    bool operator()(const std::string& a, const std::string& b) const {
      ++compared();
      return a == b;
    }
    static std::size_t& compared() {
      static std::size_t count = 0;
      return count;
    }
  };
  const std::vector<std::string> few(chosen.begin(), chosen.begin() + 1000);
  static_cast<void>(CostOf<Group<std::string, int, StdStringHash, CountedEqual>>(few));
  CHECK(CountedEqual::compared() == 1000 * 999 / 2);
}
#endif

TEST_CASE("Flood: calls for keys made to share a bucket take about as long as others") {
  const auto cost_of = [](const Hashes& keys) {
    const Cost cost = BestCostOf<NumberGroup>(keys);
    return cost.begin + cost.land;
  };
  const Hashes random = Scattered(65'536 / kLess);
  static_cast<void>(cost_of(random));  // allocates the memory
  const double random_cost = cost_of(random);
  double worst = 0;
  for (const Attack& attack : Attacks()) {
    worst = std::max(worst, cost_of(attack.hashes) / random_cost);
  }
  Evidence("floods.chosen_keys.calls", random.size());
  Evidence("floods.chosen_keys.worst_ratio", worst);
  CHECK(worst < 10);  // one chain in each shard would cost a hundred times as much
}

namespace {

// Returns how many nanoseconds each of `count` callers on one call costs, from joining until it is
// notified.
double CostOfCallers(std::size_t count) {
  using G = Group<std::string, int>;
  G group({.max_callers_per_call = count});
  std::vector<Counted<G>> waiters(count);
  std::optional<G::Lead> lead;
  const auto launch = [&](G::Lead its_lead) { lead.emplace(std::move(its_lead)); };
  std::size_t followers = 0;
  const double each = NanosecondsEach(count, [&] {
    for (auto& waiter : waiters) {
      followers += group.Join("key", waiter, launch) == Role::kFollower;
    }
    REQUIRE(group.Callers("key") == count);
    REQUIRE(lead->Succeed(1));
  });
  REQUIRE(followers == count - 1);
  std::size_t told = 0;
  std::size_t results = 0;
  for (auto& waiter : waiters) {
    told += waiter.told == 1;
    const auto result = waiter.TakeResult();
    results += *result == 1 && result.shared();
  }
  REQUIRE(told == count);
  REQUIRE(results == count);
  REQUIRE(group.GetStats() == Stats{.executions = 1, .followers = count - 1});
  return each;
}

}  // namespace

TEST_CASE("Flood: a million callers on one call cost about as much each as a tenth of them") {
  const double tenth = Least([] { return CostOfCallers(kMany / 10); });
  const double all = Least([] { return CostOfCallers(kMany); });
  Evidence("floods.callers.count", kMany);
  Evidence("floods.callers.ns_each", all);
  Evidence("floods.callers.ratio_to_tenth", all / tenth);
  CHECK(all / tenth < 10);
}

TEST_CASE("Flood: exactly the callers beyond max_callers_per_call are refused") {
  using G = Group<std::string, int>;
  constexpr std::size_t kLimit = 1000;
  G group({.max_callers_per_call = kLimit});
  std::vector<Counted<G>> waiters(kLimit + 1);
  std::optional<G::Lead> lead;
  const auto launch = [&](G::Lead its_lead) { lead.emplace(std::move(its_lead)); };
  std::size_t refused = 0;
  const std::size_t attempts = kMany / 5;  // each refusal throws
  for (std::size_t i = 0; i < attempts; ++i) {
    refused += ErrorOf([&] { return group.Join("key", waiters[std::min(i, kLimit)], launch); }) ==
               kRefused;
  }
  CHECK(refused == attempts - kLimit);
  CHECK(group.Callers("key") == kLimit);
  lead->Succeed(1);
  for (std::size_t i = 0; i < kLimit; ++i) REQUIRE(waiters[i].told == 1);
  CHECK(waiters[kLimit].told == 0);
  CHECK(group.GetStats() ==
        Stats{.executions = 1, .followers = kLimit - 1, .refused = attempts - kLimit});
  Evidence("floods.callers.refused", refused);
}

TEST_CASE(
    "Flood: a million callers that leave in any order cost about as much each as a tenth of them") {
  using G = Group<int, int>;
  const auto cost_of = [](std::size_t count) {
    G group;
    std::vector<Counted<G>> waiters(count);
    std::optional<G::Lead> lead;
    for (auto& waiter : waiters) {
      static_cast<void>(
          group.Join(1, waiter, [&](G::Lead its_lead) { lead.emplace(std::move(its_lead)); }));
    }
    std::size_t left = 0;
    const double each = NanosecondsEach(count, [&] {
      for (std::size_t i = 0; i < count; i += 2) left += group.Leave(waiters[i]);
      for (std::size_t i = count - 1 - count % 2; i < count; i -= 2)
        left += group.Leave(waiters[i]);
    });
    REQUIRE(left == count);
    REQUIRE(lead->GetStopToken().stop_requested());
    REQUIRE(group.Callers(1) == 0);
    lead.reset();
    REQUIRE(group.GetStats() ==
            Stats{.executions = 1, .followers = count - 1, .failures = 1, .left = count});
    for (const auto& waiter : waiters) REQUIRE(waiter.told == 0);
    return each;
  };
  const double tenth = Least([&] { return cost_of(kMany / 10); });
  const double all = Least([&] { return cost_of(kMany); });
  Evidence("floods.leaving.ns_each", all);
  Evidence("floods.leaving.ratio_to_tenth", all / tenth);
  CHECK(all / tenth < 10);
}

TEST_CASE("Flood: a million calls in flight cost about as much each as a tenth of them") {
  const auto keys = Scattered(kMany);
  const Cost tenth = BestCostOf<NumberGroup>({keys.begin(), keys.begin() + kMany / 10});
  const Cost all = BestCostOf<NumberGroup>(keys);
  Evidence("floods.calls.count", kMany);
  Evidence("floods.calls.begin_ns", all.begin);
  Evidence("floods.calls.land_ns", all.land);
  Evidence("floods.calls.begin_ratio_to_tenth", all.begin / tenth.begin);
  Evidence("floods.calls.land_ratio_to_tenth", all.land / tenth.land);
  CHECK(all.begin / tenth.begin < 10);
  CHECK(all.land / tenth.land < 10);
}

TEST_CASE("Flood: exactly the calls beyond max_calls_in_flight are refused") {
  constexpr std::size_t kLimit = 10'000;
  NumberGroup group({.max_calls_in_flight = kLimit});
  const auto keys = Scattered(kMany / 5);  // each refusal throws
  const std::vector<std::uint64_t> first(keys.begin(), keys.begin() + kLimit);
  CallsInFlight<NumberGroup> calls(group, first);
  CHECK(calls.leaders == kLimit);
  std::size_t refused = 0;
  for (std::size_t i = kLimit; i < keys.size(); ++i) {
    refused += ErrorOf([&] { return group.Do(keys[i], [] { return 1; }); }) == kRefused;
  }
  CHECK(refused == keys.size() - kLimit);
  CHECK(group.GetStats() == Stats{.executions = kLimit, .refused = refused, .in_flight = kLimit});
  calls.Land();
  CHECK(calls.told == kLimit);
  // All calls have made room for new ones.
  std::size_t served = 0;
  for (const std::uint64_t key : first) served += *group.Do(key, [] { return 1; }) == 1;
  CHECK(served == kLimit);
  CHECK(group.GetStats() == Stats{.executions = 2 * kLimit, .refused = refused});
  Evidence("floods.calls.refused", refused);
}
