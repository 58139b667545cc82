// SPDX-License-Identifier: MIT

// Tests that loads may use a redis::ReadThrough while it is being destroyed.

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <system_error>

#include "caches.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// Destroys a cache while a load of it is running, which uses the cache once that has begun.
class Destroyed {
 public:
  explicit Destroyed(const RedisServer& server, const PageOptions& options)
      : pages_(std::make_unique<CachePages>(server, options)), cache_(*pages_) {}
  ~Destroyed() { Destroy(); }

  CachePages& Pages() { return cache_; }

  // A load that goes on once the destructor waits for it, which asks it to stop.
  template <class Use>
  auto Load(Use use) {
    return [this, use](StopToken stop) {
      begun_ = true;
      begun_.notify_all();
      Await([&] { return stop.stop_requested(); });
      std::string seen;
      try {
        seen = use(cache_);
      } catch (const std::system_error& error) {
        seen = error.code() == std::errc::operation_canceled ? "canceled" : error.what();
      }
      seen_.set_value(seen);
      return seen;
    };
  }
  void Destroy() {
    if (pages_ == nullptr) return;
    begun_.wait(false);
    pages_ = nullptr;
  }
  // What the load has come to.
  std::string Seen() { return seen_.get_future().get(); }

 private:
  std::unique_ptr<CachePages> pages_;
  CachePages& cache_;
  std::atomic<bool> begun_ = false;
  std::promise<std::string> seen_;
};

std::string Use(CachePages& pages) {
  pages.Invalidate("other");
  pages.Put("other", "put");
  return *pages.Get("other", NeverRun);
}

}  // namespace

TEST_CASE("redis::ReadThrough: a load may use the cache while that is being destroyed") {
  const RedisServer server;
  Destroyed destroyed(server, LongTtl());
  auto future = DoAsync(destroyed.Pages(), "k", destroyed.Load(&Use));
  destroyed.Destroy();
  CHECK(destroyed.Seen() == "canceled");  // as any call that begins then
}

TEST_CASE("redis::ReadThrough: a background load may use the cache while that is being destroyed") {
  const RedisServer server;
  Destroyed destroyed(server, Stale());
  PutExpired(server, destroyed.Pages(), "k");
  CHECK(*destroyed.Pages().Get("k", destroyed.Load(&Use)) == "old");
  destroyed.Destroy();
  CHECK(destroyed.Seen() == "canceled");  // as any call that begins then
}

TEST_CASE("redis::ReadThrough: a load may begin a background load while the cache is destroyed") {
  const RedisServer server;
  Destroyed destroyed(server, Stale());
  PutExpired(server, destroyed.Pages(), "other");
  std::atomic<int> runs = 0;
  auto future = DoAsync(destroyed.Pages(), "k", destroyed.Load([&runs](CachePages& pages) {
    return *pages.Get("other", Counted(runs, "new"s));
  }));
  destroyed.Destroy();
  const std::string seen = destroyed.Seen();
  CHECK((seen == "old" || seen == "canceled"));
  CHECK(runs <= 1);
}
