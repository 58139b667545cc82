# SPDX-License-Identifier: MIT

# usage: cmake -D DIRECTORY=... -D VERSION=... -D GENERATOR=... -D CXX=... -P vcpkg.test.cmake
#
# Runs the port in vcpkg/, with stand-ins for the functions of vcpkg that it calls. They do what vcpkg's
# manual says, and refuse arguments that the port does not need. Checks the fields of the manifest, and
# what lies in the package. Cannot check vcpkg's own functions, nor its checks after a build.

cmake_minimum_required(VERSION 3.24)

set(PORT singleflight)
set(port_dir ${CMAKE_CURRENT_LIST_DIR}/vcpkg/${PORT})
set(CURRENT_BUILDTREES_DIR ${DIRECTORY}/build)
set(CURRENT_PACKAGES_DIR ${DIRECTORY}/package)
file(REMOVE_RECURSE ${CURRENT_BUILDTREES_DIR} ${CURRENT_PACKAGES_DIR})

# expect(CONDITION...): the test fails unless the condition is true.
macro(expect)
  if(NOT (${ARGN}))
    message(FATAL_ERROR "not so: ${ARGN}")
  endif()
endmacro()

# ---- The manifest

file(READ ${port_dir}/vcpkg.json manifest)
function(get out)
  string(JSON value GET "${manifest}" ${ARGN})
  set(${out} "${value}" PARENT_SCOPE)
endfunction()

# Every member of the object at a path (the further arguments) is one that vcpkg knows there.
function(expect_members known)
  string(JSON length LENGTH "${manifest}" ${ARGN})
  math(EXPR last "${length} - 1")
  foreach(index RANGE ${last})
    string(JSON member MEMBER "${manifest}" ${ARGN} ${index})
    expect(member IN_LIST known)
  endforeach()
endfunction()

expect_members("name;version;description;license;dependencies;features")
expect_members("description;supports;dependencies" features redis)
foreach(index 0 1)
  expect_members("name;host" dependencies ${index})
endforeach()
get(name name)
get(version version)
get(license license)
get(openssl features redis dependencies 0)
expect(name STREQUAL PORT)
expect(version STREQUAL VERSION)
expect(license STREQUAL "MIT")
expect(openssl STREQUAL "openssl")
get(helper_0 dependencies 0 name)
get(helper_1 dependencies 1 name)
expect(helper_0 STREQUAL "vcpkg-cmake" AND helper_1 STREQUAL "vcpkg-cmake-config")

# ---- The stand-ins

function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" SOURCE_PATH OPTIONS)
  expect(NOT arg_UNPARSED_ARGUMENTS)
  expect(VCPKG_BUILD_TYPE STREQUAL "release")
  run(${CMAKE_COMMAND} -S ${arg_SOURCE_PATH} -B ${CURRENT_BUILDTREES_DIR} -G ${GENERATOR}
      -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release
      -DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR} ${arg_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
  expect(ARGC EQUAL 0)
  run(${CMAKE_COMMAND} --build ${CURRENT_BUILDTREES_DIR} --target install)
endfunction()

function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" CONFIG_PATH "")
  expect(NOT arg_UNPARSED_ARGUMENTS)
  set(from ${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH})
  file(GLOB files ${from}/*.cmake)
  list(LENGTH files count)
  expect(count GREATER_EQUAL 4)
  file(MAKE_DIRECTORY ${CURRENT_PACKAGES_DIR}/share/${PORT})
  foreach(file ${files}) # vcpkg, too, makes up for the folder that is one nearer to the prefix
    get_filename_component(name ${file} NAME)
    file(READ ${file} text)
    set(up "get_filename_component(_IMPORT_PREFIX \"\${_IMPORT_PREFIX}\" PATH)\n")
    string(REPLACE "${up}${up}${up}" "${up}${up}" text "${text}")
    file(WRITE ${CURRENT_PACKAGES_DIR}/share/${PORT}/${name} "${text}")
  endforeach()
  get_filename_component(parent ${from} DIRECTORY)
  file(REMOVE_RECURSE ${from} ${parent})
endfunction()

function(vcpkg_fixup_pkgconfig)
  expect(ARGC EQUAL 0)
  file(GLOB files ${CURRENT_PACKAGES_DIR}/share/pkgconfig/*.pc)
  list(LENGTH files count)
  expect(count EQUAL 2)
  foreach(file ${files})
    file(READ ${file} text)
    string(FIND "${text}" "${CURRENT_PACKAGES_DIR}" at)
    expect(at EQUAL -1)
    string(REGEX REPLACE "(^|\n)prefix=[^\n]*" "" text "${text}")
    file(WRITE ${file} "prefix=\${pcfiledir}/../..\n${text}")
  endforeach()
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" FILE_LIST)
  expect(NOT arg_UNPARSED_ARGUMENTS)
  configure_file(${arg_FILE_LIST} ${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright COPYONLY)
endfunction()

include(${port_dir}/portfile.cmake)

# ---- The package

file(GLOB top LIST_DIRECTORIES TRUE RELATIVE ${CURRENT_PACKAGES_DIR} ${CURRENT_PACKAGES_DIR}/*)
list(JOIN top " " top)
expect(top STREQUAL "include share") # neither debug nor lib
file(GLOB share LIST_DIRECTORIES TRUE RELATIVE ${CURRENT_PACKAGES_DIR}/share
     ${CURRENT_PACKAGES_DIR}/share/*)
list(JOIN share " " share)
expect(share STREQUAL "pkgconfig singleflight")
file(GLOB_RECURSE others ${CURRENT_PACKAGES_DIR}/include/*)
list(FILTER others EXCLUDE REGEX "\\.hpp$")
expect(NOT others)
foreach(file copyright singleflight-config.cmake singleflight-config-version.cmake redis.cmake)
  expect(EXISTS ${CURRENT_PACKAGES_DIR}/share/${PORT}/${file})
endforeach()
message(STATUS "the port makes a package of version ${version}")
