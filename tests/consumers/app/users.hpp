// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <singleflight/singleflight.hpp>
#include <string>

using UserGroup = singleflight::Group<std::string, std::string>;

UserGroup& Users();
std::uint64_t CountUser();        // runs one more call, and returns how many have been run
std::size_t CountBatchLetters();  // of the names of a batch of users
