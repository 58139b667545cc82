// SPDX-License-Identifier: MIT

// Batcher: twenty posts are rendered at the same time. Each asks for its author, and then for the
// author's manager, one user at a time. What is asked in one round of the event loop is one query.
//
//   c++ -std=c++20 -pthread -I include examples/batcher.cpp -o batcher && ./batcher
//
// prints, always:
//
//   20 posts asked for 39 users, one at a time: 2 queries for 13 users
//     post 0 is by user 1, whose manager is user 101
//     post 19 is by user 4, whose manager is user 104
//     post 5 is by nobody: there is no user 404

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <map>
#include <singleflight/singleflight.hpp>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "support/event_loop.hpp"
#include "support/flags.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::CoDo;
using Users = singleflight::Group<int, std::string>;

int AuthorOf(int post) { return post == 5 ? 404 : post % 8 + 1; }
int ManagerOf(int user) { return 100 + (user - 1) % 4 + 1; }

Task<std::string> Render(int post, singleflight::Batcher<Users>& users) {
  const std::string text = "post " + std::to_string(post) + " is by ";
  try {
    const auto author = co_await CoDo(users, AuthorOf(post));
    const auto manager = co_await CoDo(users, ManagerOf(AuthorOf(post)));
    co_return text + *author + ", whose manager is " + *manager;
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::no_message) throw;
    co_return text + "nobody: there is no user " + std::to_string(AuthorOf(post));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Flags(argc, argv).RefuseOthers();
  std::size_t queries = 0, keys = 0;
  // SELECT id, name FROM users WHERE id IN (...): the rows that exist.
  const auto select = [&](std::span<const int> ids) {
    ++queries;
    keys += ids.size();
    std::map<int, std::string> rows;
    for (const int id : ids) {
      if (id != 404) rows.emplace(id, "user " + std::to_string(id));
    }
    return rows;
  };
  Loop loop;
  Users group;
  // A batch runs in the loop's next round, on its thread. Give one that blocks to a pool: all that
  // is asked until a thread of the pool is free is then one query.
  singleflight::Batcher users(group, select, {.max_keys = 100, .max_delay = 0ms},
                              [&loop](auto task) { loop.Post(std::move(task)); });
  std::vector<Task<std::string>> posts;
  for (int post = 0; post < 20; ++post) posts.push_back(Render(post, users));
  loop.RunUntil([&] { return std::ranges::all_of(posts, &Task<std::string>::Done); });
  const singleflight::Stats stats = group.GetStats();
  std::cout << posts.size() << " posts asked for " << stats.executions + stats.followers
            << " users, one at a time: " << queries << " queries for " << keys << " users\n";
  for (const std::size_t post : {0U, 19U, 5U}) std::cout << "  " << posts[post].Result() << "\n";
}
