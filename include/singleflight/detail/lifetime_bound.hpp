// SPDX-License-Identifier: MIT
#pragma once

// Marks a member function that returns a reference into its object. Compilers that know such an
// attribute then warn of a dangling reference, as in: const User& user = *users.Do(key, load);

#if defined(__clang__)
#define SINGLEFLIGHT_LIFETIME_BOUND [[clang::lifetimebound]]
#elif defined(_MSC_VER)
#define SINGLEFLIGHT_LIFETIME_BOUND [[msvc::lifetimebound]]
#else
#define SINGLEFLIGHT_LIFETIME_BOUND
#endif
