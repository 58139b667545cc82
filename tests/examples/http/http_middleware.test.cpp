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
#include <utility>
#include <vector>

#include "examples/curl.hpp"
#include "examples/raw_client.hpp"
#include "support/catch.hpp"
#include "support/http_service.hpp"
#include "support/support.hpp"

namespace {

using httplib::Request;
using httplib::Response;
using test::Curl;
using test::CurlRequest;
using test::Page;
using Options = SharingOptions;

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
    thread_ = test::JoiningThread([this] { server_.listen_after_bind(); });
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
  test::JoiningThread thread_;
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

// Returns the value of a cookie, as an application would that knows its sessions.
std::string UserOf(const HttpRequestView& request) {
  for (const std::string_view cookies : http_text::ValuesOf(request.fields, "Cookie")) {
    const std::size_t at = cookies.find("sid=");
    if (at != cookies.npos)
      return std::string(cookies.substr(at + 4, cookies.find(';', at) - at - 4));
  }
  return "nobody";
}

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
  for (const Options& options : std::vector<Options>{{}, {.vary = {"Cookie"}}}) {
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

TEST_CASE("One user's requests share if a derived header stands for the cookies") {
  Site site;
  site.Serve(
      [](const Request& request, Response& response) {
        response.set_content(
            request.get_header_value("X-User") + ", not " + request.get_header_value("Cookie"),
            "text/plain");
      },
      {.derive = {{.name = "X-User", .from = {"Cookie"}, .value = UserOf}}});
  const auto pages = site.PageAtOnce({"-b 'seen=1; sid=ann'", "-b 'sid=ann; seen=2'",
                                      "-b sid=bob -H 'X-User: ann'", "-H 'X-User: ann'"});
  CHECK(Bodies(pages) == Strings{"ann, not ", "ann, not ", "bob, not ", "nobody, not "});
  CHECK(site.runs() == 3);
}

TEST_CASE("One user's requests do not share if nothing names the cookie") {
  Site site;
  site.Serve(TellWhoAsked);
  CHECK(site.PageAtOnce({"-b sid=ann", "-b sid=ann"})[1].body == "for [sid=ann] []");
  CHECK(site.runs() == 2);
  CHECK(site.pages().GetStats() == singleflight::Stats());
}

TEST_CASE("Two users with passwords never see each other's page") {
  for (const Options& options : std::vector<Options>{{}, {.vary = {"authorization"}}}) {
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

TEST_CASE("A request does not share if vary names its cookie but not its password") {
  Site site;
  site.Serve(TellWhoAsked, {.vary = {"Cookie"}});
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

TEST_CASE("A response whose headers say so goes to its leader only") {
  const std::vector<std::pair<std::string, std::string>> headers = {
      {"Cache-Control", "private"},
      {"Cache-Control", "max-age=1, No-Store"},
      {"Cache-Control", "private=\"X-Name\""},
      {"CDN-Cache-Control", "no-store"},
      {"Cloudflare-CDN-Cache-Control", "private"},
      {"Surrogate-Control", "no-store"},
      {"Cache-Control", "no-cache"}};
  for (const auto& [name, value] : headers) {
    INFO(name << ": " << value);
    Site site;
    site.Serve(Numbered([name = name, value = value](Response& response, const std::string&) {
      response.set_header(name, value);
    }));
    const auto pages = site.PageAtOnce({"", "", ""});
    CHECK(pages[0].body == "answer 1");
    CHECK(std::set<std::string>{pages[1].body, pages[2].body} ==
          std::set<std::string>{"answer 2", "answer 3"});
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("An answer that is a decision about a client goes to that client only") {
  for (const int status : {401, 403, 407, 408, 421, 425, 429}) {
    INFO(status);
    Site site;
    site.Serve([&site, status](const Request&, Response& response) {
      response.status = site.runs() == 1 ? status : 200;
    });
    std::multiset<int> statuses;
    for (const Page& page : site.PageAtOnce({"", "", ""})) statuses.insert(page.status);
    CHECK(statuses.count(status) <= 1);
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("An answer that is an error of the server goes to all that wait for it") {
  for (const int status : {404, 410, 500, 503}) {
    Site site;
    site.Serve([status](const Request&, Response& response) { response.status = status; });
    for (const Page& page : site.PageAtOnce({"", "", ""})) CHECK(page.status == status);
    CHECK(site.runs() == 1);
  }
}

// The first run does not see the theme. When its answer names it, the four ask again.
TEST_CASE("Followers of a response with Vary join those whose headers agree with theirs") {
  Site site;
  std::atomic<int> runs = 0;
  site.server().Get(
      "/page", Coalesce(site.pages(), [&](const Request& request, Response& response) {
        ++runs;
        const std::uint64_t followers = request.has_header("X-Theme") ? 3 + 2 : 3;
        test::Await([&] { return site.pages().GetStats().followers == followers; });
        response.set_header("Vary", "X-Theme");
        response.set_content("in " + request.get_header_value("X-Theme"), "text/plain");
      }));
  site.Start();
  const auto at_once = [&] {
    return Bodies(test::CurlAtOnce(site.port(),
                                   {{"/page", "-H 'X-Theme: dark'"},
                                    {"/page", "-H 'x-theme: dark'"},
                                    {"/page", "-H 'X-Theme: light'"},
                                    {"/page", "-H 'X-Theme: light'"}},
                                   [&] { return runs == 1; }));
  };
  CHECK(at_once() == Strings{"in dark", "in dark", "in light", "in light"});
  CHECK(runs == 3);
  CHECK(Curl(site.port(), "/page", "-H 'X-Theme: dark'").body == "in dark");
  CHECK(runs == 4);  // what Vary names is remembered, so the run sees the theme at once
}

TEST_CASE("A response with Vary goes to all followers without the header that it names") {
  Site site;
  site.Serve(Numbered([](Response& response, const std::string&) {
    response.set_header("Vary", "Cookie, Origin");
  }));
  CHECK(Bodies(site.PageAtOnce({"", "", ""})) == Strings{"answer 1", "answer 1", "answer 1"});
  CHECK(site.runs() == 1);
}

TEST_CASE("A header in ignore_vary may stand in Vary without an effect") {
  Site site;
  site.Serve(Numbered([](Response& response, const std::string&) {
               response.set_header("Vary", "user-agent, X-Other");
             }),
             {.ignore_vary = {"User-Agent", "X-Other"}});
  CHECK(Bodies(site.PageAtOnce({"-A a", "-A b", "-H 'X-Other: 1'"})) ==
        Strings{"answer 1", "answer 1", "answer 1"});
  CHECK(site.runs() == 1);
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

TEST_CASE("HTTP requests whose parameters have another order share if the query is sorted") {
  const auto answer = [](const Request& request, Response& response) {
    response.set_content(
        request.get_param_value("a") + request.get_param_value("b") + " " + request.target,
        "text/plain");
  };
  const std::vector<CurlRequest> asks = {
      {"/page?a=1&b=2"}, {"/page?b=2&a=1"}, {"/page?a=2&b=1"}, {"/page?a=12&b"}};
  {
    Site site;
    site.Serve(answer, {.sort_query = true});
    CHECK(Bodies(site.AtOnce(asks)) ==
          Strings{"12 /page?a=1&b=2", "12 /page?a=1&b=2", "21 /page?a=2&b=1", "12 /page?a=12&b"});
    CHECK(site.runs() == 3);
  }
  Site site;  // a handler may see the order, for example that of a signed URL
  site.Serve(answer);
  CHECK(Bodies(site.AtOnce(asks)) ==
        Strings{"12 /page?a=1&b=2", "12 /page?b=2&a=1", "21 /page?a=2&b=1", "12 /page?a=12&b"});
  CHECK(site.runs() == 4);
}

TEST_CASE("A parameter that is left out of the key is not seen by the handler") {
  const auto answer = [](const Request& request, Response& response) {
    response.set_content(request.target + " " + std::to_string(request.params.size()),
                         "text/plain");
  };
  const std::vector<CurlRequest> asks = {
      {"/page?a=1&utm_source=x"}, {"/page?utm_source=y&a=1"}, {"/page?a=1"}, {"/page?a=2"}};
  Site site;
  site.Serve(answer, {.ignore_parameters = {"utm_source"}});
  CHECK(Bodies(site.AtOnce(asks)) ==
        Strings{"/page?a=1 1", "/page?a=1 1", "/page?a=1 1", "/page?a=2 1"});
  CHECK(site.runs() == 2);
  Site without_query;
  without_query.Serve(answer, {.ignore_query = true});
  CHECK(Bodies(without_query.AtOnce(asks)) == Strings{"/page 0", "/page 0", "/page 0", "/page 0"});
  CHECK(without_query.runs() == 1);
}

// If two queries have the same key, the server must give the handler the same parameters.
TEST_CASE("HTTP queries with the same key have the same parameters") {
  const Strings pieces = {"a=1", "a=2", "b=1", "A=1", "a", "", "%61=1", "=a=2", "+a=2"};
  std::map<std::string, std::set<httplib::Params>> meanings;
  int requests = 0;
  int copies_that_differ = 0;
  std::mutex mutex;
  Site site;
  HttpSharing sharing;
  const HttpRoute route(sharing, {.sort_query = true});
  site.server().Get("/", [&](const Request& request, Response&) {
    const std::scoped_lock lock(mutex);
    ++requests;
    const HttpAsk ask(route, {request.method, request.target, {}});
    meanings[ask.Key()].insert(request.params);
    if (httplib_adapter::CopyOf(ask.Visible(), request).params != request.params) {
      ++copies_that_differ;
    }
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
  CHECK(copies_that_differ == 0);
}

TEST_CASE("Conditional HTTP requests share, and each gets the 304 that it may have") {
  Site site;
  site.Serve([](const Request& request, Response& response) {
    response.set_content(request.has_header("If-None-Match") ? "seen" : "page", "text/plain");
    response.set_header("ETag", "W/\"1\"");
  });
  const auto pages =
      site.PageAtOnce({"-H 'If-None-Match: \"1\"'", "", "-H 'If-None-Match: \"0\", W/\"1\"'",
                       "-H 'If-None-Match: \"0\"'"});
  CHECK(pages[0].status == 304);
  CHECK(pages[1].status == 200);
  CHECK(pages[2].status == 304);
  CHECK(pages[3].status == 200);
  CHECK(pages[2].Has("ETag: W/\"1\""));
  CHECK(Bodies(pages) == Strings{"", "page", "", "page"});
  CHECK(site.runs() == 1);
}

TEST_CASE("HTTP requests for a range run alone, and each gets its part") {
  Site site;
  site.Serve(
      [](const Request&, Response& response) { response.set_content("0123456789", "text/plain"); });
  const auto pages = site.PageAtOnce({"-r 0-3", "-r 4-7", "-r 0-3", "", ""});
  CHECK(Bodies(pages) == Strings{"0123", "4567", "0123", "0123456789", "0123456789"});
  CHECK(pages[2].status == 206);
  CHECK(pages[2].Has("Content-Range: bytes 0-3/10"));
  CHECK(pages[3].status == 200);
  CHECK(site.runs() == 4);
}

TEST_CASE("HTTP requests that differ in a header that selects the answer do not share") {
  Site site;
  site.Serve(Numbered(), {.vary = {"X-Tenant"}});
  site.PageAtOnce({"", "-H 'Accept: text/html'", "-H 'Accept-Language: de'", "-H 'Host: other'",
                   "-H 'x-tenant: 1'", "-H 'X-Tenant: 2'"});
  CHECK(site.runs() == 6);
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

TEST_CASE("The clients of one HTTP answer are sent one body, however many they are") {
  constexpr std::size_t kClients = 8;
  ResponseGroup<Response> pages;
  const auto handler = Coalesce(pages, [&](const Request&, Response& response) {
    test::AwaitCallersOfEach(pages, kClients);
    response.set_content(std::string(4 << 20, 'x'), "text/plain");
  });
  Request request;
  request.method = "GET";
  request.target = request.path = "/";
  std::vector<Response> responses(kClients);
  std::vector<test::JoiningThread> threads;
  for (Response& response : responses) threads.emplace_back([&] { handler(request, response); });
  threads.clear();

  std::set<const char*> bodies;
  for (const Response& response : responses) {
    CHECK(response.body.empty());
    CHECK(response.content_length_ == 4 << 20);
    httplib::DataSink sink;
    sink.write = [&bodies](const char* body, std::size_t size) {
      bodies.insert(body);
      return size == 100;
    };
    CHECK(response.content_provider_(0, 100, sink));
  }
  CHECK(bodies.size() == 1);
}

TEST_CASE("A small HTTP answer is copied for each client, so that httplib can compress it") {
  Site site;
  site.Serve([](const Request&, Response& response) {
    response.set_content(std::string(60'000, 'x'), "text/plain");
  });
  for (const Page& page : site.PageAtOnce({"--compressed", "--compressed"})) {
    CHECK(page.body == std::string(60'000, 'x'));
  }
  CHECK(site.runs() == 1);
}

TEST_CASE("If the function of a derived header throws, the client gets the 500") {
  Site site;
  site.Serve(Numbered(),
             {.derive = {{.name = "X-User", .value = [](const HttpRequestView&) -> std::string {
                            throw std::runtime_error("no session store");
                          }}}});
  CHECK(Curl(site.port(), "/page").status == 500);
  CHECK(site.runs() == 0);
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

// The client that leaves started the run. The part that the other handler makes is for all.
TEST_CASE("A client that hangs up does not spoil what one coalesced HTTP handler asks of another") {
  Site site;
  const auto part = Coalesce(site.pages(), [](const Request&, Response& response) {
    response.set_content("part", "text/plain");
  });
  test::StopToken first_has_gone;
  std::atomic<bool> leads = false;
  site.server().set_pre_routing_handler([&](const Request& request, Response&) {
    if (request.has_header("X-First")) first_has_gone = ClientConnection::HasGone();
    return httplib::Server::HandlerResponse::Unhandled;
  });
  site.server().Get("/page",
                    Coalesce(site.pages(), [&](const Request& request, Response& response) {
                      leads = true;
                      test::Await([&] { return first_has_gone.stop_requested(); });
                      part(request, response);
                    }));
  site.Start();
  test::RawClient first(site.port()), second(site.port());
  first.Get("/page", "X-First: 1\r\n");
  test::Await([&] { return leads.load(); });
  second.Get("/page", "Connection: close\r\n");
  test::Await([&] { return site.pages().GetStats().followers == 1; });
  first.Close();
  const std::string answer = second.ReceiveAll();
  CHECK(answer.starts_with("HTTP/1.1 200 "));
  CHECK(answer.ends_with("part"));
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
  ServeStats(site.server(), [&] { return singleflight::Metrics().Add("pages", site.pages()); });
  site.Serve(Numbered());
  site.PageAtOnce({"", "", ""});
  singleflight::Metrics expected;
  expected.Add("pages", singleflight::Stats{.executions = 1, .followers = 2});
  const Page json = Curl(site.port(), "/stats");
  CHECK(json.Has("Content-Type: application/json"));
  CHECK(json.body == WriteJson(expected));
  const Page prometheus = Curl(site.port(), "/metrics");
  CHECK(prometheus.Has("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
  CHECK(prometheus.body == WritePrometheus(expected));
}
