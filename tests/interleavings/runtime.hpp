// SPDX-License-Identifier: MIT
#pragma once

// What hooks.cpp tells the scheduler. Everything here is for a scheduled thread only, within an
// InRuntime.

#include <cstddef>
#include <cstdint>
#include <ctime>

#include "memory.hpp"
#include "step.hpp"

namespace interleave {

struct Worker;

// Null: not a thread of a scenario.
extern thread_local Worker* this_worker;
// Not 0: this thread is inside the scheduler, or Unseen.
extern thread_local int in_runtime;

inline bool Scheduled() { return this_worker != nullptr && in_runtime == 0; }

class InRuntime {
 public:
  InRuntime() { ++in_runtime; }
  ~InRuntime() { --in_runtime; }
  InRuntime(const InRuntime&) = delete;
  InRuntime& operator=(const InRuntime&) = delete;
};

// ---- Memory

void OnAccess(const void* address, std::size_t size, Memory::Kind kind, const void* code);
// Freed memory stays where it is until the run ends.
void OnFree(void* memory, std::size_t size, const void* code);
void OnNewMemory(const void* memory, std::size_t size);
// Memory is allocated by a scheduled thread; such memory is freed, on any thread.
void CountNew();
void CountFree();
// In hooks.cpp.
void ReallyFree(void* memory);

// ---- Atomic operations. Each is called before the operation, and returns when it is this thread's
// turn to carry it out.

struct Atomic {
  enum class Kind : std::uint8_t { kLoad, kStore, kExchange, kAdd, kUpdate, kCompareExchange };
  Kind kind;
  const volatile void* address;
  std::uint8_t size;
  int order;              // as the compilers number them
  std::uint64_t operand;  // what kExchange stores, kAdd adds, kCompareExchange expects
  const void* code;
};

void OnAtomic(const Atomic& atomic);

// ---- Locks and waits

void Lock(const void* mutex);
void Unlock(const void* mutex);

// At `object`, until somebody wakes it. False: `deadline` has come before. `mutex`, if not null, is
// given up meanwhile.
bool Wait(const void* object, const void* mutex, const timespec* deadline);
// As Wait, but does not begin if `word` is no longer `expected`; then returns true.
bool WaitWhile(const std::uint32_t* word, std::uint32_t expected, const timespec* deadline);
void Notify(const void* condition, std::size_t count);
void WakeFutex(const void* word, std::size_t count);
void Yield();

timespec Now();
timespec Later(const timespec& by);  // than now

}  // namespace interleave
