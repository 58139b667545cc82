// SPDX-License-Identifier: MIT

// Tests the middleware for Asio. curl plays the browsers of users that ask at the same time.

#include "adapters/asio_middleware.hpp"

#include <asio.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "examples/curl.hpp"
#include "support/asio_http.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

using Strings = std::vector<std::string>;
using test::Page;
using Options = SharingOptions;
using Answer = std::function<HttpResponse(const HttpRequest&)>;

std::string HeaderOf(const HttpRequest& request, std::string_view name) {
  const auto values = http_text::ValuesOf(request.headers, name);
  return values.empty() ? "" : std::string(values.front());
}

// A server whose handler, a coroutine, answers when all requests have come that a test sends at
// once. So requests that may share do share, and all others are inside it at the same time.
class Site {
 public:
  explicit Site(Answer answer, Options options = {}, singleflight::GroupOptions limits = {})
      : pages_(limits),
        answer_(std::move(answer)),
        server_(io_, Coalesce(
                         pages_, [this](const HttpRequest& request) { return Wait(request); },
                         std::move(options))),
        port_(server_.Listen(0)) {}
  ~Site() { io_.stop(); }

  int runs() const { return runs_; }  // how often the handler has run
  singleflight::Stats GetStats() const { return pages_.GetStats(); }

  // Sends the requests at once, and returns what each got. The first one leads, if it may.
  std::vector<Page> AtOnce(const std::vector<test::CurlRequest>& asks) {
    return AtOnce(asks, asks.size());
  }
  // Does the same, but the handler waits for `together` requests.
  std::vector<Page> AtOnce(const std::vector<test::CurlRequest>& asks, std::size_t together) {
    together_ = together;
    return test::CurlAtOnce(port_, asks, [this] { return runs_ == 1; });
  }

  // Does the same for requests of /page with these arguments of curl.
  std::vector<Page> PageAtOnce(const Strings& arguments) {
    std::vector<test::CurlRequest> asks;
    for (const std::string& of_one : arguments) asks.push_back({"/page", of_one});
    return AtOnce(asks);
  }

 private:
  asio::awaitable<HttpResponse> Wait(const HttpRequest& request) {
    ++runs_;
    // A request whose theme is visible asks for the second time: see the test of Vary.
    const std::size_t times = http_text::Has(request.headers, "X-Theme") ? 2 : 1;
    for (bool all = false; !all;) {
      co_await asio::post(io_, asio::use_awaitable);
      const singleflight::Stats stats = pages_.GetStats();
      all = static_cast<std::size_t>(runs_) + stats.followers + stats.refused >= times * together_;
    }
    co_return answer_(request);
  }

  ResponseGroup<HttpResponse> pages_;
  asio::io_context io_{1};
  std::atomic<int> runs_ = 0;
  std::atomic<std::size_t> together_ = 1;
  const Answer answer_;
  AsioServer server_;
  const int port_;
  test::JoiningThread thread_{[this] { io_.run(); }};
};

// Makes an answer that only this user may see.
HttpResponse TellWhoAsked(const HttpRequest& request) {
  return {"200 OK", {}, "for [" + HeaderOf(request, "Cookie") + "]"};
}

// Returns a handler that makes a different answer in each run.
Answer Numbered(HttpHeaders headers = {}) {
  return [headers, runs = std::make_shared<int>(0)](const HttpRequest&) {
    return HttpResponse{"200 OK", headers, "answer " + std::to_string(++*runs)};
  };
}

Strings Bodies(const std::vector<Page>& pages) {
  Strings bodies;
  for (const Page& page : pages) bodies.push_back(page.body);
  return bodies;
}

}  // namespace

TEST_CASE(
    "Equal HTTP requests that browsers send at the same time run a coalesced coroutine once") {
  Site site([](const HttpRequest& request) {
    return HttpResponse{"203 As It Were", {{"X-Twice", "1"}, {"X-Twice", "2"}}, request.target};
  });
  for (const Page& page : site.AtOnce({{"/page?a=1&b=2"}, {"/page?a=1&b=2"}})) {
    CHECK(page.status == 203);
    CHECK(page.Has("X-Twice: 1\r\nX-Twice: 2"));
    CHECK(page.body == "/page?a=1&b=2");
  }
  CHECK(site.runs() == 1);
}

TEST_CASE("Two users with cookies never see each other's page from Asio") {
  for (const Options& options : std::vector<Options>{{}, {.vary = {"Cookie"}}}) {
    Site site(TellWhoAsked, options);
    CHECK(Bodies(site.PageAtOnce({"-b sid=ann", "-b sid=bob", "-H 'COOKIE:sid=cleo'"})) ==
          Strings{"for [sid=ann]", "for [sid=bob]", "for [sid=cleo]"});
    CHECK(site.runs() == 3);
  }
}

TEST_CASE("One user's requests to Asio share if vary names the cookie") {
  Site site(TellWhoAsked, {.vary = {"cookie"}});
  CHECK(Bodies(site.PageAtOnce({"-b sid=ann", "-b sid=ann", "-b sid=bob"})) ==
        Strings{"for [sid=ann]", "for [sid=ann]", "for [sid=bob]"});
  CHECK(site.runs() == 2);
}

