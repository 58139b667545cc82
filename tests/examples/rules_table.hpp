// SPDX-License-Identifier: MIT

// The tests of the rules in examples/README.md, over real sockets. The tests of each server include
// this file, after they have defined TEST_SERVER, a text for the names, and TestServer:
//
//   explicit TestServer(singleflight::GroupOptions limits);
//   void Serve(const std::string& path, const Work& work, const SharingOptions& options);
//   void ServeStoppable(...);          // the same, with a handler that takes a stop token
//   void ServeWrite(const std::string& path, const Work& work);  // invalidates what it writes to
//   int Start();                       // returns the port
//   singleflight::Stats GetStats() const;

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "examples/curl.hpp"
#include "examples/raw_client.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

using test::CurlRequest;
using test::Page;
using test::RawClient;
using Strings = std::vector<std::string>;

// A server with one coalesced handler for /page. It answers when all requests have come that a test
// sends at once. So requests that may share do share, and all others are inside their handlers at
// the same time.
class RuleSite {
 public:
  explicit RuleSite(std::function<Reply(const Seen&)> reply, const SharingOptions& options = {},
                    const singleflight::GroupOptions& limits = {})
      : server_(limits) {
    server_.Serve("/page", {Ready(), std::move(reply)}, options);
  }

  TestServer& server() { return server_; }
  int port() {
    if (port_ < 0) port_ = server_.Start();
    return port_;
  }
  int runs() const { return runs_; }
  singleflight::Stats GetStats() const { return server_.GetStats(); }

  // Returns what makes a handler wait as described above.
  std::function<bool(const Seen&, bool, const test::StopToken&)> Ready() {
    return [this](const Seen& seen, bool begins, const test::StopToken&) {
      if (begins) ++runs_;
      // A request whose theme is visible asks for the second time: see the tests of Vary.
      const std::size_t times = http_text::Has(seen.headers, "X-Theme") ? 2 : 1;
      const singleflight::Stats stats = server_.GetStats();
      return static_cast<std::size_t>(runs_) + stats.followers + stats.refused >= times * together_;
    };
  }

  // Sends the requests at once, and returns what each got. The first one leads, if it may.
  std::vector<Page> AtOnce(const std::vector<CurlRequest>& asks) {
    const int before = runs_;
    const singleflight::Stats stats = GetStats();
    together_ = static_cast<std::size_t>(before) + stats.followers + stats.refused + asks.size();
    return test::CurlAtOnce(port(), asks, [this, before] { return runs_ > before; });
  }

  // Does the same for requests of /page with these arguments of curl.
  std::vector<Page> PageAtOnce(const Strings& arguments) {
    std::vector<CurlRequest> asks;
    for (const std::string& of_one : arguments) asks.push_back({"/page", of_one});
    return AtOnce(asks);
  }

 private:
  std::atomic<int> runs_ = 0;
  std::atomic<std::size_t> together_ = 1;
  int port_ = -1;
  TestServer server_;
};

// Returns what a handler sees, as a text. The headers of newer versions of httplib have no order.
std::string TextOf(const Seen& seen) {
  std::string text = seen.method + " " + seen.target;
  HttpFields headers = seen.headers;
  std::ranges::stable_sort(headers, {}, &HttpFields::value_type::first);
  for (const auto& [name, value] : headers) text += "\n" + name + ": " + value;
  return text + (seen.peer.empty() ? "" : "\nfrom " + seen.peer);
}
Reply Echo(const Seen& seen) { return {200, {}, TextOf(seen)}; }

// Makes a different answer in each run.
std::function<Reply(const Seen&)> Counting(Reply reply = {}) {
  return [reply, runs = std::make_shared<std::atomic<int>>(0)](const Seen&) {
    Reply numbered = reply;
    numbered.body = "answer " + std::to_string(++*runs);
    return numbered;
  };
}

std::vector<std::string> BodiesOf(const std::vector<Page>& pages) {
  std::vector<std::string> bodies;
  for (const Page& page : pages) bodies.push_back(page.body);
  return bodies;
}

std::set<std::string> DifferentBodies(const std::vector<Page>& pages) {
  const auto bodies = BodiesOf(pages);
  return {bodies.begin(), bodies.end()};
}

}  // namespace

