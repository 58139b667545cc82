// SPDX-License-Identifier: MIT
#pragma once

// Stream: a non-blocking connection's socket, with TLS if the client uses it.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <string>
#include <system_error>

#include "address.hpp"
#include "tls.hpp"

namespace singleflight::redis::detail {

inline std::string ErrorText(int error) { return std::generic_category().message(error); }

// Thread: whoever uses it has SIGPIPE blocked.
class Stream {
 public:
  Stream() = default;
  ~Stream() { Close(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool IsOpen() const noexcept { return file_ >= 0; }
  int File() const noexcept { return file_; }

  enum class Connecting : unsigned char {
    kStarted,  // the socket becomes writable when ConnectError can be asked
    kBusy,     // a Unix socket's listener has no room at this moment. The stream is closed
    kFailed,   // `error` says why. The stream is closed
  };
  Connecting Connect(const SocketAddress& to, std::string& error) {
    Close();
    file_ = ::socket(to.Family(), SOCK_STREAM, 0);
    if (file_ < 0) return Fail(errno, error);
    ::fcntl(file_, F_SETFD, FD_CLOEXEC);
    ::fcntl(file_, F_SETFL, O_NONBLOCK);
    if (to.Family() != AF_UNIX) {
      Set(IPPROTO_TCP, TCP_NODELAY, 1);
      KeepAlive();
    }
    if (::connect(file_, to.Get(), to.size) == 0 || errno == EINPROGRESS || errno == EINTR) {
      return Connecting::kStarted;
    }
    if (errno == EAGAIN && to.Family() == AF_UNIX) {
      Close();
      return Connecting::kBusy;
    }
    return Fail(errno, error);
  }

  // Returns why the connection could not be made, or 0.
  int ConnectError() const noexcept {
    int error = 0;
    socklen_t size = sizeof(error);
    return ::getsockopt(file_, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
  }

  // Once connected. Errors: std::bad_alloc.
  void StartTls(const TlsContext& context, const std::string& host) {
    tls_.emplace(context, file_, host);
  }

  void Close() noexcept {
    tls_.reset();
    if (file_ >= 0) ::close(file_);
    file_ = -1;
    read_needs_write_ = write_needs_read_ = false;
  }

  // True if `moved` bytes, at least one, were read. False if there are none yet, or if the stream
  // has failed: then `error` is not empty.
  bool Read(char* to, std::size_t size, std::size_t& moved, std::string& error) {
    if (tls_) {
      const Io io = tls_->Read(to, size, moved, error);
      read_needs_write_ = io == Io::kNeedsWrite;
      return io == Io::kMoved;
    }
    const ssize_t result = ::recv(file_, to, size, 0);
    if (result == 0) error = "the server closed the connection";
    return Judge(result, moved, error);
  }

  bool Write(const char* from, std::size_t size, std::size_t& moved, std::string& error) {
    if (tls_) {
      const Io io = tls_->Write(from, size, moved, error);
      write_needs_read_ = io == Io::kNeedsRead;
      return io == Io::kMoved;
    }
    return Judge(::send(file_, from, size, MSG_NOSIGNAL), moved, error);
  }

  // Whether poll() says that there is more to read. TLS may have read that from the socket already.
  bool PollSeesTheRest() const noexcept { return !tls_; }

  // Returns how many bytes were written that the other side has not taken yet, with TLS roughly.
  std::size_t Undelivered() const noexcept {
    int bytes = 0;
    return ::ioctl(file_, TIOCOUTQ, &bytes) == 0 && bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
  }

  // Returns the events of poll() for which to wait.
  short Events(bool has_output) const noexcept {
    const bool writes = (has_output && !write_needs_read_) || read_needs_write_;
    return writes ? POLLIN | POLLOUT : POLLIN;
  }

 private:
  void Set(int level, int option, int value) const noexcept {
    ::setsockopt(file_, level, option, &value, sizeof(value));
  }

  // A connection that was cut off while it was idle is noticed within half a minute, and a firewall
  // does not forget one that works.
  void KeepAlive() const noexcept {
    Set(SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    Set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
    Set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    Set(IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
  }

  Connecting Fail(int number, std::string& error) {
    Close();
    error = ErrorText(number);
    return Connecting::kFailed;
  }

  static bool Judge(ssize_t result, std::size_t& moved, std::string& error) {
    if (result > 0) {
      moved = static_cast<std::size_t>(result);
      return true;
    }
    if (result < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      error = ErrorText(errno);
    }
    return false;
  }

  int file_ = -1;
  std::optional<TlsSession> tls_;
  bool read_needs_write_ = false;
  bool write_needs_read_ = false;
};

}  // namespace singleflight::redis::detail
