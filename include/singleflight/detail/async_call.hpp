// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "../stop_token.hpp"
#include "adaptive_mutex.hpp"
#include "call.hpp"
#include "call_table.hpp"
#include "cancel.hpp"
#include "invoke.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

// A call that is led asynchronously, with its own copy of the key. Owned by its Leads.
template <class Ledger>
class AsyncCall {
 public:
  using KeyRef = typename Ledger::KeyRef;

  AsyncCall(Ledger& its_ledger, std::uint64_t hash, KeyRef ref)
      : key(ref.get()), call(KeyRef(key)), ledger(its_ledger) {
    call.hash = hash;
  }
  ~AsyncCall() {
    if (begun_ && phase_ != Phase::kLanded) ledger.Land(*this, {});
  }

  // Makes a call and its state, with one allocation.
  //
  // Errors: throws what copying the key throws, and std::bad_alloc.
  static std::shared_ptr<AsyncCall> Make(Ledger& ledger, std::uint64_t hash, KeyRef ref) {
    struct Rooms {  // those that nothing uses so far
      ~Rooms() { block->Leave(unused); }
      Block* const block = new Block;
      int unused = 2;
    } rooms;
    --rooms.unused;
    auto async =
        std::allocate_shared<AsyncCall>(InRoom<AsyncCall>(*rooms.block), ledger, hash, ref);
    --rooms.unused;
    async->call.state = std::allocate_shared<LedgerState>(InRoom<LedgerState>(*rooms.block), ledger,
                                                          async->call, ThreadId());
    async->call.state->BeginHandOver();
    return async;
  }

  // Called once the call is in the table. It counts among those that ~Group waits for.
  void Enter(const typename Ledger::Shard& shard) noexcept {
    begun_ = true;
    entry.InsertBefore(shard->async_calls);
    if (shard->stopping) {
      call.drained = true;
    }
  }

  // Ends the hand-over that Make has begun: see Canceler.
  void HandedOver() noexcept { Canceler<Ledger>::EndHandOver(*call.state); }

