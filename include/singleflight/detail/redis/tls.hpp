// SPDX-License-Identifier: MIT
#pragma once

// TlsContext: what all TLS connections of a client share. TlsSession: one of them, on a
// non-blocking socket. Both need OpenSSL, and SINGLEFLIGHT_REDIS_TLS. Without it, they refuse.

#include <memory>
#include <stdexcept>
#include <string>

#include "../../redis_client_options.hpp"

#ifdef SINGLEFLIGHT_REDIS_TLS
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <system_error>

#include "posix.hpp"
#endif

namespace singleflight::redis::detail {

// How a read or a write went.
enum class Io : unsigned char {
  kMoved,       // some bytes were moved
  kNeedsRead,   // nothing can be moved until the socket is readable
  kNeedsWrite,  // nothing can be moved until the socket is writable
  kFailed,      // the connection cannot be used any more
};

#ifdef SINGLEFLIGHT_REDIS_TLS

// Returns what OpenSSL says about the last failure on this thread.
inline std::string TlsError() {
  const unsigned long code = ::ERR_get_error();
  if (code == 0) return "unknown TLS error";
  const char* const reason = ::ERR_reason_error_string(code);
  return reason != nullptr ? reason : "TLS error " + std::to_string(code);
}

class TlsContext {
 public:
  // Errors: std::invalid_argument if a file cannot be used.
  explicit TlsContext(const Tls& tls)
      : server_name_(tls.server_name), context_(::SSL_CTX_new(::TLS_client_method())) {
    const DisableCancellation guard;  // OpenSSL reads files, and would leak what it holds
    Demand(context_ != nullptr, "tls");
    SSL_CTX* const context = context_.get();
    Demand(::SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1, "tls");
    ::SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    ::SSL_CTX_set_mode(context,
                       SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (!tls.ca_file.empty()) {
      Demand(::SSL_CTX_load_verify_file(context, tls.ca_file.c_str()) == 1, "tls.ca_file");
    }
    if (!tls.ca_directory.empty()) {
      Demand(::SSL_CTX_load_verify_dir(context, tls.ca_directory.c_str()) == 1, "tls.ca_directory");
    }
    if (tls.ca_file.empty() && tls.ca_directory.empty()) {
      Demand(::SSL_CTX_set_default_verify_paths(context) == 1, "the system's certificates");
    }
    if (!tls.certificate_file.empty()) {
      Demand(::SSL_CTX_use_certificate_chain_file(context, tls.certificate_file.c_str()) == 1,
             "tls.certificate_file");
      Demand(::SSL_CTX_use_PrivateKey_file(context, tls.key_file.c_str(), SSL_FILETYPE_PEM) == 1,
             "tls.key_file");
      Demand(::SSL_CTX_check_private_key(context) == 1, "tls.key_file");
    }
  }

 private:
  friend class TlsSession;
  struct Free {
    void operator()(SSL_CTX* context) const noexcept { ::SSL_CTX_free(context); }
  };

  static void Demand(bool holds, const char* what) {
    if (holds) return;
    throw std::invalid_argument(std::string("singleflight::redis: cannot use ") + what + ": " +
                                TlsError());
  }

  const std::string server_name_;  // expected of all servers. Empty: each one's host
  const std::unique_ptr<SSL_CTX, Free> context_;
};

// Thread: whoever uses it has SIGPIPE blocked.
class TlsSession {
 public:
  // Expects a certificate for `host`, which may be an IP address.
  TlsSession(const TlsContext& context, int file, const std::string& host)
      : session_(::SSL_new(context.context_.get())) {
    if (session_ == nullptr) throw std::bad_alloc();
    SSL* const session = session_.get();
    const std::string& name = context.server_name_.empty() ? host : context.server_name_;
    ::SSL_set_hostflags(session, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    bool is_set = false;
    if (IsIpAddress(name)) {
      is_set = ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(session), name.c_str()) == 1;
    } else {
      is_set = ::SSL_set1_host(session, name.c_str()) == 1 &&
               ::SSL_set_tlsext_host_name(session, name.c_str()) == 1;
    }
    if (!is_set || ::SSL_set_fd(session, file) != 1) throw std::bad_alloc();
    ::SSL_set_connect_state(session);  // the first read or write performs the handshake
  }

  Io Read(char* to, std::size_t size, std::size_t& moved, std::string& error) {
    ::ERR_clear_error();
    errno = 0;
    const int result =
        ::SSL_read(session_.get(), to, static_cast<int>(std::min<std::size_t>(size, INT_MAX)));
    return Judge(result, moved, error);
  }

  // After kNeedsRead or kNeedsWrite, the next write begins with the same bytes.
  Io Write(const char* from, std::size_t size, std::size_t& moved, std::string& error) {
    ::ERR_clear_error();
    errno = 0;
    const int result =
        ::SSL_write(session_.get(), from, static_cast<int>(std::min<std::size_t>(size, INT_MAX)));
    return Judge(result, moved, error);
  }

 private:
  struct Free {
    void operator()(SSL* session) const noexcept { ::SSL_free(session); }
  };

  static bool IsIpAddress(const std::string& name) noexcept {
    std::array<unsigned char, sizeof(in6_addr)> address;
    return ::inet_pton(AF_INET, name.c_str(), address.data()) == 1 ||
           ::inet_pton(AF_INET6, name.c_str(), address.data()) == 1;
  }

  Io Judge(int result, std::size_t& moved, std::string& error) {
    if (result > 0) {
      moved = static_cast<std::size_t>(result);
      return Io::kMoved;
    }
    const int system_error = errno;
    switch (::SSL_get_error(session_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return Io::kNeedsRead;
      case SSL_ERROR_WANT_WRITE:
        return Io::kNeedsWrite;
      case SSL_ERROR_ZERO_RETURN:
        error = "the server closed the connection";
        return Io::kFailed;
      default:
        break;
    }
    const long verified = ::SSL_get_verify_result(session_.get());
    if (verified != X509_V_OK) {
      error = std::string("the server's certificate was refused: ") +
              ::X509_verify_cert_error_string(verified);
    } else if (::ERR_peek_error() != 0) {
      error = "TLS: " + TlsError();
    } else if (system_error != 0) {
      error = std::generic_category().message(system_error);
    } else {
      error = "the server closed the connection";
    }
    return Io::kFailed;
  }

  const std::unique_ptr<SSL, Free> session_;
};

#else

class TlsContext {
 public:
  explicit TlsContext(const Tls&) {
    throw std::invalid_argument(
        "singleflight::redis: this program was built without TLS: link OpenSSL and define "
        "SINGLEFLIGHT_REDIS_TLS, as the CMake target does if it finds that");
  }
};

class TlsSession {
 public:
  TlsSession(const TlsContext&, int, const std::string&) {}
  static Io Read(char*, std::size_t, std::size_t&, std::string&) { return Io::kFailed; }
  static Io Write(const char*, std::size_t, std::size_t&, std::string&) { return Io::kFailed; }
};

#endif

}  // namespace singleflight::redis::detail
