// SPDX-License-Identifier: MIT
#pragma once

// What a platform lacks. A test that needs it is left out there, and nowhere else.

#include <version>  // says which standard library it is

// Whether a cancelled thread is unwound, so that destructors run. Only libstdc++ on glibc knows
// such an unwinding from an exception. Windows and musl unwind nothing, and to libc++ it is an
// exception that `catch (...)` must not swallow.
#if defined(__GLIBC__) && defined(__GLIBCXX__)
#define TEST_UNWINDS_CANCELLED_THREADS 1
#else
#define TEST_UNWINDS_CANCELLED_THREADS 0
#endif

// Whether a thread can be given a real-time priority on one processor.
#if defined(__linux__)
#define TEST_HAS_REAL_TIME_THREADS 1
#else
#define TEST_HAS_REAL_TIME_THREADS 0
#endif

// Whether an object's type is known when the program runs. Not with -fno-rtti.
#if defined(__cpp_rtti)
#define TEST_HAS_RTTI 1
#else
#define TEST_HAS_RTTI 0
#endif

// Whether a thread_local object is intact when its destructor runs. MinGW's g++ frees the memory of
// such objects first.
#if defined(__MINGW32__) && !defined(__clang__)
#define TEST_DESTROYS_THREAD_LOCALS 0
#else
#define TEST_DESTROYS_THREAD_LOCALS 1
#endif
