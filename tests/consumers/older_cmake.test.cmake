# SPDX-License-Identifier: MIT

# usage: cmake -D PREFIX=... -P older_cmake.test.cmake
#
# The oldest CMake that CMakeLists.txt claims to need can read what consumers need of it: the files of
# the package installed in PREFIX, and ours that a vendored copy runs. Checks that none of them demands
# a newer CMake, and that they have no command, option or variable that came later. Cannot run an older
# CMake, and knows only the words that are listed here.

cmake_minimum_required(VERSION 3.24)

get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
file(READ ${root}/CMakeLists.txt text)
string(REGEX MATCH "cmake_minimum_required\\(VERSION ([0-9.]+)\\.\\.\\." claim "${text}")
set(claimed ${CMAKE_MATCH_1})
if(NOT claimed VERSION_EQUAL 3.16)
  message(FATAL_ERROR "this test and README.md were written for CMake 3.16, not '${claimed}'")
endif()

file(GLOB files ${PREFIX}/share/cmake/singleflight/*.cmake)
list(LENGTH files count)
if(NOT count EQUAL 4)
  message(FATAL_ERROR "${count} files, not 4, are in ${PREFIX}/share/cmake/singleflight")
endif()
list(APPEND files ${root}/CMakeLists.txt ${root}/include/package/single_header.cmake)

# All commands that CMake has got since, and the words of others that are likely to be used here.
set(newer_commands cmake_language cmake_path block endblock cmake_file_api cmake_instrumentation
    cmake_pkg_config)
set(newer_words
    FILE_SET BASE_DIRS HEADER_SETS PROJECT_IS_TOP_LEVEL ZIP_LISTS PATH_EQUAL REAL_PATH COPY_FILE
    CHECK_START CMAKE_CURRENT_FUNCTION PROPAGATE CXX_MODULES BUILD_LOCAL_INTERFACE EXPORT_NO_SYSTEM
    FIND_PACKAGE_ARGS RUNTIME_DEPENDENCY_SET CODEGEN VALIDATOR COMPILE_WARNING_AS_ERROR
    ARCHIVE_CREATE CHMOD COMMAND_ERROR_IS_FATAL "file(CONFIGURE"
    "string(JSON" "string(HEX" "$<PATH:")

set(demands 0)
foreach(file ${files})
  file(READ ${file} text)
  string(REGEX REPLACE "(^|\n)[ \t]*#[^\n]*" "\\1" text "${text}")
  foreach(command ${newer_commands})
    if(text MATCHES "(^|[^A-Za-z0-9_])${command}[ \t]*\\(")
      message(SEND_ERROR "${file} has the command ${command}, which is newer than CMake ${claimed}")
    endif()
  endforeach()
  foreach(word ${newer_words})
    string(FIND "${text}" "${word}" at)
    if(NOT at EQUAL -1)
      message(SEND_ERROR "${file} has ${word}, which is newer than CMake ${claimed}")
    endif()
  endforeach()

  # cmake_policy(VERSION 2.8...3.20), or a version at which the file gives up.
  string(REGEX MATCHALL
         "(cmake_policy|cmake_minimum_required)\\(VERSION [0-9.]+|VERSION_LESS \"?[0-9.]+\"?\\)[ \n]*message\\(FATAL_ERROR"
         found "${text}")
  foreach(demand ${found})
    string(REGEX MATCH "[0-9]+(\\.[0-9]+)*" version "${demand}")
    if(version VERSION_GREATER claimed)
      message(SEND_ERROR "${file} demands CMake ${version}: ${demand}")
    endif()
    math(EXPR demands "${demands} + 1")
  endforeach()
endforeach()
if(demands LESS 3) # CMakeLists.txt has one, and an export two or more
  message(SEND_ERROR "only ${demands} demands were found, so this test looks for the wrong words")
endif()
message(STATUS "${demands} demands in these files, none newer than CMake ${claimed}")
