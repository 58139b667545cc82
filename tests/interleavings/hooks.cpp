// SPDX-License-Identifier: MIT

// Intercepts the functions that the code under test relies on. They work as usual on threads that
// belong to no scenario, and in the scheduler's own code.
//
// With -fsanitize=thread the compiler inserts calls of the __tsan_ functions. Their interface is
// that of compiler-rt's tsan_interface.h and tsan_interface_atomic.h.

#include <cxxabi.h>
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <utility>

#include "runtime.hpp"

using interleave::Atomic;
using interleave::InRuntime;
using interleave::Memory;
using interleave::Scheduled;

namespace {

// Finds the function that would be called without ours. Several threads may do so at once.
//
// It is constinit in REAL because a static that needs a guard would not do. When two threads meet
// at a guard, one of them waits for the other in `syscall`, which is itself such a function.
class RealFunction {
 public:
  constexpr explicit RealFunction(const char* name) noexcept : name_(name) {}

  void* Find() noexcept {
    void* found = found_.load(std::memory_order_relaxed);
    if (found != nullptr) return found;
    found = dlsym(RTLD_NEXT, name_);
    if (found == nullptr) std::abort();
    found_.store(found, std::memory_order_relaxed);
    return found;
  }

 private:
  const char* const name_;
  // Null until its first use. Relaxed: all threads find the same function.
  std::atomic<void*> found_ = nullptr;
};
#define REAL(name)                                         \
  (*[] {                                                   \
    static constinit RealFunction real(#name);             \
    return reinterpret_cast<decltype(&name)>(real.Find()); \
  }())

[[noreturn]] void Unsupported(const char* what) {
  std::fprintf(stderr, "interleavings: a scheduled thread called %s\n", what);
  std::abort();
}

}  // namespace

// ---- Locks, waits and time

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  if (!Scheduled()) return REAL(pthread_mutex_lock)(mutex);
  const InRuntime inside;
  interleave::Lock(mutex);
  return 0;
}

extern "C" int pthread_mutex_trylock(pthread_mutex_t* mutex) noexcept {
  if (Scheduled())
    Unsupported("pthread_mutex_trylock: unlocking is not a step, so some outcomes would be missed");
  return REAL(pthread_mutex_trylock)(mutex);
}

extern "C" int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  if (!Scheduled()) return REAL(pthread_mutex_unlock)(mutex);
  const InRuntime inside;
  interleave::Unlock(mutex);
  return 0;
}

extern "C" int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  if (!Scheduled()) return REAL(pthread_cond_wait)(condition, mutex);
  const InRuntime inside;
  interleave::Wait(condition, mutex, nullptr);
  return 0;
}

extern "C" int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                      clockid_t clock, const timespec* deadline) {
  if (!Scheduled()) return REAL(pthread_cond_clockwait)(condition, mutex, clock, deadline);
  const InRuntime inside;
  return interleave::Wait(condition, mutex, deadline) ? 0 : ETIMEDOUT;
}

extern "C" int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                      const timespec* deadline) {
  if (!Scheduled()) return REAL(pthread_cond_timedwait)(condition, mutex, deadline);
  const InRuntime inside;
  return interleave::Wait(condition, mutex, deadline) ? 0 : ETIMEDOUT;
}

extern "C" int pthread_cond_signal(pthread_cond_t* condition) noexcept {
  if (!Scheduled()) return REAL(pthread_cond_signal)(condition);
  const InRuntime inside;
  interleave::Notify(condition, 1);
  return 0;
}

extern "C" int pthread_cond_broadcast(pthread_cond_t* condition) noexcept {
  if (!Scheduled()) return REAL(pthread_cond_broadcast)(condition);
  const InRuntime inside;
  interleave::Notify(condition, INT_MAX);
  return 0;
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*start)(void*), void* argument) noexcept {
  if (Scheduled()) Unsupported("pthread_create");
  return REAL(pthread_create)(thread, attributes, start, argument);
}