// ---- What a coalesced handler sees

TEST_CASE("A coalesced handler sees method, target, Host and Accept headers only: " TEST_SERVER) {
  RuleSite site(Echo);
  const auto pages = site.AtOnce({{"/page?b=1&a=%20", "-A me -H 'X-Id: 1' -H 'Host: shop'"},
                                  {"/page?b=1&a=%20", "-A you -H 'X-Id: 2' -H 'Host: shop'"}});
  CHECK(DifferentBodies(pages) ==
        std::set<std::string>{"GET /page?b=1&a=%20\nAccept: */*\nHost: shop"});
  CHECK(site.runs() == 1);
}

TEST_CASE("Requests that differ in what the handler sees do not share: " TEST_SERVER) {
  RuleSite site(Echo, {.vary = {"X-Tenant"}});
  const auto pages = site.AtOnce({{"/page"},
                                  {"/page", "--head"},
                                  {"/page", "--request-target '/page?'"},
                                  {"/page?a=1&b=2"},
                                  {"/page?b=2&a=1"},
                                  {"/page", "-H 'Host: other'"},
                                  {"/page", "-H 'Accept: text/html'"},
                                  {"/page", "-H 'Accept-Language: de'"},
                                  {"/page", "-H 'x-tenant: 1'"},
                                  {"/page", "-H 'X-Tenant: 2'"}});
  CHECK(site.runs() == 10);
  CHECK(DifferentBodies(pages).size() == 10);
}

TEST_CASE("Attack: an unlisted credential is not seen, so nobody gets its answer: " TEST_SERVER) {
  for (const char* const name : {"X-Api-Key", "Api-Token", "X-Amzn-Oidc-Identity", "X-Tenant-Id",
                                 "Tailscale-User-Login", "X-Ms-Client-Principal-Name"}) {
    RuleSite site([name](const Seen& seen) {
      return Reply{200, {}, "secrets of [" + seen.Header(name) + "]"};
    });
    const std::string header = "-H '" + std::string(name) + ": ";
    CHECK(DifferentBodies(site.PageAtOnce({header + "alice'", header + "bob'", ""})) ==
          std::set<std::string>{"secrets of []"});
    CHECK(site.runs() == 1);
  }
}

// A client in a loop must not be able to choose what others load.
TEST_CASE("Attack: an unlisted routing header poisons nobody's page: " TEST_SERVER) {
  for (const char* const name :
       {"X-Forwarded-Host", "Forwarded", "X-Original-URL", "X-Forwarded-Proto", "X-Host",
        "X-Forwarded-Prefix", "X-HTTP-Method-Override"}) {
    RuleSite site([name](const Seen& seen) {
      return Reply{200, {}, "<script src=//" + seen.Header(name) + "/a.js>"};
    });
    const std::string evil = "-H '" + std::string(name) + ": evil.example'";
    CHECK(DifferentBodies(site.PageAtOnce({evil, "", evil})) ==
          std::set<std::string>{"<script src=///a.js>"});
  }
}

TEST_CASE(
    "Attack: a URL whose signature covers the order of parameters is not mixed up: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) {
    const bool valid = seen.target == "/page?op=blur&op2=crop&sig=1";
    return valid ? Reply{200, {}, "picture"} : Reply{404, {}, "bad signature"};
  });
  const auto pages =
      site.AtOnce({{"/page?op=blur&op2=crop&sig=1"}, {"/page?op2=crop&op=blur&sig=1"}});
  CHECK(BodiesOf(pages) == Strings{"picture", "bad signature"});
}

TEST_CASE("The handler sees the client's address only if its request is not shared: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) { return Reply{200, {}, "for [" + seen.peer + "]"}; });
  CHECK(BodiesOf(site.PageAtOnce({"", "", "-b a=1"})) ==
        Strings{"for []", "for []", "for [127.0.0.1]"});
}

