# SPDX-License-Identifier: MIT

# Defines the target singleflight::redis, for redis.hpp. If OpenSSL is found, redis::ClientOptions::tls
# can be used.

set(singleflight_redis_FOUND TRUE)
if(NOT TARGET singleflight::redis)
  add_library(singleflight::redis INTERFACE IMPORTED GLOBAL)
  target_link_libraries(singleflight::redis INTERFACE singleflight::singleflight)
  option(SINGLEFLIGHT_REDIS_TLS "Link OpenSSL, if it is found, for redis::ClientOptions::tls" ON)
  if(SINGLEFLIGHT_REDIS_TLS)
    find_package(OpenSSL QUIET)
    if(OPENSSL_FOUND)
      target_compile_definitions(singleflight::redis INTERFACE SINGLEFLIGHT_REDIS_TLS)
      target_link_libraries(singleflight::redis INTERFACE OpenSSL::SSL OpenSSL::Crypto)
    endif()
  endif()
endif()
