// SPDX-License-Identifier: MIT

// Three processes, which might be on three hosts, share a cache on a Redis server. In each, one
// thread runs 100 Asio coroutines, which read 50 pages. A page takes 100 ms to render. It is fresh
// for 500 ms, and then served stale while one of all processes renders it in the background.
//
//   ./fleet_cache
//
// prints within ten seconds (300, 50, and the zeros at the end of a line are always the same):
//
//                          answers   hits  renders        p50        p99
//   an empty cache             300      0       50   107.0 ms   111.1 ms
//   readers                  12245  12162      150     0.1 ms     3.5 ms
//     Renders of a page that was being rendered already: 0
//   a process is killed       9115   8068      149     0.1 ms     4.3 ms
//     It was rendering a page. Another process did so 1000 ms later. Its lease was 1 s.
//   pages change             11004   9797      195     0.2 ms    98.6 ms
//     Pages that were invalidated: 98. Readers that got an older one afterwards: 0
//
// A hit is a call that found a page on the server. The process that is killed does not report its
// own. When an expired page is rendered again, nobody waits, so the 99th percentile is that of a
// hit, too. After Invalidate there is no page to serve, so readers wait for the next one.
//
//   --seconds  for how long the readers of the last three rows read (2)

#include <asio.hpp>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <random>
#include <singleflight/asio.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <thread>

#include "support/cache_counts.hpp"
#include "support/flags.hpp"
#include "support/processes.hpp"
#include "support/redis_own_server.hpp"

namespace {

using namespace std::chrono_literals;
namespace redis = singleflight::redis;
using Pages = redis::ReadThrough<std::string>;

std::string KeyOf(std::size_t page) { return "page:" + std::to_string(page); }

// One process. Its one thread runs its coroutines.
class Member {
 public:
  Member(CacheCounts& counts, What what, std::size_t number, const std::string& socket)
      : counts_(counts),
        what_(what),
        number_(number),
        client_({.unix_socket = socket, .connect_timeout = 1min, .command_timeout = 1min}),
        pages_(client_, "fleet_cache", OptionsFor(what)) {}

  void Run(std::chrono::duration<double> time) {
    const bool starts_empty = what_ == What::kEmptyCache;
    for (std::size_t page = 0; !starts_empty && number_ == 0 && page < kPages; ++page) {
      pages_.Put(KeyOf(page), "0");
    }
    counts_.start.ArriveAndWait();
    const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(time);
    for (std::size_t i = 0; i < kCoroutines; ++i) {
      asio::co_spawn(context_, starts_empty ? Read(i % kPages) : ReadUntil(until, i), OrThrow);
    }
    std::jthread editor;
    if (what_ == What::kChanges && number_ == 0) {
      editor = std::jthread([this, until] { OrExit([&] { ChangeUntil(until); }); });
    }
    context_.run();
    counts_.hits += static_cast<int>(pages_.GetStats().hits);
  }

 private:
  using Clock = CacheCounts::Clock;

  // A slow machine must not look like a dead process, or like an outage.
  static redis::ReadThroughOptions<std::string> OptionsFor(What what) {
    redis::Options fleet = {.lease = 10min, .on_outage = redis::OnOutage::kFail};
    if (what == What::kEmptyCache) return {.ttl = 1h, .fleet = fleet};
    if (what == What::kKill) fleet.lease = 1s;
    return {.ttl = 500ms, .stale_for = 1min, .fleet = fleet};
  }
  static void OrThrow(const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  }

  // A page is the number of its version, to keep this short.
  asio::awaitable<std::string> Render(std::size_t page) {
    counts_.NoteRender(page);
    if (what_ == What::kKill && number_ == 0) counts_.Kill(page);
    const int version = counts_.source[page];
    asio::steady_timer timer(context_, 100ms);
    co_await timer.async_wait(asio::use_awaitable);
    --counts_.renders_now[page];
    co_return std::to_string(version);
  }

  asio::awaitable<void> Read(std::size_t page) {
    const int newest = counts_.invalidated[page];
    const auto start = Clock::now();
    // It owns what it uses: in the background it may outlive this coroutine.
    const auto render = [this, page] { return Render(page); };
    const std::string key = KeyOf(page);
    const auto answer = co_await AsyncDo(pages_, key, render, asio::use_awaitable);
    counts_.waits.Record(Clock::now() - start);
    if (std::stoi(*answer) < newest) ++counts_.old_answers;
  }
  asio::awaitable<void> ReadUntil(Clock::time_point until, std::size_t seed) {
    std::minstd_rand random(static_cast<unsigned>(1 + seed * kProcesses + number_));
    while (Clock::now() < until || (what_ == What::kKill && !counts_.WasRenderedAgain())) {
      asio::steady_timer timer(context_, std::chrono::milliseconds(random() % 100));
      co_await timer.async_wait(asio::use_awaitable);
      co_await Read(random() % kPages);
    }
  }

  // Changes pages in their source, and then invalidates them. This blocks, so it has a thread.
  void ChangeUntil(Clock::time_point until) {
    for (std::size_t page = 0; Clock::now() < until; page = (page + 1) % kPages) {
      const int version = ++counts_.source[page];
      pages_.Invalidate(KeyOf(page));
      counts_.invalidated[page] = version;
      std::this_thread::sleep_for(20ms);
    }
  }

  CacheCounts& counts_;
  const What what_;
  const std::size_t number_;
  redis::Client client_;
  Pages pages_;
  asio::io_context context_;  // declared last: see asio.hpp
};

}  // namespace

int main(int argc, char** argv) try {
  Flags flags(argc, argv);
  const std::chrono::duration<double> time(flags.Number("seconds", 2.0, 0.1, 3600.0));
  flags.RefuseOthers();

  Processes processes;
  const OwnRedisServer server;
  PrintHead();
  for (const What what : {What::kEmptyCache, What::kReading, What::kKill, What::kChanges}) {
    const InSharedMemory<CacheCounts> counts;
    const auto run = [&](std::size_t number) {
      Member(*counts, what, number, server.Socket()).Run(time);
    };
    if (const int failed = processes.Run(kProcesses, run, what == What::kKill ? 1 : 0)) {
      return failed;
    }
    PrintRow(what, *counts);
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "fleet_cache: " << error.what() << '\n';
  return 1;
}
