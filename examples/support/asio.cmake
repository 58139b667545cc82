# SPDX-License-Identifier: MIT
#
# Finds standalone Asio and Boost.Asio, where they are new enough for asio.hpp and boost_asio.hpp.
# Sets asio_target and boost_asio_target to the targets to link. A target that is not found is empty.

function(find_asio target directory macro)
  set(${target} PARENT_SCOPE)
  find_path(${target}_include ${directory}/asio/version.hpp)
  mark_as_advanced(${target}_include)
  if(NOT ${target}_include)
    return()
  endif()
  file(STRINGS ${${target}_include}/${directory}/asio/version.hpp version
       REGEX "define ${macro}ASIO_VERSION ")
  string(REGEX MATCH "[0-9]+" version "${version}")
  if(version LESS 102000)
    return()
  endif()
  set(${target} singleflight_${target} PARENT_SCOPE)
  if(TARGET singleflight_${target})
    return()
  endif()
  add_library(singleflight_${target} INTERFACE)
  target_include_directories(singleflight_${target} SYSTEM INTERFACE ${${target}_include})
  target_link_libraries(singleflight_${target} INTERFACE Threads::Threads)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang") # Asio 1.22 does not detect its coroutines
    target_compile_definitions(
      singleflight_${target} INTERFACE ${macro}ASIO_HAS_CO_AWAIT ${macro}ASIO_HAS_STD_COROUTINE
    )
  endif()
  if(SINGLEFLIGHT_SANITIZE STREQUAL "thread") # ThreadSanitizer does not understand fences
    target_compile_definitions(singleflight_${target} INTERFACE ${macro}ASIO_DISABLE_FENCED_BLOCK)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(singleflight_${target} INTERFACE -Wno-tsan)
    endif()
  endif()
endfunction()

find_asio(asio_target . "")
find_asio(boost_asio_target boost BOOST_)
