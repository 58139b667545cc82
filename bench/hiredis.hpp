// SPDX-License-Identifier: MIT
#pragma once

// A connection through hiredis, for the bare commands beside which redis::Group is measured.

#include <hiredis/hiredis.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// Thread: one at a time.
// Errors: every member throws std::runtime_error if the server cannot do what it is asked to do.
class Hiredis {
 public:
  struct Free {
    void operator()(redisContext* connection) const { redisFree(connection); }
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, Free>;

  explicit Hiredis(const std::string& socket) : connection_(redisConnectUnix(socket.c_str())) {
    if (connection_ == nullptr) throw std::runtime_error("hiredis has no memory");
    if (connection_->err != 0) throw std::runtime_error(connection_->errstr);
  }

  // Returns the reply to one command, which is written as redisCommand takes it.
  template <class... Args>
  Reply Ask(const char* format, Args... args) {
    if (redisAppendCommand(connection_.get(), format, args...) != REDIS_OK) Fail();
    return Read();
  }

  // Queues a command of these words.
  void Append(const std::vector<std::string_view>& words) {
    std::vector<const char*> data;
    std::vector<std::size_t> sizes;
    for (const std::string_view word : words) {
      data.push_back(word.data());
      sizes.push_back(word.size());
    }
    const auto count = static_cast<int>(words.size());
    if (redisAppendCommandArgv(connection_.get(), count, data.data(), sizes.data()) != REDIS_OK) {
      Fail();
    }
  }
  // Sends what is queued, and returns the next reply or message.
  Reply Read() {
    void* reply = nullptr;
    if (redisGetReply(connection_.get(), &reply) != REDIS_OK) Fail();
    Reply owned(static_cast<redisReply*>(reply));
    if (owned->type == REDIS_REPLY_ERROR) throw std::runtime_error(owned->str);
    return owned;
  }

 private:
  [[noreturn]] void Fail() const { throw std::runtime_error(connection_->errstr); }

  std::unique_ptr<redisContext, Free> connection_;
};
