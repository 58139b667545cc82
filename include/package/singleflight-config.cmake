# SPDX-License-Identifier: MIT

include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/singleflight-targets.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/redis.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/module.cmake)
