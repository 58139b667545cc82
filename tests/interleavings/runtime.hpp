// SPDX-License-Identifier: MIT
#pragma once

// hooks.cpp reports to the scheduler through these functions. Everything here is only for a
// scheduled thread that is within an InRuntime.

#include <cstddef>
#include <cstdint>
#include <ctime>

#include "memory.hpp"
#include "step.hpp"

namespace interleave {

struct Worker;

// Null on a thread that belongs to no scenario.
extern thread_local Worker* this_worker;
// Not 0 while this thread is inside the scheduler, or Untracked.
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
// The memory is not really freed until the run has finished.
void OnFree(void* memory, std::size_t size, const void* code);
void OnNewMemory(const void* memory, std::size_t size);
// CountNew: a scheduled thread has allocated memory. CountFree: any thread has freed such memory.
void CountNew();
void CountFree();
// Defined in hooks.cpp.
void ReallyFree(void* memory);

// ---- Atomic operations. OnAtomic is called before each of them, and returns when it is this
// thread's turn to carry it out.

struct Atomic {
  enum class Kind : std::uint8_t { kLoad, kStore, kExchange, kAdd, kUpdate, kCompareExchange };
  Kind kind;
  const volatile void* address;
  std::uint8_t size;
  int order;              // as compilers number it
  std::uint64_t operand;  // what kExchange stores, kAdd adds, kCompareExchange expects
  const void* code;
};

void OnAtomic(const Atomic& atomic);

// ---- Locks and waits

void Lock(const void* mutex);
void Unlock(const void* mutex);

// Waits at `object` until another thread wakes this one. Returns false if `deadline` passes first.
// `mutex`, if not null, is unlocked meanwhile.
bool Wait(const void* object, const void* mutex, const timespec* deadline);
// Like Wait, but returns true at once if `word` is no longer `expected`.
bool WaitWhile(const std::uint32_t* word, std::uint32_t expected, const timespec* deadline);
void Notify(const void* condition, std::size_t count);
void WakeFutex(const void* word, std::size_t count);
void Yield();

timespec Now();
timespec Later(const timespec& by);  // now, plus `by`

}  // namespace interleave
