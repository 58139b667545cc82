// SPDX-License-Identifier: MIT
#pragma once

// Tells whether a test is built with a sanitizer. g++ says so with a macro, clang++ with a feature.

#if defined(__has_feature)
#define TEST_HAS_FEATURE(feature) __has_feature(feature)
#else
#define TEST_HAS_FEATURE(feature) 0
#endif

#if defined(__SANITIZE_THREAD__) || TEST_HAS_FEATURE(thread_sanitizer)
#define UNDER_THREAD_SANITIZER 1
#endif
#if defined(UNDER_THREAD_SANITIZER) || defined(__SANITIZE_ADDRESS__) || \
    TEST_HAS_FEATURE(address_sanitizer)
#define UNDER_SANITIZER 1
#endif
