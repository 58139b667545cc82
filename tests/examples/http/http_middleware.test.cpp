// SPDX-License-Identifier: MIT

// Tests the middleware for cpp-httplib. curl plays the browsers of users that ask at the same time.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "examples/curl.hpp"
#include "support/catch.hpp"
#include "support/http_service.hpp"
#include "support/support.hpp"

namespace {

using httplib::Request;
using httplib::Response;
using test::Curl;
using test::CurlRequest;
using test::Page;
using Options = SharingOptions<Request>;

// A server whose handlers answer when all requests have come that a test sends at once. So requests
// that may share do share, and all others are inside their handlers at the same time.
class Site {
 public:
  explicit Site(singleflight::GroupOptions options = {}) : pages_(options) {}
  ~Site() { server_.stop(); }

  httplib::Server& server() { return server_; }
  ResponseGroup<Response>& pages() { return pages_; }
  int runs() const { return runs_; }  // how often handlers have run
  int port() const { return port_; }

  // Returns a handler that waits as described above, and then answers as `answer` does.
  httplib::Server::Handler Wait(httplib::Server::Handler answer) {
    return [this, answer = std::move(answer)](const Request& request, Response& response) {
      ++runs_;
      test::Await([this] {
        const singleflight::Stats stats = pages_.GetStats();
        return static_cast<std::size_t>(runs_) + stats.followers + stats.refused >= together_;
      });
      answer(request, response);
    };
  }

  // Serves `answer`, coalesced, as /page.
  void Serve(httplib::Server::Handler answer, Options options = {}) {
    server_.Get("/page", Coalesce(pages_, Wait(std::move(answer)), std::move(options)));
    Start();
  }

  void Start() {
    port_ = server_.Bind(0);
    REQUIRE(port_ > 0);
    thread_ = std::jthread([this] { server_.listen_after_bind(); });
    test::Await([this] { return server_.is_running(); });
  }

  // Sends the requests at once, and returns what each got. The first one leads, if it may.
  std::vector<Page> AtOnce(const std::vector<CurlRequest>& asks) {
    together_ = asks.size();
    return test::CurlAtOnce(port_, asks, [this] { return runs_ == 1; });
  }

  // Does the same for requests of /page with these arguments of curl.
  std::vector<Page> PageAtOnce(const std::vector<std::string>& arguments) {
    std::vector<CurlRequest> asks;
    for (const std::string& of_one : arguments) asks.push_back({"/page", of_one});
    return AtOnce(asks);
  }

 private:
  ResponseGroup<Response> pages_;
  std::atomic<int> runs_ = 0;
  std::atomic<std::size_t> together_ = 1;
  HerdServer server_{32};
  int port_ = -1;
  std::jthread thread_;
};

// Makes an answer that only this user may see.
void TellWhoAsked(const Request& request, Response& response) {
  response.set_content("for [" + request.get_header_value("Cookie") + "] [" +
                           request.get_header_value("Authorization") + "]",
                       "text/plain");
}

// Returns a handler that makes a different answer in each run.
httplib::Server::Handler Numbered(std::function<void(Response&, const std::string& number)> also) {
  return [also, runs = std::make_shared<std::atomic<int>>(0)](const Request&, Response& response) {
    const std::string number = std::to_string(++*runs);
    response.set_content("answer " + number, "text/plain");
    also(response, number);
  };
}
httplib::Server::Handler Numbered() {
  return Numbered([](Response&, const std::string&) {});
}

std::vector<std::string> Bodies(const std::vector<Page>& pages) {
  std::vector<std::string> bodies;
  for (const Page& page : pages) bodies.push_back(page.body);
  return bodies;
}

std::string CookieOf(const Request& request) { return request.get_header_value("Cookie"); }

}  // namespace

using Strings = std::vector<std::string>;

TEST_CASE("Equal HTTP requests that browsers send at the same time run a coalesced handler once") {
  Site site;
  site.Serve(Numbered());
  CHECK(Bodies(site.PageAtOnce({"", "", ""})) == Strings{"answer 1", "answer 1", "answer 1"});
  CHECK(site.runs() == 1);
}

// ---- Two users

