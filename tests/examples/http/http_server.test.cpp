// SPDX-License-Identifier: MIT

// Tests the HTTP example over real sockets.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <latch>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/http_service.hpp"
#include "support/support.hpp"

namespace {

// Runs a server with the example's routes on a free port while this object lives.
class RunningServer {
 public:
  using Work =
      std::function<std::string(const HttpService::Responses&, const httplib::Request& request)>;

  explicit RunningServer(Work work)
      : service_(group_, [this, work = std::move(work)](const httplib::Request& request) {
          ++executions_;
          return work(group_, request);
        }) {
    service_.Install(server_);
    REQUIRE(port_ > 0);
    thread_ = test::JoiningThread([this] { server_.listen_after_bind(); });
    test::Await([this] { return server_.is_running(); });
  }
  ~RunningServer() { server_.stop(); }

  int port() const { return port_; }
  int executions() const { return executions_; }
  const HttpService::Responses& group() const { return group_; }

 private:
  HttpService::Responses group_{{.timed = true}};
  std::atomic<int> executions_ = 0;
  HttpService service_;
  HerdServer server_{256};
  const int port_ = server_.Bind(0);
  test::JoiningThread thread_;
};

struct Answer {
  int status = 0;  // 0: no answer came
  std::string body;

  bool operator==(const Answer&) const = default;
};

// Catch2 prints answers with this operator.
std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  return out << answer.status << " " << answer.body;
}

Answer Get(const RunningServer& server, const std::string& path) {
  httplib::Client client("127.0.0.1", server.port());
  client.set_read_timeout(300);  // seconds
  const httplib::Result answer = client.Get(path);
  return answer ? Answer{answer->status, answer->body} : Answer{};
}

// Sends one request for each path, all at once, and returns the answers in the same order.
std::vector<Answer> GetAtOnce(const RunningServer& server, const std::vector<std::string>& paths) {
  std::vector<Answer> answers(paths.size());
  std::vector<test::JoiningThread> threads;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = Get(server, paths[i]); });
  }
  threads.clear();
  return answers;
}

std::vector<Answer> GetAtOnce(const RunningServer& server, int count, const std::string& path) {
  return GetAtOnce(server, std::vector<std::string>(static_cast<std::size_t>(count), path));
}

// Returns work that finishes when `count` callers are on its call.
RunningServer::Work WorkFor(std::size_t count) {
  return [count](const HttpService::Responses& group, const httplib::Request& request) {
    test::AwaitCallersOfEach(group, count);
    return "answer to " + request.target;
  };
}

}  // namespace

TEST_CASE("Promise 1: five HTTP requests at once run the work once and get the same body") {
  RunningServer server(WorkFor(5));
  const auto answers = GetAtOnce(server, 5, "/");
  CHECK(std::ranges::count(answers, Answer{200, "answer to /"}) == 5);
  CHECK(server.executions() == 1);
}

TEST_CASE("Promise 1: two hundred HTTP requests at once run the work once and get the same body") {
  RunningServer server(WorkFor(200));
  const auto answers = GetAtOnce(server, 200, "/");
  CHECK(std::ranges::count(answers, Answer{200, "answer to /"}) == 200);
  CHECK(server.executions() == 1);
}

TEST_CASE("Promise 1: HTTP requests that differ in the query each run the work") {
  std::latch both_at_work(2);
  RunningServer server([&](const HttpService::Responses&, const httplib::Request& request) {
    both_at_work.arrive_and_wait();
    return "answer to " + request.target;
  });
  const auto answers = GetAtOnce(server, {"/?user=1", "/?user=2"});
  CHECK(answers[0] == Answer{200, "answer to /?user=1"});
  CHECK(answers[1] == Answer{200, "answer to /?user=2"});
  CHECK(server.executions() == 2);
}

TEST_CASE("Promise 2: HTTP requests that come one after the other each run the work") {
  RunningServer server(WorkFor(1));
  CHECK(Get(server, "/") == Answer{200, "answer to /"});
  CHECK(Get(server, "/") == Answer{200, "answer to /"});
  CHECK(server.executions() == 2);
}

TEST_CASE("Promise 5: if an HTTP handler fails, all callers get the 500, and the next reruns it") {
  std::atomic<std::size_t> callers = 200;
  RunningServer server([&](const HttpService::Responses& group, const httplib::Request&) {
    test::AwaitCallersOfEach(group, callers);
    return std::string("never seen");
  });
  const auto answers = GetAtOnce(server, 200, "/fail");
  CHECK(std::ranges::count(answers, Answer{500, "the backend is down\n"}) == 200);
  CHECK(server.executions() == 1);

  callers = 1;
  CHECK(Get(server, "/fail") == Answer{500, "the backend is down\n"});
  CHECK(server.executions() == 2);
}

