# SPDX-License-Identifier: MIT
#
# Finds cpp-httplib by its CMake package or, on Debian, by its pkg-config file. Sets httplib_target
# to the target to link. It is empty if cpp-httplib is not found.

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
    set(httplib_target singleflight_httplib)
    if(NOT TARGET singleflight_httplib)
      add_library(singleflight_httplib INTERFACE)
      target_link_libraries(singleflight_httplib INTERFACE PkgConfig::cpp-httplib)
      # Debian 13's header calls OpenSSL inline, which its pkg-config file does not say.
      find_package(OpenSSL QUIET)
      if(TARGET OpenSSL::Crypto)
        target_link_libraries(singleflight_httplib INTERFACE OpenSSL::SSL OpenSSL::Crypto)
      endif()
    endif()
  endif()
endif()