TEST_CASE("A header in pass is that of the request that started the run: " TEST_SERVER) {
  RuleSite site(Echo, {.pass = {"traceparent"}});
  const auto pages = site.PageAtOnce(
      {"-H 'Accept:' -H 'Traceparent: 1'", "-H 'Accept:' -H 'Traceparent: 2'", "-H 'Accept:'"});
  CHECK(DifferentBodies(pages).size() == 1);
  CHECK(pages[2].body.ends_with("\nTraceparent: 1"));
  CHECK(site.runs() == 1);
}

TEST_CASE("A derived header stands for the cookies, and cannot be sent by a client: " TEST_SERVER) {
  const auto user_of = [](const HttpRequestView& request) {
    const auto cookies = http_text::ValuesOf(request.fields, "Cookie");
    return std::string(cookies.empty() ? "nobody" : cookies[0].substr(2, 3));
  };
  RuleSite site(
      [](const Seen& seen) {
        return Reply{200, {}, seen.Header("X-User")};
      },
      {.derive = {{.name = "X-User", .from = {"Cookie"}, .value = user_of}}});
  CHECK(BodiesOf(site.PageAtOnce({"-b 'u=ann; seen=1'", "-b 'u=ann; seen=2'",
                                  "-b u=bob -H 'X-User: ann'", "-H 'X-User: ann'"})) ==
        Strings{"ann", "ann", "bob", "nobody"});
  CHECK(site.runs() == 3);
}

// A request with a body, a range or so runs alone and sees everything else that its client sent.
TEST_CASE(
    "Attack: a client cannot send a derived header with a request that runs alone: " TEST_SERVER) {
  const auto user_of = [](const HttpRequestView& request) {
    return std::string(http_text::Has(request.fields, "Cookie") ? "bob" : "nobody");
  };
  RuleSite site(
      [](const Seen& seen) {
        std::string users;
        for (const std::string_view user : http_text::ValuesOf(seen.headers, "X-User")) {
          users += std::string(user) + ";";
        }
        return Reply{200, {}, users + seen.Header("X-Id")};
      },
      {.derive = {{.name = "X-User", .from = {"Cookie"}, .value = user_of}}});
  for (const std::string alone :
       {"-H 'Range: bytes=0-99'", "-H 'Upgrade: h2c'", "-H 'Cache-Control: no-store'",
        "-H 'If-Match: \"a\"'", "-H 'Authorization: a'", "-X GET -d body"}) {
    INFO(alone);
    const std::string forged = alone + " -H 'x-user: ann' -H 'X-User: eve' -H 'X-Id: 1'";
    CHECK(BodiesOf(site.PageAtOnce({forged, forged + " -b u=bob"})) ==
          Strings{"nobody;1", "bob;1"});
  }
  CHECK(site.GetStats() == singleflight::Stats());
}

// ---- Requests that run alone, and see everything

TEST_CASE("A request with credentials runs alone and sees all its headers: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) {
    return Reply{200,
                 {},
                 seen.Header("Cookie") + seen.Header("Authorization") +
                     seen.Header("Proxy-Authorization") + seen.Header("X-Id")};
  });
  const Strings arguments = {"-b a=1 -H 'X-Id: 1'", "-b a=1 -H 'X-Id: 2'",
                             "-H 'Authorization: b' -H 'X-Id: 3'",
                             "-H 'Proxy-Authorization: c' -H 'X-Id: 4'"};
  CHECK(BodiesOf(site.PageAtOnce(arguments)) == Strings{"a=11", "a=12", "b3", "c4"});
  CHECK(site.GetStats() == singleflight::Stats());
}

TEST_CASE(
    "Requests with a credential that vary names share if its value is the same: " TEST_SERVER) {
  RuleSite site(
      [](const Seen& seen) {
        return Reply{200, {}, seen.Header("Cookie")};
      },
      {.vary = {"cookie"}});
  CHECK(BodiesOf(site.PageAtOnce({"-b u=ann", "-b u=ann", "-b u=bob", ""})) ==
        Strings{"u=ann", "u=ann", "u=bob", ""});
  CHECK(site.runs() == 3);
}

