// SPDX-License-Identifier: MIT

// DoMany: five pages are rendered at the same time and ask for overlapping lists of users. Each
// user is in one query only, and each page runs at most one query.
//
//   c++ -std=c++20 -pthread -I include examples/batch.cpp -o batch && ./batch
//
// prints, always:
//
//   without a group: 5 queries for 120 ids returned 118 rows
//   with a group: 4 queries for 39 ids returned 38 rows
//     page 0 shows 25 users
//     page 1 shows 24 users (there is no user 404)
//     page 2 shows 25 users
//     page 3 shows 24 users (there is no user 404)
//     page 4 shows 20 users

#include <array>
#include <atomic>
#include <cstddef>
#include <iostream>
#include <latch>
#include <numeric>
#include <singleflight/singleflight.hpp>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

#include "support/flags.hpp"
#include "support/joining_thread.hpp"

namespace {

using Users = singleflight::Group<int, std::string>;
using Ids = std::vector<int>;

// Stands for a table in a database, and counts its queries.
class Table {
 public:
  // SELECT id, name FROM users WHERE id IN (...): the rows that exist, in any order.
  std::unordered_map<int, std::string> Select(std::span<const int> ids) {
    ++queries_;
    ids_ += ids.size();
    std::unordered_map<int, std::string> rows;
    for (const int id : ids) {
      if (id != 404) rows.emplace(id, "user " + std::to_string(id));
    }
    rows_ += rows.size();
    return rows;
  }
  void PrintCounts(const char* how) const {
    std::cout << how << ": " << queries_ << " queries for " << ids_ << " ids returned " << rows_
              << " rows\n";
  }

 private:
  std::atomic<std::size_t> queries_ = 0, ids_ = 0, rows_ = 0;
};

// The users of a page: twenty that all pages show, then five of its own. The last page has none.
Ids IdsOf(int page) {
  Ids ids(page < 4 ? 25 : 20);
  std::iota(ids.begin(), ids.begin() + 20, 1);
  std::iota(ids.begin() + 20, ids.end(), 100 * page + 100);
  if (page == 1 || page == 3) ids.back() = 404;
  return ids;
}

template <class Select>
std::string Render(Users& users, int page, Select& select) {
  const Ids ids = IdsOf(page);
  const auto found = singleflight::DoMany(users, ids, select);
  int shown = 0;
  std::string missing;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    try {
      shown += found[i]->empty() ? 0 : 1;  // throws if there is no such user
    } catch (const std::system_error& error) {
      if (error.code() != std::errc::no_message) throw;
      missing += " (there is no user " + std::to_string(ids[i]) + ")";
    }
  }
  return "page " + std::to_string(page) + " shows " + std::to_string(shown) + " users" + missing;
}

}  // namespace

int main(int argc, char** argv) {
  Flags(argc, argv).RefuseOthers();
  Table without;
  for (int page = 0; page < 5; ++page) without.Select(IdsOf(page));
  without.PrintCounts("without a group");

  Table with;
  Users users;
  // The queries of four pages wait until the fifth page has asked, so that the counts are the same
  // on any machine.
  std::latch in_queries(4), all_asked(1);
  const auto select = [&](std::span<const int> missing) {
    in_queries.count_down();
    all_asked.wait();
    return with.Select(missing);
  };
  std::array<std::string, 5> pages;
  const auto render = [&](int page) {
    pages[static_cast<std::size_t>(page)] = Render(users, page, select);
  };
  {
    std::vector<JoiningThread> threads;
    for (int page = 0; page < 4; ++page) threads.emplace_back(render, page);
    in_queries.wait();
    threads.emplace_back(render, 4);  // no query: other pages are loading all of its users
    while (users.Callers(20) < 5) std::this_thread::yield();
    all_asked.count_down();
  }
  with.PrintCounts("with a group");
  for (const std::string& page : pages) std::cout << "  " << page << "\n";
}
