// SPDX-License-Identifier: MIT
// error: Value cannot be moved: wrap it in std::unique_ptr or std::shared_ptr

#include <atomic>
#include <singleflight/group.hpp>

int main() { singleflight::Group<int, std::atomic<int>> group; }