TEST_CASE("Two users with cookies never see each other's page") {
  std::string (*const ignores)(const Request&) = [](const Request&) { return std::string("all"); };
  std::string (*const looks_whether)(const Request&) = [](const Request& request) {
    return std::string(request.has_header("Cookie") ? "user" : "guest");
  };
  for (const Options& options : std::vector<Options>{
           {}, {.key = ignores}, {.key = looks_whether}, {.key = CookieOf}, {.vary = {"Cookie"}}}) {
    Site site;
    site.server().Get("/login", [](const Request& request, Response& response) {
      response.set_header("Set-Cookie", "sid=" + request.get_param_value("user"));
    });
    site.Serve(TellWhoAsked, options);
    const test::CookieJar of_ann;
    const test::CookieJar of_bob;
    REQUIRE(Curl(site.port(), "/login?user=ann", of_ann.Fill()).status == 200);
    REQUIRE(Curl(site.port(), "/login?user=bob", of_bob.Fill()).status == 200);
    const auto pages = site.PageAtOnce({of_ann.Send(), of_bob.Send()});
    CHECK(Bodies(pages) == Strings{"for [sid=ann] []", "for [sid=bob] []"});
    CHECK(site.runs() == 2);
  }
}

TEST_CASE("One user's requests share if the key function includes the cookie") {
  Site site;
  site.Serve(TellWhoAsked, {.key = CookieOf});
  const auto pages = site.PageAtOnce({"-b sid=ann", "-b sid=ann", "-b sid=bob"});
  CHECK(Bodies(pages) == Strings{"for [sid=ann] []", "for [sid=ann] []", "for [sid=bob] []"});
  CHECK(site.runs() == 2);
}

TEST_CASE("One user's requests do not share if no key function includes the cookie") {
  Site site;
  site.Serve(TellWhoAsked);
  CHECK(site.PageAtOnce({"-b sid=ann", "-b sid=ann"})[1].body == "for [sid=ann] []");
  CHECK(site.runs() == 2);
  CHECK(site.pages().GetStats() == singleflight::Stats());
}

TEST_CASE("Two users with passwords never see each other's page") {
  const auto scheme = [](const Request& request) {
    return request.get_header_value("Authorization").substr(0, 6);
  };
  for (const Options& options :
       std::vector<Options>{{}, {.key = CookieOf}, {.key = scheme}, {.vary = {"authorization"}}}) {
    Site site;
    site.Serve(TellWhoAsked, options);
    CHECK(Bodies(site.PageAtOnce({"-u ann:1", "-u bob:2"})) ==
          Strings{"for [] [Basic YW5uOjE=]", "for [] [Basic Ym9iOjI=]"});
    CHECK(site.runs() == 2);
  }
}

TEST_CASE("One user's requests share if vary names Authorization") {
  Site site;
  site.Serve(TellWhoAsked, {.vary = {"authorization"}});
  site.PageAtOnce({"-u ann:1", "-u ann:1", "-u bob:2", "-u bob:2"});
  CHECK(site.runs() == 2);
}

TEST_CASE("A request does not share if the key function includes its cookie but not its password") {
  Site site;
  site.Serve(TellWhoAsked, {.key = CookieOf});
  CHECK(Bodies(site.PageAtOnce({"-b sid=1 -u ann:1", "-b sid=1 -u bob:2"})) ==
        Strings{"for [sid=1] [Basic YW5uOjE=]", "for [sid=1] [Basic Ym9iOjI=]"});
  CHECK(site.runs() == 2);
}

TEST_CASE("Users of an authenticating proxy do not share") {
  Site site;
  site.Serve(Numbered());
  site.PageAtOnce({"-H 'Proxy-Authorization: Basic YTox'", "-H 'Proxy-Authorization: Basic YTox'"});
  CHECK(site.runs() == 2);
}

TEST_CASE("A user without credentials does not get the page of a user with credentials") {
  Site site;
  site.Serve(TellWhoAsked, {.vary = {"Cookie"}});
  CHECK(Bodies(site.PageAtOnce({"-b sid=ann", "", ""})) ==
        Strings{"for [sid=ann] []", "for [] []", "for [] []"});
  CHECK(site.runs() == 2);
}