TEST_CASE("Two users with passwords never see each other's page from Asio") {
  Site site([](const HttpRequest& request) {
    return HttpResponse{"200 OK", {}, HeaderOf(request, "Authorization")};
  });
  CHECK(Bodies(site.PageAtOnce({"-u ann:1", "-u bob:2"})) ==
        Strings{"Basic YW5uOjE=", "Basic Ym9iOjI="});
  CHECK(site.runs() == 2);
}

TEST_CASE(
    "An Asio response for one request goes to its leader only, and each follower gets its own") {
  for (const HttpHeaders& headers : std::vector<HttpHeaders>{{{"Set-Cookie", "sid=1"}},
                                                             {{"Cache-Control", "private"}},
                                                             {{"Cache-Control", "No-Store"}},
                                                             {{"Vary", "*"}}}) {
    Site site(Numbered(headers));
    const auto pages = site.PageAtOnce({"", "", ""});
    CHECK(pages[0].body == "answer 1");
    CHECK(std::set<std::string>{pages[1].body, pages[2].body} ==
          std::set<std::string>{"answer 2", "answer 3"});
    CHECK(site.runs() == 3);
  }
}

// The first run does not see the theme. When its answer names it, the four ask again.
TEST_CASE("Followers of an Asio response with Vary join those whose headers agree with theirs") {
  Site site([](const HttpRequest& request) {
    return HttpResponse{"200 OK", {{"Vary", "X-Theme"}}, HeaderOf(request, "X-Theme")};
  });
  CHECK(Bodies(site.PageAtOnce({"-H 'X-Theme: dark'", "-H 'x-theme:  dark '", "-H 'X-Theme: light'",
                                "-H 'X-Theme: light'"})) ==
        Strings{"dark", "dark", "light", "light"});
  CHECK(site.runs() == 3);
  CHECK(site.GetStats().followers == 3 + 2);
}

TEST_CASE("On Asio, HEAD shares with HEAD and not with GET, and POST is not shared") {
  Site site([](const HttpRequest& request) {
    return HttpResponse{"200 OK", {}, "to " + request.method};
  });
  const auto pages = site.PageAtOnce({"", "--head", "--head", "-X POST", "-X POST"});
  CHECK(Bodies(pages) == Strings{"to GET", "", "", "to POST", "to POST"});
  CHECK(pages[2].Has("Content-Length: 7"));
  CHECK(site.runs() == 4);
}

TEST_CASE("The clients of one Asio answer are sent one body, however many they are") {
  constexpr std::size_t kClients = 200;
  ResponseGroup<HttpResponse> pages;
  asio::io_context io(1);
  const HttpHandler handler =
      Coalesce(pages, [&](const HttpRequest&) -> asio::awaitable<HttpResponse> {
        while (!test::HadCallersEach(pages, kClients)) co_await asio::post(io, asio::use_awaitable);
        co_return HttpResponse{"200 OK", {}, std::string(4 << 20, 'x')};
      });
  const HttpRequest request{.method = "GET", .target = "/"};
  std::vector<HttpResponse> responses(kClients);
  for (HttpResponse& response : responses) {
    asio::co_spawn(io, handler(request), [&response](std::exception_ptr, HttpResponse got) {
      response = std::move(got);
    });
  }
  io.run();
  std::set<const char*> bodies;
  for (const HttpResponse& response : responses) {
    CHECK(response.body.Text().size() == 4 << 20);
    bodies.insert(response.body.Text().data());
  }
  CHECK(bodies.size() == 1);
}

TEST_CASE("If a coalesced coroutine throws, all its callers get the 500") {
  Site site([](const HttpRequest&) -> HttpResponse { throw std::runtime_error("broken"); });
  for (const Page& page : site.PageAtOnce({"", ""})) {
    CHECK(page.status == 500);
    CHECK(page.body == "broken");
  }
  CHECK(site.runs() == 1);
  CHECK(site.GetStats().failures == 1);
}

TEST_CASE(
    "If a coalesced coroutine throws what is no std::exception, its callers get the 500 too") {
  Site site([](const HttpRequest&) -> HttpResponse { throw 1; });
  for (const Page& page : site.PageAtOnce({"", ""})) CHECK(page.status == 500);
  CHECK(site.runs() == 1);
}

TEST_CASE("An exception of a coalesced coroutine is never mistaken for a refusal") {
  Site site([](const HttpRequest&) -> HttpResponse {
    throw std::system_error(std::make_error_code(std::errc::timed_out), "the backend");
  });
  for (const Page& page : site.PageAtOnce({"", ""})) CHECK(page.status == 500);
  CHECK(site.runs() == 1);
}

TEST_CASE("A request to Asio that a limit of the group refuses gets a 503 with Retry-After") {
  Site site(Numbered(), {}, {.max_callers_per_call = 1});
  const auto pages = site.PageAtOnce({"", ""});
  CHECK(pages[0].body == "answer 1");
  CHECK(pages[1].status == 503);
  CHECK(pages[1].Has("Retry-After: 1"));
  CHECK(site.runs() == 1);
}

TEST_CASE(
    "A request to Asio that has waited too long gets a 503 with Retry-After, and its run "
    "continues") {
  Site site(Numbered(), {.timeout = std::chrono::milliseconds(1)});
  const auto pages = site.AtOnce({{"/page"}}, 2);  // the second request comes later
  CHECK(pages[0].status == 503);
  CHECK(pages[0].Has("Retry-After: 1"));
  CHECK(site.GetStats().left == 1);
  CHECK(site.GetStats().in_flight == 1);
  CHECK(site.runs() == 1);
}