extern "C" int sched_yield() noexcept {
  if (!Scheduled()) return REAL(sched_yield)();
  const InRuntime inside;
  interleave::Yield();
  return 0;
}

extern "C" int nanosleep(const timespec* time, timespec* left) {
  if (!Scheduled()) return REAL(nanosleep)(time, left);
  const InRuntime inside;
  interleave::Yield();
  return 0;
}

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (!Scheduled()) return REAL(clock_gettime)(clock, time);
  const InRuntime inside;
  *time = interleave::Now();
  return 0;
}

// The same salts in every run: they decide in which order parts of a table are visited.
extern "C" ssize_t getrandom(void* buffer, size_t size, unsigned) {
  std::memset(buffer, 0x5A, size);
  return static_cast<ssize_t>(size);
}

// Emulates the futex, on which std::shared_future and the semaphore of std::stop_callback wait.
extern "C" long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  if (!Scheduled()) {
    return REAL(syscall)(number, arguments[0], arguments[1], arguments[2], arguments[3],
                         arguments[4], arguments[5]);
  }
  const InRuntime inside;
  if (number != SYS_futex) Unsupported("syscall");
  const auto* const word = reinterpret_cast<const std::uint32_t*>(arguments[0]);
  const auto* timeout = reinterpret_cast<const timespec*>(arguments[3]);
  timespec deadline;
  switch (static_cast<int>(arguments[1]) & ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)) {
    case FUTEX_WAKE:
      interleave::WakeFutex(word, static_cast<std::size_t>(arguments[2]));
      return 0;
    case FUTEX_WAIT:
      if (timeout != nullptr) {  // relative to now
        deadline = interleave::Later(*timeout);
        timeout = &deadline;
      }
      [[fallthrough]];
    case FUTEX_WAIT_BITSET:
      if (interleave::WaitWhile(word, static_cast<std::uint32_t>(arguments[2]), timeout)) return 0;
      errno = ETIMEDOUT;
      return -1;
    default:
      Unsupported("an unknown futex operation");
  }
}

// ---- Allocation

namespace {

// Precedes each allocated block.
struct alignas(std::max_align_t) Header {
  void* begin;  // the block that malloc returned
  std::size_t size;
  bool scheduled;  // allocated by a scheduled thread
};

Header* HeaderOf(void* memory) { return static_cast<Header*>(memory) - 1; }

void* Allocate(std::size_t size, std::size_t alignment = alignof(Header)) noexcept {
  void* const begin = std::malloc(sizeof(Header) + alignment + size);
  if (begin == nullptr) return nullptr;
  const auto after_header = reinterpret_cast<std::uintptr_t>(begin) + sizeof(Header);
  void* const memory =
      reinterpret_cast<void*>((after_header + alignment - 1) / alignment * alignment);
  *HeaderOf(memory) = {begin, size, Scheduled()};
  if (Scheduled()) {
    const InRuntime inside;
    interleave::OnNewMemory(memory, size);
    interleave::CountNew();
  }
  return memory;
}

void* AllocateOrThrow(std::size_t size, std::size_t alignment = alignof(Header)) {
  if (void* const memory = Allocate(size, alignment)) return memory;
  throw std::bad_alloc();
}

void Free(void* memory, const void* code) noexcept {
  if (memory == nullptr) return;
  if (std::exchange(HeaderOf(memory)->scheduled, false)) interleave::CountFree();
  if (!Scheduled()) return interleave::ReallyFree(memory);
  const InRuntime inside;
  interleave::OnFree(memory, HeaderOf(memory)->size, code);
}

}  // namespace

namespace interleave {
void ReallyFree(void* memory) { std::free(HeaderOf(memory)->begin); }
}  // namespace interleave

#define CODE __builtin_return_address(0)