// ---- Responses for their leader only

TEST_CASE("A response that sets a cookie goes to its leader only, and each follower gets its own") {
  Site site;
  site.Serve(Numbered([](Response& response, const std::string& number) {
    response.set_header("Set-Cookie", "sid=" + number);
  }));
  std::set<std::string> bodies;
  for (const Page& page : site.PageAtOnce({"", "", ""})) {
    bodies.insert(page.body);
    CHECK(page.Has("Set-Cookie: sid=" + page.body.substr(7)));
  }
  CHECK(bodies == std::set<std::string>{"answer 1", "answer 2", "answer 3"});
  CHECK(site.runs() == 3);
}

TEST_CASE("A response with private or no-store in Cache-Control goes to its leader only") {
  for (const char* const value : {"private", "max-age=1, No-Store", "private=\"X-Name\""}) {
    Site site;
    site.Serve(Numbered([value](Response& response, const std::string&) {
      response.set_header("Cache-Control", value);
    }));
    const auto pages = site.PageAtOnce({"", "", ""});
    CHECK(pages[0].body == "answer 1");
    CHECK(std::set<std::string>{pages[1].body, pages[2].body} ==
          std::set<std::string>{"answer 2", "answer 3"});
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("A response with Vary goes to followers whose headers agree with the leader's") {
  Site site;
  site.Serve([](const Request& request, Response& response) {
    response.set_header("Vary", "X-Theme");
    response.set_content("in " + request.get_header_value("X-Theme"), "text/plain");
  });
  const auto pages = site.PageAtOnce(
      {"-H 'X-Theme: dark'", "-H 'x-theme: dark'", "-H 'X-Theme: light'", "-H 'X-Theme: light'"});
  CHECK(Bodies(pages) == Strings{"in dark", "in dark", "in light", "in light"});
  CHECK(site.runs() == 3);  // the light ones run alone, because the leader's theme is dark
}

TEST_CASE("A response with a wildcard in Vary goes to its leader only") {
  Site site;
  site.Serve(Numbered(
      [](Response& response, const std::string&) { response.set_header("Vary", "Accept, *"); }));
  site.PageAtOnce({"", ""});
  CHECK(site.runs() == 2);
}

TEST_CASE("A streamed response goes to its leader only, whole and once") {
  Site site;
  std::atomic<int> released = 0;
  site.Serve([&released](const Request&, Response& response) {
    response.set_chunked_content_provider(
        "text/plain",
        [](std::size_t offset, httplib::DataSink& sink) {
          if (offset < 100'000) {
            sink.write(std::string(10'000, 'x').data(), 10'000);
          } else {
            sink.done();
          }
          return true;
        },
        [&released](bool) { ++released; });
  });
  const std::string whole(100'000, 'x');
  const auto pages = site.PageAtOnce({"", ""});
  CHECK(pages[0].body == whole);
  CHECK(pages[1].body == whole);
  REQUIRE(site.runs() == 2);
  test::Await([&] { return released >= 2; });  // httplib calls the releaser after sending the body
  CHECK(released == 2);
}

TEST_CASE("A response of known length whose body is provided later goes to its leader only") {
  Site site;
  site.Serve([](const Request&, Response& response) {
    response.set_content_provider(
        3, "text/plain",
        [](std::size_t, std::size_t, httplib::DataSink& sink) { return sink.write("abc", 3); });
  });
  CHECK(Bodies(site.PageAtOnce({"", ""})) == Strings{"abc", "abc"});
  CHECK(site.runs() == 2);
}

// ---- Requests that are not the same

TEST_CASE("POST requests, and GET requests with a body, each run their handler") {
  Site site;
  site.server().Post("/page", Coalesce(site.pages(), site.Wait(Numbered())));
  site.Serve(Numbered());
  const std::string empty_post = "-X POST -H 'Content-Length: 0'";
  site.PageAtOnce({empty_post, empty_post, "-X GET -d x", "-X GET -d x"});
  CHECK(site.runs() == 4);
  CHECK(site.pages().GetStats() == singleflight::Stats());
}

TEST_CASE("HEAD shares with HEAD and not with GET") {
  Site site;
  site.Serve([](const Request& request, Response& response) {
    response.set_content("to " + request.method, "text/plain");
  });
  const auto pages = site.PageAtOnce({"", "--head", "", "--head"});
  CHECK(Bodies(pages) == Strings{"to GET", "", "to GET", ""});
  CHECK(pages[1].Has("Content-Length: 7"));
  CHECK(pages[3].Has("Content-Length: 7"));
  CHECK(site.runs() == 2);
}

TEST_CASE(
    "HTTP requests share if only the order of their parameters differs, and not if values differ") {
  Site site;
  site.Serve([](const Request& request, Response& response) {
    response.set_content(request.get_param_value("a") + request.get_param_value("b"), "text/plain");
  });
  const auto pages =
      site.AtOnce({{"/page?a=1&b=2"}, {"/page?b=2&a=1"}, {"/page?a=2&b=1"}, {"/page?a=12&b"}});
  CHECK(Bodies(pages) == Strings{"12", "12", "21", "12"});
  CHECK(site.runs() == 3);
}

// If two queries have the same key, the server must give the handler the same parameters.
TEST_CASE("HTTP queries with the same key have the same parameters") {
  const Strings pieces = {"a=1", "a=2", "b=1", "A=1", "a", "", "%61=1", "=a=2", "+a=2"};
  std::map<std::string, std::set<httplib::Params>> meanings;
  int requests = 0;
  std::mutex mutex;
  Site site;
  site.server().Get("/", [&](const Request& request, Response&) {
    const std::scoped_lock lock(mutex);
    ++requests;
    meanings[SharingKey(request, {}).value()].insert(request.params);
  });
  site.Start();
  std::string urls;
  for (const std::string& first : pieces) {
    for (const std::string& second : pieces) {
      for (const std::string& third : pieces) {
        urls += "'http://127.0.0.1:" + std::to_string(site.port()) + "/?" + first + "&" + second +
                "&" + third + "' ";
      }
    }
  }
  REQUIRE(Curl(site.port(), "/", urls).status == 200);
  const std::scoped_lock lock(mutex);
  CHECK(requests == 1 + 9 * 9 * 9);
  // The 125 sequences of three plain pieces have 58 different keys.
  CHECK(meanings.size() == static_cast<std::size_t>(requests - 125 + 58));
  const auto one_meaning = [](const auto& of_key) { return of_key.second.size() == 1; };
  CHECK(std::ranges::all_of(meanings, one_meaning));
}

TEST_CASE("Conditional HTTP requests share only with requests that have the same condition") {
  Site site;
  site.Serve([](const Request& request, Response& response) {
    if (request.get_header_value("If-None-Match") == "\"1\"") {
      response.status = 304;
    } else {
      response.set_content("page", "text/plain");
    }
    response.set_header("ETag", "\"1\"");
  });
  const std::string known = "-H 'If-None-Match: \"1\"'";
  const auto pages = site.PageAtOnce({known, "", known, "-H 'If-None-Match: \"0\"'"});
  CHECK(pages[0].status == 304);
  CHECK(pages[1].status == 200);
  CHECK(pages[2].status == 304);
  CHECK(pages[3].status == 200);
  CHECK(pages[2].Has("ETag: \"1\""));
  CHECK(Bodies(pages) == Strings{"", "page", "", "page"});
  CHECK(site.runs() == 3);
}

TEST_CASE("HTTP requests for a range share only with requests for the same range") {
  Site site;
  site.Serve(
      [](const Request&, Response& response) { response.set_content("0123456789", "text/plain"); });
  const auto pages = site.PageAtOnce({"-r 0-3", "-r 4-7", "-r 0-3", ""});
  CHECK(Bodies(pages) == Strings{"0123", "4567", "0123", "0123456789"});
  CHECK(pages[2].status == 206);
  CHECK(pages[2].Has("Content-Range: bytes 0-3/10"));
  CHECK(pages[3].status == 200);
  CHECK(site.runs() == 3);
}

TEST_CASE("HTTP requests that differ in a header that selects the answer do not share") {
  Site site;
  site.Serve(Numbered(), {.vary = {"X-Tenant"}});
  site.PageAtOnce({"", "-H 'Accept: text/html'", "-H 'Accept-Language: de'", "-H 'Host: other'",
                   "-H 'Origin: http://other'", "-H 'x-tenant: 1'", "-H 'X-Tenant: 2'"});
  CHECK(site.runs() == 7);
}

// ---- A follower's response

TEST_CASE("A follower gets the leader's status, headers and body") {
  Site site;
  site.Serve([](const Request&, Response& response) {
    response.set_redirect("/elsewhere", 303);
    response.set_header("X-Twice", "1");
    response.set_header("X-Twice", "2");
    response.set_content(std::string(1 << 20, 'x'), "text/html");
  });
  for (const Page& page : site.PageAtOnce({"", ""})) {
    CHECK(page.status == 303);
    CHECK(page.Has("Location: /elsewhere"));
    CHECK(page.Has("X-Twice: 1\r\nX-Twice: 2"));
    CHECK(page.Has("Content-Type: text/html"));
    CHECK(page.body == std::string(1 << 20, 'x'));
  }
  CHECK(site.runs() == 1);
}

TEST_CASE("Each response keeps the headers that the server has set in it before the handler runs") {
  Site site;
  site.server().set_default_headers({{"X-Site", "test"}, {"Content-Type", "text/none"}});
  site.server().set_pre_routing_handler([](const Request& request, Response& response) {
    response.set_header("X-Answer-To", request.get_header_value("X-Id"));
    return httplib::Server::HandlerResponse::Unhandled;
  });
  site.Serve(Numbered());
  const auto pages = site.PageAtOnce({"-H 'X-Id: a'", "-H 'X-Id: b'"});
  CHECK(pages[0].Has("X-Answer-To: a"));
  CHECK(pages[1].Has("X-Answer-To: b"));
  for (const Page& page : pages) {
    CHECK(page.Has("X-Site: test"));
    CHECK(page.Has("Content-Type: text/plain"));
    CHECK(!page.Has("Content-Type: text/none"));
  }
  CHECK(site.runs() == 1);
}

TEST_CASE(
    "Headers that the server sets before the handler runs can restrict a response to one request") {
  for (const auto& [name, value] :
       httplib::Headers{{"Set-Cookie", "sid=1"}, {"Cache-Control", "no-store"}, {"Vary", "*"}}) {
    Site site;
    site.server().set_default_headers({{name, value}});
    site.Serve(Numbered());
    site.PageAtOnce({"", ""});
    CHECK(site.runs() == 2);
  }
}

TEST_CASE("A Vary header that the server sets before the handler runs is respected") {
  Site site;
  site.server().set_default_headers({{"Vary", "X-Theme"}});
  site.Serve(Numbered());
  const auto pages = site.PageAtOnce({"-H 'X-Theme: dark'", "-H 'X-Theme: dark'", ""});
  CHECK(pages[0].body == pages[1].body);
  CHECK(pages[0].body != pages[2].body);
  CHECK(site.runs() == 2);
}

TEST_CASE("A Vary header that the server sets only in a follower's response is respected") {
  Site site;
  site.server().set_pre_routing_handler([](const Request& request, Response& response) {
    if (request.has_header("X-Theme")) response.set_header("Vary", "X-Theme");
    return httplib::Server::HandlerResponse::Unhandled;
  });
  site.Serve(Numbered());
  const auto pages = site.PageAtOnce({"", "-H 'X-Theme: dark'"});
  CHECK(pages[0].body != pages[1].body);
}

TEST_CASE("Two HTTP handlers that use one group do not share answers, even for equal requests") {
  Site site;
  const auto plain = Coalesce(site.pages(), site.Wait(Numbered()));
  const auto of_admins = Coalesce(site.pages(), site.Wait([](const Request&, Response& response) {
    response.set_content("for admins", "text/plain");
  }));
  site.server().Get("/page", [plain, of_admins](const Request& request, Response& response) {
    (request.has_header("X-Admin") ? of_admins : plain)(request, response);
  });
  site.Start();
  CHECK(Bodies(site.PageAtOnce({"-H 'X-Admin: yes'", ""})) == Strings{"for admins", "answer 1"});
}

// ---- Failures

TEST_CASE(
    "If an HTTP handler restricts its response and then throws, only the leader gets the error") {
  for (const auto& [name, value] : httplib::Headers{
           {"Set-Cookie", "sid=1"}, {"Cache-Control", "private"}, {"Vary", "X-Theme"}}) {
    Site site;
    site.server().set_exception_handler(
        [](const Request&, Response& response, std::exception_ptr) { response.status = 500; });
    site.Serve([&, name = name, value = value](const Request&, Response& response) {
      response.set_header(name, value);
      throw std::runtime_error("no such order");
    });
    for (const Page& page : site.PageAtOnce({"", ""})) CHECK(page.status == 500);
    CHECK(site.runs() == 2);
  }
}

TEST_CASE("If an HTTP handler throws, all its callers get the 500") {
  Site site;
  site.server().set_exception_handler([](const Request&, Response& response, std::exception_ptr e) {
    try {
      std::rethrow_exception(e);
    } catch (const std::exception& error) {
      response.set_content(error.what(), "text/plain");
    }
    response.status = 500;
  });
  site.Serve([](const Request&, Response& response) {
    response.set_content("half", "text/plain");
    throw std::runtime_error("broken");
  });
  for (const Page& page : site.PageAtOnce({"", ""})) {
    CHECK(page.status == 500);
    CHECK(page.body == "broken");
  }
  CHECK(site.runs() == 1);
  CHECK(site.pages().GetStats().failures == 1);
}

TEST_CASE("An exception of an HTTP handler is never mistaken for a refusal") {
  for (const std::errc code : {std::errc::timed_out, std::errc::resource_unavailable_try_again}) {
    Site site;
    site.Serve([code](const Request&, Response&) {
      throw std::system_error(std::make_error_code(code), "the backend");
    });
    for (const Page& page : site.PageAtOnce({"", ""})) CHECK(page.status == 500);
    CHECK(site.runs() == 1);
  }
}

TEST_CASE("A coalesced HTTP handler that calls itself fails with a 500, not with a 503") {
  httplib::Server::Handler handler;
  Site site;
  handler = Coalesce(site.pages(), [&](const Request& request, Response& response) {
    handler(request, response);
  });
  site.server().Get("/page", handler);
  site.Start();
  CHECK(Curl(site.port(), "/page").status == 500);
}

TEST_CASE("An HTTP request that a limit of the group refuses gets a 503 with Retry-After") {
  Site site({.max_callers_per_call = 1});
  site.Serve(Numbered());
  const auto pages = site.PageAtOnce({"", ""});
  CHECK(pages[0].body == "answer 1");
  CHECK(pages[1].status == 503);
  CHECK(pages[1].Has("Retry-After: 1"));
  CHECK(site.runs() == 1);
}

TEST_CASE("An HTTP request that has waited too long gets a 503 with Retry-After") {
  Site site;
  site.Serve(Numbered(), {.timeout = std::chrono::milliseconds(0)});
  const auto pages = site.PageAtOnce({"", ""});
  CHECK(pages[0].body == "answer 1");
  CHECK(pages[1].status == 503);
  CHECK(pages[1].Has("Retry-After: 1"));
  CHECK(site.pages().GetStats().left == 1);
}

// ---- Statistics

TEST_CASE("The HTTP server serves its groups' statistics as JSON and for Prometheus") {
  Site site;
  ServeStats(site.server(), [&] { return StatsByGroup{{"pages", site.pages().GetStats()}}; });
  site.Serve(Numbered());
  site.PageAtOnce({"", "", ""});
  const StatsByGroup expected = {{"pages", {.executions = 1, .followers = 2}}};
  const Page json = Curl(site.port(), "/stats");
  CHECK(json.Has("Content-Type: application/json"));
  CHECK(json.body == ToJson(expected));
  const Page prometheus = Curl(site.port(), "/metrics");
  CHECK(prometheus.Has("Content-Type: text/plain; version=0.0.4"));
  CHECK(prometheus.body == ToPrometheus(expected));
}
