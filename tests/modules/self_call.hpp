// SPDX-License-Identifier: MIT
#pragma once

// What a program and the plugin that it loads do with each other's groups. This header is compiled
// into both, so each has its own copies of the library's functions and inline variables.

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <singleflight/singleflight.hpp>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace modules {

using Group = singleflight::Group<std::string, int>;
using Future = singleflight::Future<int>;
using Lead = Group::Lead;
using Fn = std::function<int()>;

// A waiter that knows how often it was notified.
struct Told : Group::Waiter {
  int told = 0;
};

inline int inline_variable = 0;

// The library, as the code of one module uses it.
class Module {
 public:
  virtual ~Module() = default;

  virtual const char* Name() const = 0;
  virtual const void* InlineVariable() const = 0;

  virtual Group* Make(void* where, singleflight::GroupOptions options) const = 0;
  virtual void Destroy(Group& group) const = 0;

  virtual singleflight::Result<int> Do(Group& group, const std::string& key,
                                       const Fn& fn) const = 0;
  virtual singleflight::Result<int> Do(Group& group, const std::string& key, const Fn& fn,
                                       const singleflight::CallOptions& options) const = 0;
  virtual singleflight::Result<int> DoMany(Group& group, const std::string& key,
                                           const Fn& fn) const = 0;

  using Executor = std::function<void(std::function<void()>)>;
  virtual Future DoAsync(Group& group, const std::string& key, const Fn& fn,
                         const Executor& executor) const = 0;
  virtual singleflight::Result<int> Get(Future& future) const = 0;
  virtual void Drop(Future future) const = 0;

  virtual std::unique_ptr<Told> MakeWaiter() const = 0;
  virtual singleflight::Role Join(Group& group, const std::string& key, Told& waiter,
                                  const std::function<void(Lead)>& launch) const = 0;
  virtual bool Leave(Told& waiter) const = 0;
  virtual int Take(Told& waiter) const = 0;
  virtual bool Run(Lead& lead, const Fn& fn) const = 0;
  virtual bool Succeed(Lead& lead, int value) const = 0;
  virtual void Drop(Lead lead) const = 0;
};

// In an unnamed namespace, because the other module's is another class.
namespace {

class ThisModule final : public Module {
 public:
  explicit ThisModule(const char* name) : name_(name) {}

  const char* Name() const override { return name_; }
  const void* InlineVariable() const override { return &inline_variable; }

  Group* Make(void* where, singleflight::GroupOptions options) const override {
    return new (where) Group(options);
  }
  void Destroy(Group& group) const override { group.~Group(); }

  singleflight::Result<int> Do(Group& group, const std::string& key, const Fn& fn) const override {
    return group.Do(key, fn);
  }
  singleflight::Result<int> Do(Group& group, const std::string& key, const Fn& fn,
                               const singleflight::CallOptions& options) const override {
    return group.Do(key, fn, options);
  }
  singleflight::Result<int> DoMany(Group& group, const std::string& key,
                                   const Fn& fn) const override {
    auto results = singleflight::DoMany(
        group, {key}, [&](std::span<const std::string>) { return std::vector<int>{fn()}; });
    return std::move(results.front()).result();
  }

  Future DoAsync(Group& group, const std::string& key, const Fn& fn,
                 const Executor& executor) const override {
    return singleflight::DoAsync(group, key, fn, executor);
  }
  singleflight::Result<int> Get(Future& future) const override { return future.Get(); }
  void Drop(Future) const override {}

  std::unique_ptr<Told> MakeWaiter() const override {
    struct Counts final : Told {
      void OnLanded() noexcept override { ++told; }
    };
    return std::make_unique<Counts>();
  }
  singleflight::Role Join(Group& group, const std::string& key, Told& waiter,
                          const std::function<void(Lead)>& launch) const override {
    return group.Join(key, waiter, launch);
  }
  bool Leave(Told& waiter) const override { return waiter.Leave(); }
  int Take(Told& waiter) const override { return *waiter.TakeResult(); }
  bool Run(Lead& lead, const Fn& fn) const override { return lead.Run(fn); }
  bool Succeed(Lead& lead, int value) const override { return lead.Succeed(value); }
  void Drop(Lead) const override {}

 private:
  const char* name_;
};

}  // namespace

}  // namespace modules
