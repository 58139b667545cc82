# SPDX-License-Identifier: MIT

# Defines the target singleflight::module, for `import singleflight;`, if it is asked for:
#
#   find_package(singleflight CONFIG REQUIRED COMPONENTS module)
#
# or, in a project that contains this one, set(SINGLEFLIGHT_MODULE ON) before add_subdirectory or
# FetchContent. The project that asks compiles the module itself, and only if something links it,
# because a compiled module fits only one compiler with the same flags. So set CMAKE_CXX_STANDARD
# and CMAKE_CXX_EXTENSIONS before this, for all targets. The project must have the policies of
# CMake 3.28, by cmake_minimum_required(VERSION 3.28), so that its files are scanned for imports.

set(singleflight_module_needs) # what this project lacks
if(CMAKE_VERSION VERSION_LESS 3.28)
  set(singleflight_module_needs "CMake 3.28 or later")
elseif(CMAKE_GENERATOR MATCHES "Makefiles")
  set(singleflight_module_needs "a generator that builds modules, such as Ninja")
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 15)
  # GCC 14 crashes where a program uses the import. Later versions have not been tried.
  set(singleflight_module_needs "Clang 16 or later, or a later GCC than 14")
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 16)
  set(singleflight_module_needs "Clang 16 or later")
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND NOT CMAKE_CXX_COMPILER_CLANG_SCAN_DEPS)
  set(singleflight_module_needs "clang-scan-deps, which Debian has in clang-tools")
endif()

if(NOT SINGLEFLIGHT_MODULE AND NOT DEFINED singleflight_FIND_REQUIRED_module)
  return() # nobody asks for it
endif()

set(singleflight_module_FOUND TRUE)
if(singleflight_module_needs)
  set(singleflight_module_FOUND FALSE)
  if(singleflight_FIND_REQUIRED_module)
    set(singleflight_FOUND FALSE)
    set(singleflight_NOT_FOUND_MESSAGE "its component module needs ${singleflight_module_needs}")
  elseif(SINGLEFLIGHT_MODULE)
    message(FATAL_ERROR "singleflight: SINGLEFLIGHT_MODULE needs ${singleflight_module_needs}")
  endif()
elseif(NOT TARGET singleflight_module)
  add_library(singleflight_module STATIC EXCLUDE_FROM_ALL)
  add_library(singleflight::module ALIAS singleflight_module)
  if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.28) # true here, and said for tests/consumers/older_cmake.test.sh
    target_sources(
      singleflight_module PUBLIC FILE_SET CXX_MODULES BASE_DIRS ${CMAKE_CURRENT_LIST_DIR} FILES
                                 ${CMAKE_CURRENT_LIST_DIR}/singleflight.cppm # also if installed
    )
  endif()
  target_link_libraries(singleflight_module PUBLIC singleflight::singleflight)
endif()
