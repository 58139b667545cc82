// SPDX-License-Identifier: MIT

// This file is linked into the ThreadSanitizer builds of the tests.
//
// Threads that hold one exception share its reference count, which lives in libstdc++, where
// ThreadSanitizer does not look. It therefore takes the last holder's destruction of the exception
// for a race with the earlier holders' reads. This file makes it ignore what that destruction reads
// and writes, and nothing else. No lock is added, so no two threads that race look ordered.

#include <dlfcn.h>

#include <exception>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}

void std::__exception_ptr::exception_ptr::_M_release() noexcept {
  static const auto release = reinterpret_cast<void (*)(exception_ptr*)>(
      dlsym(RTLD_NEXT, "_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv"));
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  release(this);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

// Leaving a handler may destroy its exception, too. Holding the exception until afterwards makes
// the function above destroy it instead.
extern "C" void __cxa_end_catch() {
  static const auto end_catch = reinterpret_cast<void (*)()>(dlsym(RTLD_NEXT, "__cxa_end_catch"));
  const std::exception_ptr held = std::current_exception();
  end_catch();
}
