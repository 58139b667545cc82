# SPDX-License-Identifier: MIT

# usage: cmake -P include/package/single_header.cmake OUTPUT
#
# Writes all headers that need only the standard library to the one file OUTPUT, with the license.
# Each header's text stands where it is first included. Leaves an OUTPUT that is up to date alone. Takes
# every line that begins with #include, #if or #endif for one, even in a block comment or a raw string.

cmake_minimum_required(VERSION 3.16)

if(NOT CMAKE_ARGC EQUAL 4)
  message(FATAL_ERROR "usage: cmake -P single_header.cmake OUTPUT")
endif()

get_filename_component(headers ${CMAKE_CURRENT_LIST_DIR}/../singleflight ABSOLUTE)

# Appends TEXT to the output.
function(append text)
  set_property(GLOBAL APPEND_STRING PROPERTY text "${text}")
endfunction()

# Appends the text of HEADER, a path in include/singleflight, unless it is there already. If
# CONDITIONAL, the place is inside an #if, so the compiler may skip it. Then HEADER may be needed once
# more elsewhere, and a macro keeps it from being compiled twice.
function(append_header header conditional)
  get_property(there GLOBAL PROPERTY "there ${header}") # empty, or maybe, or surely
  if(there STREQUAL "surely")
    return()
  endif()
  string(MAKE_C_IDENTIFIER "SINGLEFLIGHT_SINGLE_HEADER_${header}" guard)
  if(conditional OR there)
    append("\n#ifndef ${guard}\n#define ${guard}")
  endif()
  if(conditional)
    set_property(GLOBAL PROPERTY "there ${header}" maybe)
  else()
    set_property(GLOBAL PROPERTY "there ${header}" surely)
  endif()

  file(READ ${headers}/${header} text)
  string(REPLACE "\r\n" "\n" text "${text}")
  if(NOT text MATCHES "^// SPDX-License-Identifier: MIT\n#pragma once\n")
    message(FATAL_ERROR "${header} does not begin with its license and #pragma once")
  endif()
  string(LENGTH "${CMAKE_MATCH_0}" begin)
  math(EXPR begin "${begin} - 1") # every line to come begins with its line break
  string(SUBSTRING "${text}" ${begin} -1 text)
  append("\n// ==== ${header}\n")

  set(depth 0) # of #if
  while(text MATCHES "\n[ \t]*#[ \t]*(include|if|endif)[^\n]*")
    set(line "${CMAKE_MATCH_0}")
    set(directive ${CMAKE_MATCH_1})
    string(FIND "${text}" "${line}" begin)
    string(LENGTH "${line}" length)
    math(EXPR end "${begin} + ${length}")
    string(SUBSTRING "${text}" 0 ${begin} before)
    string(SUBSTRING "${text}" ${end} -1 text)
    append("${before}")

    if(directive STREQUAL "include")
      append_include("${line}" ${header} ${depth} ${conditional})
    else()
      append("${line}")
      if(directive STREQUAL "if")
        math(EXPR depth "${depth} + 1")
      else()
        math(EXPR depth "${depth} - 1")
      endif()
    endif()
  endwhile()
  append("${text}")
  if(NOT depth EQUAL 0)
    message(FATAL_ERROR "${header} has ${depth} more #if than #endif")
  endif()
  if(conditional OR there)
    append("#endif  // ${guard}\n")
  endif()
endfunction()

# Appends what an #include LINE of HEADER stands for: the text of a header of ours, or the line.
function(append_include line header depth conditional)
  if(depth GREATER 0)
    set(conditional TRUE)
  endif()
  if(line MATCHES "\"([^\"]+)\"")
    get_filename_component(folder ${headers}/${header} DIRECTORY)
    get_filename_component(included "${CMAKE_MATCH_1}" ABSOLUTE BASE_DIR ${folder})
    if(EXISTS "${included}")
      file(RELATIVE_PATH included ${headers} ${included})
      append_header(${included} ${conditional})
    elseif(conditional)
      append("${line}") # see detail/requirements.hpp
    else()
      message(FATAL_ERROR "${header} includes ${CMAKE_MATCH_1}, which does not exist")
    endif()
  elseif(conditional)
    append("${line}")
  else()
    string(STRIP "${line}" name)
    get_property(there GLOBAL PROPERTY "there ${name}")
    if(NOT there)
      append("${line}")
      set_property(GLOBAL PROPERTY "there ${name}" surely)
    endif()
  endif()
endfunction()

file(STRINGS ${headers}/version.hpp version REGEX "VERSION_STRING \"")
string(REGEX MATCH "[0-9.]+" version "${version}")
append("// SPDX-License-Identifier: MIT
#pragma once

// singleflight ${version} in one file, made by single_header.cmake. It has all headers that need only
// the standard library. Include nothing else of singleflight beside it.
")
if(EXISTS ${headers}/../../LICENSE)
  file(READ ${headers}/../../LICENSE license)
  string(STRIP "${license}" license)
  string(REPLACE "\n" "\n// " license "${license}")
  string(REPLACE "// \n" "//\n" license "${license}")
  append("//\n// ${license}\n")
endif()
append_header(singleflight.hpp FALSE)

get_property(text GLOBAL PROPERTY text)
string(REGEX REPLACE "\n\n\n+" "\n\n" text "${text}")
if(EXISTS "${CMAKE_ARGV3}")
  file(READ "${CMAKE_ARGV3}" before)
endif()
if(NOT "${text}" STREQUAL "${before}")
  file(WRITE "${CMAKE_ARGV3}" "${text}")
endif()