void* operator new(std::size_t size) { return AllocateOrThrow(size); }
void* operator new[](std::size_t size) { return AllocateOrThrow(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory, CODE); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory, CODE); }
void operator delete[](void* memory) noexcept { Free(memory, CODE); }
void operator delete[](void* memory, std::size_t) noexcept { Free(memory, CODE); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory, CODE); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { Free(memory, CODE); }

// The C++ runtime counts the owners of an exception in code that is not instrumented. So all
// that is recorded of an exception's memory is that it is new.
extern "C" void* __cxa_allocate_exception(std::size_t size) noexcept {
  void* const memory = REAL(__cxa_allocate_exception)(size);
  if (Scheduled()) {
    const InRuntime inside;
    interleave::OnNewMemory(memory, size);
  }
  return memory;
}

// ---- Statics of functions. Initializing one is not a step, and is not checked, because only the
// first run of all does it. The guard's release would also be missed: it is not instrumented.

namespace {

thread_local const void* initializing = nullptr;  // the guard of what this thread initializes

void EndInitialization(const void* guard) {
  if (initializing != guard) return;
  initializing = nullptr;
  --interleave::in_runtime;
}

}  // namespace

extern "C" int __cxa_guard_acquire(abi::__guard* guard) {
  if (!Scheduled()) return REAL(__cxa_guard_acquire)(guard);
  const InRuntime inside;
  if (REAL(__cxa_guard_acquire)(guard) == 0) return 0;
  initializing = guard;
  ++interleave::in_runtime;  // until EndInitialization
  return 1;
}

extern "C" void __cxa_guard_release(abi::__guard* guard) noexcept {
  REAL(__cxa_guard_release)(guard);
  EndInitialization(guard);
}

extern "C" void __cxa_guard_abort(abi::__guard* guard) noexcept {
  REAL(__cxa_guard_abort)(guard);
  EndInitialization(guard);
}

// ---- Functions that the compiler calls. "unaligned" and "volatile" make no difference here.