TEST_CASE("A request with a body, a range or a condition on writing runs alone: " TEST_SERVER) {
  for (const char* const arguments :
       {"-X GET -d x", "-r 0-3", "-H 'If-Match: \"1\"'", "-H 'If-Range: \"1\"'",
        "-H 'If-Unmodified-Since: Tue, 15 Nov 1994 12:45:26 GMT'", "-H 'Upgrade: x'",
        "-H 'Cache-Control: no-store'"}) {
    INFO(arguments);
    RuleSite site(Counting());
    site.PageAtOnce({arguments, arguments});
    CHECK(site.runs() == 2);
    CHECK(site.GetStats() == singleflight::Stats());
  }
}

TEST_CASE("Conditional requests share, and each gets the 304 that is its own: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) {
    return Reply{200, {{"ETag", "\"1\""}}, "page" + seen.Header("If-None-Match")};
  });
  const auto pages = site.PageAtOnce(
      {"-H 'If-None-Match: \"1\"'", "", "-H 'If-None-Match: \"0\"'", "-H 'If-None-Match: \"1\"'"});
  CHECK(BodiesOf(pages) == Strings{"", "page", "page", ""});
  CHECK(pages[0].status == 304);
  CHECK(pages[2].status == 200);
  CHECK(pages[3].status == 304);
  CHECK(pages[3].Has("ETag: \"1\""));
  CHECK(site.runs() == 1);
}

// ---- Answers that are for one client