TEST_CASE("An HTTP route without a group runs the work for each request") {
  std::latch all_at_work(5);
  RunningServer server([&](const HttpService::Responses&, const httplib::Request& request) {
    all_at_work.arrive_and_wait();
    return "answer to " + request.target;
  });
  const auto answers = GetAtOnce(server, 5, "/alone");
  CHECK(std::ranges::count(answers, Answer{200, "answer to /alone"}) == 5);
  CHECK(server.executions() == 5);
}

TEST_CASE("The HTTP service counts the calls of its group and serves the counts in two formats") {
  RunningServer server(WorkFor(5));
  GetAtOnce(server, 5, "/");
  GetAtOnce(server, 5, "/fail");
  CHECK(Get(server, "/stats") ==
        Answer{200,
               "[{\"labels\": {\"group\": \"answers\"}, \"stats\": {\"executions\": 2, "
               "\"followers\": 8, "
               "\"failures\": 1, \"left\": 0, \"refused\": 0, \"in_flight\": 0}}]\n"});
  CHECK(
      Get(server, "/metrics").body.find("\nsingleflight_followers_total{group=\"answers\"} 8\n") !=
      std::string::npos);
}

TEST_CASE("The HTTP server shows its runs in flight on a page for operators") {
  std::latch finish(1);
  RunningServer server([&](const HttpService::Responses&, const httplib::Request&) {
    finish.wait();
    return std::string("done");
  });
  const auto shows = [&](const std::string& text) {
    const Answer page = Get(server, "/debug/singleflight");
    return page.status == 200 && page.body.find(text) != std::string::npos;
  };
  CHECK(shows("<p>0 calls in flight, 0 callers.</p>"));
  std::vector<Answer> answers;
  {
    const test::JoiningThread clients([&] {
      answers = GetAtOnce(server, {"/?q=<b>&", "/?q=<b>&", "/?q=<b>&", "/fail"});
    });
    test::Await([&] {
      const singleflight::Stats stats = server.group().GetStats();
      return stats.executions == 2 && stats.followers == 2;
    });
    CHECK(shows("<p>2 calls in flight, 4 callers.</p>"));
    const std::string host = ", Accept: */*, Host: 127.0.0.1:" + std::to_string(server.port());
    CHECK(shows("<bdi>GET /?q=&lt;b&gt;&amp;" + host + "</bdi><td class=n>3<td class=n>"));
    CHECK(shows("<bdi>GET /fail" + host + "</bdi><td class=n>1<td class=n>"));
    CHECK(!shows("<td class=n>–"));  // each has an age
    CHECK(shows("<dt>followers<dd>2<small>"));
    CHECK(shows("<p>0 recorded.</p>"));
    finish.count_down();
  }
  CHECK(std::ranges::count(answers, Answer{200, "done"}) == 3);
  CHECK(shows("<p>0 calls in flight, 0 callers.</p>"));
  CHECK(shows("<dt>failures<dd>1<small>"));
  CHECK(shows("<p>2 recorded, <b>p50</b> "));
}

TEST_CASE("The HTTP server shows its page for operators with its headers and to nobody else") {
  RunningServer server(WorkFor(1));
  httplib::Client client("127.0.0.1", server.port());
  const httplib::Result page = client.Get("/debug/singleflight?refresh=5");
  REQUIRE(page);
  CHECK(page->get_header_value_count("Content-Type") == 1);
  CHECK(page->get_header_value("Content-Type") == "text/html; charset=utf-8");
  CHECK(page->get_header_value("Cache-Control") == "no-store");
  CHECK(page->get_header_value("Content-Security-Policy").starts_with("default-src 'none';"));
  CHECK(page->body.find("http-equiv=\"refresh\" content=\"5\"") != std::string::npos);

  const httplib::Result head = client.Head("/debug/singleflight");
  REQUIRE(head);
  CHECK(head->status == 200);
  CHECK(head->body.empty());
  const httplib::Result other = client.Get("/debug/singleflight", {{"Host", "rebound.example"}});
  REQUIRE(other);
  CHECK(other->status == 403);
  CHECK(other->body.find('<') == std::string::npos);
}

TEST_CASE("A port in use is refused, not shared") {
  RunningServer server(WorkFor(1));
  CHECK(HerdServer(1).Bind(server.port()) == -1);
}