namespace {

void Access(const volatile void* address, std::size_t size, Memory::Kind kind, const void* code) {
  if (!Scheduled() || size == 0) return;
  const InRuntime inside;
  interleave::OnAccess(const_cast<const void*>(address), size, kind, code);
}

template <class Word>
std::uint64_t Bits(Word word) {
  if constexpr (sizeof(Word) <= 8) {
    return static_cast<std::uint64_t>(word);
  } else {
    return 0;
  }
}

template <class Word>
void Turn(Atomic::Kind kind, const volatile Word* address, int order, Word operand,
          const void* code) {
  if (!Scheduled()) return;
  const InRuntime inside;
  interleave::OnAtomic({kind, address, sizeof(Word), order, Bits(operand), code});
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_ignore_thread_begin() {}
void __tsan_ignore_thread_end() {}

#define ACCESS(size)                                                                            \
  void __tsan_read##size(void* at) { Access(at, size, Memory::Kind::kRead, CODE); }             \
  void __tsan_write##size(void* at) { Access(at, size, Memory::Kind::kWrite, CODE); }           \
  void __tsan_unaligned_read##size(void* at) { Access(at, size, Memory::Kind::kRead, CODE); }   \
  void __tsan_unaligned_write##size(void* at) { Access(at, size, Memory::Kind::kWrite, CODE); } \
  void __tsan_volatile_read##size(void* at) { Access(at, size, Memory::Kind::kRead, CODE); }    \
  void __tsan_volatile_write##size(void* at) { Access(at, size, Memory::Kind::kWrite, CODE); }  \
  void __tsan_read_write##size(void* at) { Access(at, size, Memory::Kind::kWrite, CODE); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* at, std::size_t size) { Access(at, size, Memory::Kind::kRead, CODE); }
void __tsan_write_range(void* at, std::size_t size) {
  Access(at, size, Memory::Kind::kWrite, CODE);
}
void __tsan_vptr_read(void** at) { Access(at, 8, Memory::Kind::kRead, CODE); }
// A destructor sets the vtable pointer of its class again. Like ThreadSanitizer, this ignores a
// write that changes nothing.
void __tsan_vptr_update(void** at, void* table) {
  if (*at != table) Access(at, 8, Memory::Kind::kWrite, CODE);
}

void* __tsan_memcpy(void* to, const void* from, std::size_t size) {
  Access(from, size, Memory::Kind::kRead, CODE);
  Access(to, size, Memory::Kind::kWrite, CODE);
  return std::memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, std::size_t size) {
  Access(from, size, Memory::Kind::kRead, CODE);
  Access(to, size, Memory::Kind::kWrite, CODE);
  return std::memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, std::size_t size) {
  Access(to, size, Memory::Kind::kWrite, CODE);
  return std::memset(to, value, size);
}

#define ATOMIC(bits, Word)                                                                        \
  Word __tsan_atomic##bits##_load(const volatile Word* at, int order) {                           \
    Turn(Atomic::Kind::kLoad, at, order, Word{}, CODE);                                           \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                               \
  void __tsan_atomic##bits##_store(volatile Word* at, Word value, int order) {                    \
    Turn(Atomic::Kind::kStore, at, order, value, CODE);                                           \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                \
  }                                                                                               \
  Word __tsan_atomic##bits##_exchange(volatile Word* at, Word value, int order) {                 \
    Turn(Atomic::Kind::kExchange, at, order, value, CODE);                                        \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                      \
  }                                                                                               \
  Word __tsan_atomic##bits##_fetch_add(volatile Word* at, Word value, int order) {                \
    Turn(Atomic::Kind::kAdd, at, order, value, CODE);                                             \
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                               \
  Word __tsan_atomic##bits##_fetch_sub(volatile Word* at, Word value, int order) {                \
    Turn(Atomic::Kind::kAdd, at, order, static_cast<Word>(0 - value), CODE);                      \
    return __atomic_fetch_sub(at, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                               \
  Word __tsan_atomic##bits##_fetch_or(volatile Word* at, Word value, int order) {                 \
    Turn(Atomic::Kind::kUpdate, at, order, value, CODE);                                          \
    return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST);                                        \
  }                                                                                               \
  Word __tsan_atomic##bits##_fetch_and(volatile Word* at, Word value, int order) {                \
    Turn(Atomic::Kind::kUpdate, at, order, value, CODE);                                          \
    return __atomic_fetch_and(at, value, __ATOMIC_SEQ_CST);                                       \
  }                                                                                               \
  bool __tsan_atomic##bits##_compare_exchange_strong(volatile Word* at, Word* expected,           \
                                                     Word value, int order, int) {                \
    Turn(Atomic::Kind::kCompareExchange, at, order, *expected, CODE);                             \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST,              \
                                       __ATOMIC_SEQ_CST);                                         \
  }                                                                                               \
  bool __tsan_atomic##bits##_compare_exchange_weak(volatile Word* at, Word* expected, Word value, \
                                                   int order, int) {                              \
    Turn(Atomic::Kind::kCompareExchange, at, order, *expected, CODE);                             \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST,              \
                                       __ATOMIC_SEQ_CST);                                         \
  }                                                                                               \
  Word __tsan_atomic##bits##_compare_exchange_val(volatile Word* at, Word expected, Word value,   \
                                                  int order, int) {                               \
    Turn(Atomic::Kind::kCompareExchange, at, order, expected, CODE);                              \
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    return expected;                                                                              \
  }
ATOMIC(8, std::uint8_t)
ATOMIC(16, std::uint16_t)
ATOMIC(32, std::uint32_t)
ATOMIC(64, std::uint64_t)

void __tsan_atomic_thread_fence(int) {
  if (Scheduled()) Unsupported("atomic_thread_fence, which is not modelled");
}
void __tsan_atomic_signal_fence(int) {}
}