TEST_CASE("Attack: another client's refusal reaches nobody else: " TEST_SERVER) {
  for (const int status : {401, 402, 403, 407, 408, 421, 425, 428, 429, 431, 511}) {
    INFO(status);
    std::atomic<bool> refuse = true;
    RuleSite site([&](const Seen&) { return Reply{refuse.exchange(false) ? status : 200}; });
    const auto pages = site.PageAtOnce({"", "", ""});
    CHECK(std::ranges::count(pages, 200, &Page::status) == 2);
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("An answer that says so goes to its client only: " TEST_SERVER) {
  for (const auto& [name, value] : HttpFields{{"Set-Cookie", "a=1"},
                                              {"Cache-Control", "max-age=1, Private"},
                                              {"Cache-Control", "no-store"},
                                              {"Cache-Control", "no-cache"},
                                              {"CDN-Cache-Control", "no-store"},
                                              {"Surrogate-Control", "no-store"},
                                              {"Vary", "*"},
                                              {"Vary", "Accept, *"}}) {
    INFO(name << ": " << value);
    RuleSite site(Counting({200, {{name, value}}, ""}));
    CHECK(DifferentBodies(site.PageAtOnce({"", "", ""})).size() == 3);
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("An error that is nobody's goes to all that wait: " TEST_SERVER) {
  for (const int status : {400, 404, 410, 500, 503}) {
    RuleSite site(Counting({status, {}, ""}));
    for (const Page& page : site.PageAtOnce({"", "", ""})) CHECK(page.status == status);
    CHECK(site.runs() == 1);
  }
}

TEST_CASE("If a coalesced handler throws, all that wait get the 500: " TEST_SERVER) {
  RuleSite site([](const Seen&) -> Reply { throw std::runtime_error("broken"); });
  for (const Page& page : site.PageAtOnce({"", "", ""})) CHECK(page.status == 500);
  CHECK(site.runs() == 1);
  CHECK(site.GetStats().failures == 1);
}

// The first herd waits for an answer that it cannot have. Later ones know.
TEST_CASE("Attack: a private route under a herd is not queued for twice: " TEST_SERVER) {
  RuleSite site(Counting({200, {{"Set-Cookie", "a=1"}}, ""}));
  site.PageAtOnce({"", "", ""});
  CHECK(site.runs() == 3);
  CHECK(site.GetStats().executions == 1);
  CHECK(site.GetStats().followers == 2);
  CHECK(DifferentBodies(site.PageAtOnce({"", "", "", ""})).size() == 4);  // all inside at once
  CHECK(site.runs() == 7);
  CHECK(site.GetStats().executions == 1);
}

TEST_CASE("After an answer that can be shared, a route is coalesced again: " TEST_SERVER) {
  std::atomic<bool> is_private = true;
  RuleSite site([&](const Seen&) {
    return Reply{200, {{is_private ? "Set-Cookie" : "X-None", "a=1"}}, ""};
  });
  site.PageAtOnce({""});
  is_private = false;
  site.PageAtOnce({"", ""});
  CHECK(site.runs() == 3);  // both ran alone
  site.PageAtOnce({"", ""});
  CHECK(site.runs() == 4);
}

// ---- Vary

// The first run does not see the theme. When its answer names it, the four ask again.
TEST_CASE("Requests share a run for each variant that Vary tells apart: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) {
    return Reply{200, {{"Vary", "X-Theme"}}, "in " + seen.Header("X-Theme")};
  });
  const Strings arguments = {"-H 'X-Theme: dark'", "-H 'x-theme:  dark '", "-H 'X-Theme: light'",
                             "-H 'X-Theme: light'"};
  const Strings bodies = {"in dark", "in dark", "in light", "in light"};
  CHECK(BodiesOf(site.PageAtOnce(arguments)) == bodies);
  CHECK(site.runs() == 3);
  CHECK(site.GetStats().followers == 3 + 2);
}

TEST_CASE("A header in ignore_vary has no effect in Vary: " TEST_SERVER) {
  RuleSite site(Counting({200, {{"Vary", "user-agent"}}, ""}), {.ignore_vary = {"User-Agent"}});
  CHECK(DifferentBodies(site.PageAtOnce({"-A a", "-A b", "-A c"})).size() == 1);
  CHECK(site.runs() == 1);
}

// ---- The target

TEST_CASE("With sort_query, requests share whatever the order of parameters: " TEST_SERVER) {
  RuleSite site([](const Seen& seen) { return Reply{200, {}, seen.target}; }, {.sort_query = true});
  CHECK(BodiesOf(site.AtOnce({{"/page?b=2&a=1"}, {"/page?a=1&b=2"}, {"/page?a=2&b=1"}})) ==
        Strings{"/page?a=1&b=2", "/page?a=1&b=2", "/page?a=2&b=1"});
  CHECK(site.runs() == 2);
}

TEST_CASE("Parameters that are left out of the key are not seen: " TEST_SERVER) {
  const auto target = [](const Seen& seen) { return Reply{200, {}, seen.target}; };
  RuleSite some(target, {.ignore_parameters = {"utm_source"}});
  CHECK(BodiesOf(some.AtOnce({{"/page?a=1&utm_source=x"}, {"/page?utm_source=y&a=1"}})) ==
        Strings{"/page?a=1", "/page?a=1"});
  CHECK(some.runs() == 1);
  RuleSite all(target, {.ignore_query = true});
  CHECK(BodiesOf(all.AtOnce({{"/page?a=1"}, {"/page?b"}, {"/page"}})) ==
        Strings{"/page", "/page", "/page"});
  CHECK(all.runs() == 1);
}

// ---- Waiting

TEST_CASE("A request beyond a limit of the group gets a 503 with Retry-After: " TEST_SERVER) {
  RuleSite site(Counting(), {}, {.max_callers_per_call = 1});
  const auto pages = site.PageAtOnce({"", ""});
  CHECK(pages[0].body == "answer 1");
  CHECK(pages[1].status == 503);
  CHECK(pages[1].Has("Retry-After: 1"));
}

TEST_CASE("With OnTimeout::kRunAlone, a follower that times out runs the handler: " TEST_SERVER) {
  std::atomic<int> runs = 0;
  TestServer server({});
  server.Serve("/page",
               {[&](const Seen&, bool begins, const test::StopToken&) {
                  if (begins) ++runs;
                  return runs == 2;
                },
                Counting()},
               {.timeout = std::chrono::milliseconds(1), .on_timeout = OnTimeout::kRunAlone});
  const auto pages =
      test::CurlAtOnce(server.Start(), {{"/page"}, {"/page"}}, [&] { return runs == 1; });
  CHECK(DifferentBodies(pages) == std::set<std::string>{"answer 1", "answer 2"});
  CHECK(runs == 2);
  CHECK(server.GetStats().left == 1);
}

// ---- Writes

TEST_CASE(
    "Attack: a read after a write was answered never gets a page from before it: " TEST_SERVER) {
  std::atomic<int> reads = 0;
  TestServer server({});
  server.Serve("/page",
               {[&](const Seen&, bool begins, const test::StopToken&) {
                  if (begins) ++reads;
                  return reads == 2;  // the first read is held until the second one runs
                },
                Counting()},
               {});
  server.ServeWrite("/page", {[](const Seen&, bool, const test::StopToken&) { return true; },
                              [](const Seen&) { return Reply{204}; }});
  const int port = server.Start();
  RawClient before(port);
  before.Get("/page");
  test::Await([&] { return reads == 1; });
  CHECK(test::Curl(port, "/page?of=1", "-X POST -d x").status == 204);
  CHECK(test::Curl(port, "/page").status == 200);  // it does not wait for the first read
  CHECK(reads == 2);
  CHECK(server.GetStats().followers == 0);
}

// ---- Clients that go

namespace {

// Holds each run until it is told to finish or to stop.
struct HeldRuns {
  std::function<bool(const Seen&, bool, const test::StopToken&)> Ready() {
    return [this](const Seen&, bool begins, const test::StopToken& stop) {
      if (begins) ++begun;
      const bool stops = stop.stop_requested();
      if (stops) stopped = true;
      return stops || finish;
    };
  }
  std::atomic<int> begun = 0;
  std::atomic<bool> stopped = false, finish = false;
};

}  // namespace

TEST_CASE("A client that hangs up leaves, and the others get the answer: " TEST_SERVER) {
  HeldRuns runs;
  TestServer server({});
  server.ServeStoppable("/page", {runs.Ready(), Counting()}, {});
  const int port = server.Start();
  RawClient leader(port), follower(port), stays(port);
  leader.Get("/page");
  test::Await([&] { return runs.begun == 1; });
  follower.Get("/page");
  stays.Get("/page", "Connection: close\r\n");
  test::Await([&] { return server.GetStats().followers == 2; });
  follower.Close();
  test::Await([&] { return server.GetStats().left == 1; });
  leader.Close();
  test::Await([&] { return server.GetStats().left == 2; });
  CHECK(!runs.stopped);
  runs.finish = true;
  CHECK(stays.ReceiveAll().ends_with("answer 1"));
  CHECK(runs.begun == 1);
}

TEST_CASE("When the last client has hung up, the work is asked to stop: " TEST_SERVER) {
  HeldRuns runs;
  TestServer server({});
  server.ServeStoppable("/page", {runs.Ready(), Counting()}, {});
  const int port = server.Start();
  RawClient leader(port), follower(port);
  leader.Get("/page");
  test::Await([&] { return runs.begun == 1; });
  follower.Get("/page");
  test::Await([&] { return server.GetStats().followers == 1; });
  leader.Close();
  follower.Close();
  test::Await([&] { return runs.stopped.load(); });
  test::Await([&] { return server.GetStats().in_flight == 0; });
  CHECK(server.GetStats().left == 2);

  runs.finish = true;
  CHECK(test::Curl(port, "/page").status == 200);  // a newcomer starts afresh
  CHECK(runs.begun == 2);
}

TEST_CASE("A request that runs alone is asked to stop when its client hangs up: " TEST_SERVER) {
  HeldRuns runs;
  TestServer server({});
  server.ServeStoppable("/page", {runs.Ready(), Counting()}, {});
  const int port = server.Start();
  RawClient client(port);
  client.Get("/page", "Cookie: a=1\r\n");
  test::Await([&] { return runs.begun == 1; });
  client.Close();
  test::Await([&] { return runs.stopped.load(); });
  CHECK(server.GetStats() == singleflight::Stats());
}

TEST_CASE("What a client sends while its request is handled is its next request: " TEST_SERVER) {
  HeldRuns runs;
  TestServer server({});
  server.ServeStoppable("/page", {runs.Ready(), Counting()}, {});
  const int port = server.Start();
  RawClient client(port);
  client.Get("/page");
  test::Await([&] { return runs.begun == 1; });
  client.Get("/page", "Connection: close\r\n");
  runs.finish = true;
  CHECK(test::CountAnswers(client.ReceiveAll()) == 2);
  CHECK(!runs.stopped);
  CHECK(server.GetStats().left == 0);
}
