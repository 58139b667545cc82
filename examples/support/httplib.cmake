# SPDX-License-Identifier: MIT
#
# Finds cpp-httplib, installed with a CMake package or (Debian) with a pkg-config file. Sets
# httplib_target to what to link, or to nothing.

set(httplib_target)
find_package(httplib CONFIG QUIET)
if(TARGET httplib::httplib)
  set(httplib_target httplib::httplib)
else()
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(cpp-httplib QUIET IMPORTED_TARGET cpp-httplib)
  endif()
  if(TARGET PkgConfig::cpp-httplib)
    set(httplib_target PkgConfig::cpp-httplib)
  endif()
endif()
