# SPDX-License-Identifier: MIT

# Defines the target singleflight::redis, for redis.hpp, if hiredis is found. Sets
# singleflight_redis_FOUND. If hiredis_ssl is found too, redis::Options::tls can be used.

find_path(SINGLEFLIGHT_HIREDIS_INCLUDE_DIR hiredis/hiredis.h)
find_library(SINGLEFLIGHT_HIREDIS_LIBRARY hiredis)
find_library(SINGLEFLIGHT_HIREDIS_SSL_LIBRARY hiredis_ssl)
mark_as_advanced(
  SINGLEFLIGHT_HIREDIS_INCLUDE_DIR SINGLEFLIGHT_HIREDIS_LIBRARY SINGLEFLIGHT_HIREDIS_SSL_LIBRARY
)
set(singleflight_redis_FOUND FALSE)
if(SINGLEFLIGHT_HIREDIS_INCLUDE_DIR AND SINGLEFLIGHT_HIREDIS_LIBRARY)
  set(singleflight_redis_FOUND TRUE)
  if(NOT TARGET singleflight::redis)
    add_library(singleflight::redis INTERFACE IMPORTED GLOBAL)
    target_include_directories(singleflight::redis INTERFACE ${SINGLEFLIGHT_HIREDIS_INCLUDE_DIR})
    target_link_libraries(
      singleflight::redis INTERFACE singleflight::singleflight ${SINGLEFLIGHT_HIREDIS_LIBRARY}
    )
    if(SINGLEFLIGHT_HIREDIS_SSL_LIBRARY)
      target_compile_definitions(singleflight::redis INTERFACE SINGLEFLIGHT_REDIS_TLS)
      target_link_libraries(singleflight::redis INTERFACE ${SINGLEFLIGHT_HIREDIS_SSL_LIBRARY})
    endif()
  endif()
elseif(singleflight_FIND_REQUIRED_redis) # find_package(singleflight COMPONENTS redis)
  set(singleflight_FOUND FALSE)
  set(singleflight_NOT_FOUND_MESSAGE "its component redis needs hiredis, which was not found")
else()
  message(STATUS "singleflight: hiredis was not found, so there is no target singleflight::redis "
                 "(Debian: apt install libhiredis-dev)")
endif()