  // True for the first who is about to run the call's work, unless it has landed.
  bool StartsRunning() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLaunched) return false;
    phase_ = Phase::kRunning;
    return true;
  }
  // True for the first who is about to land the call.
  bool StartsLanding() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::kLanded) return false;
    phase_ = Phase::kLanded;
    return true;
  }

  // The work takes the stop token, so the call can be asked to stop from now on. (If it has landed,
  // nothing more asks it, and the token may be one of which no stop can be requested.)
  //
  // Errors: throws std::bad_alloc if nobody has taken the token before.
  StopToken TakeStop() {
    StopSource fresh = FreshStop();
    StopSource unwanted(kNoStopState);
    StopToken token;
    {
      const std::lock_guard lock(mutex_);  // so that the call does not land, and its group stays
      if (phase_ != Phase::kLanded) {
        unwanted = ledger.TakeStop(call, std::move(fresh));
        if (disowned_) unwanted = ledger.Disown(call);
      }
      token = call.GetToken();
    }
    unwanted.request_stop();
    return token;
  }
  // The same for what notices when the group is destroyed. The token does not count as taken.
  StopToken WatchStop() {
    StopSource fresh = FreshStop();
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLanded) ledger.WatchStop(call, std::move(fresh));
    return call.GetToken();
  }

  // The work is about to begin, and takes no token unless it does so from now on. False if the call
  // was asked to stop, or has landed.
  bool TakeNoStop() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::kLanded || !ledger.TakeNoStop(call)) return false;
    is_about_to_begin_ = true;
    return true;
  }
  // Asks the call to stop, and forgets it, as soon as its work takes the token.
  void Disown() noexcept {
    StopSource unwanted(kNoStopState);
    {
      const std::lock_guard lock(mutex_);
      disowned_ = true;
      if (phase_ != Phase::kLanded && is_about_to_begin_) unwanted = ledger.Disown(call);
    }
    unwanted.request_stop();
  }
  // Whether the call has not landed so far, and nobody here is to get its outcome.
  bool IsUnwanted() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsUnwanted(call);
  }
  bool IsCanceled() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsCanceled(call);
  }
  // This waiter does the call's work, so it is the leader. It may be gone. Null: none does.
  void SetLeader(const Waiter<typename Ledger::Value>* waiter) noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLanded) ledger.SetLeader(call, waiter);
  }
  // Whether a new caller could still get this call's result.
  bool IsWanted() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsWanted(call);
  }
  // Forgets the call, if it has not landed.
  void Forget() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLanded) ledger.Forget(call);
  }
  // A blocking caller that does the work is stopped: it no longer counts, but gets the outcome.
  void LeaderLeaves() noexcept {
    StopSource unwanted(kNoStopState);
    {
      const std::lock_guard lock(mutex_);
      if (phase_ == Phase::kLanded || !ledger.DropLeader(call, unwanted)) return;
    }
    Ledger::Telling::OnLeave(ledger, call);
    unwanted.request_stop();
  }

  const typename Ledger::Key key;
  typename Ledger::Call call;
  AsyncEntry entry{call};
  Ledger& ledger;

 private:
  using LedgerState = typename Ledger::LedgerState;

  // Room for an object with what std::allocate_shared adds: a pointer to its functions, two counts,
  // which are words in libc++, and its allocator, each with the alignment of the object.
  template <class Object>
  struct Room {
#if defined(_LIBCPP_VERSION)
    static constexpr std::size_t kAdded = 4 * sizeof(void*);
#else
    static constexpr std::size_t kAdded = 2 * sizeof(void*) + 8;
#endif
    static constexpr std::size_t kForAlignment = alignof(Object) > sizeof(void*)
                                                     ? 2 * alignof(Object)
                                                     : 0;
    alignas(Object) std::byte bytes[sizeof(Object) + kAdded + kForAlignment];
  };
  // The memory of a call, which Leads keep, and of its state, which callers and results keep. Each
  // of them is destroyed when it is not needed any more, whatever keeps the other.
  struct Block {
    Block() {}  // does not fill the rooms with zeros

    template <class Object>
    Room<Object>& RoomOf() noexcept {
      if constexpr (std::same_as<Object, AsyncCall>) {
        return call;
      } else {
        return state;
      }
    }
    void Leave(int rooms) noexcept {
      if (rooms > 0 && used.fetch_sub(rooms, std::memory_order_acq_rel) == rooms) delete this;
    }

    std::atomic<int> used = 2;  // rooms
    Room<AsyncCall> call;
    Room<LedgerState> state;
  };
  // Allocates the room of an object, once.
  template <class T, class Object = T>
  struct InRoom {
    using value_type = T;

    explicit InRoom(Block& its_block) noexcept : block(&its_block) {}
    template <class U>
    InRoom(const InRoom<U, Object>& other) noexcept : block(other.block) {}
    bool operator==(const InRoom&) const = default;

    T* allocate(std::size_t) noexcept {
      static_assert(sizeof(T) <= sizeof(Room<Object>) && alignof(T) <= alignof(Room<Object>));
      return reinterpret_cast<T*>(block->template RoomOf<Object>().bytes);
    }
    void deallocate(T*, std::size_t) noexcept { block->Leave(1); }

    Block* block;
  };

  // Returns what the call will need if it has no stop token to take.
  StopSource FreshStop() {
    {
      const std::lock_guard lock(mutex_);
      if (phase_ == Phase::kLanded || call.stop) return StopSource(kNoStopState);
    }
    return NewStopSource();
  }

  // Only moves forward. kLaunched: Lead::Run has not begun. kRunning: it has. kLanded: some thread
  // is landing the call, or has landed it.
  enum class Phase : unsigned char { kLaunched, kRunning, kLanded };

  bool begun_ = false;  // whether the call was put into the table
  AdaptiveMutex mutex_;
  // Guarded by mutex_.
  Phase phase_ = Phase::kLaunched;
  bool is_about_to_begin_ = false;  // TakeNoStop was called
  bool disowned_ = false;           // Disown was called
};

}  // namespace singleflight::detail
