// SPDX-License-Identifier: MIT

// Tests the rules of http_coalescing.hpp without a server: what a handler sees of a request, which
// requests share a run, and which answers may be shared.

#include <chrono>
#include <cstddef>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/http_coalescing.hpp"
#include "support/catch.hpp"

namespace {

struct Request {
  std::string method = "GET", target = "/";
  HttpFields fields = {};

  HttpRequestView View() const {
    return {method, target, {fields.begin(), fields.end()}, "192.0.2.1"};
  }
};

// A coalesced handler.
class Handler {
 public:
  explicit Handler(SharingOptions options = {}) : route_(sharing_, std::move(options)) {}

  HttpAsk Ask(const Request& request) const { return HttpAsk(route_, request.View()); }

  // Nothing: the request runs the handler alone, which sees everything.
  std::optional<std::string> KeyOf(const Request& request) const {
    const HttpAsk ask = Ask(request);
    return ask.SeesAll() ? std::nullopt : std::optional(ask.Key());
  }

  // Returns the headers that the handler sees.
  HttpFields Sees(const Request& request) const { return Ask(request).Visible().fields; }

  // Returns how many different keys the requests have. Every request must have a key.
  std::size_t DistinctKeys(const std::vector<Request>& requests) const {
    std::set<std::string> keys;
    for (const Request& request : requests) keys.insert(KeyOf(request).value());
    return keys.size();
  }

  // The same run's answer is given to a follower and judged, and remembered for later requests.
  HttpVerdict Learn(const Request& leader, const HttpFields& headers, int status = 200) const {
    return route_.Learn(Ask(leader).Visible(), {status, {headers.begin(), headers.end()}});
  }

  HttpSharing& sharing() { return sharing_; }

 private:
  HttpSharing sharing_;
  HttpRoute route_;
};

bool IsShared(const HttpFields& headers, int status = 200) {
  return Handler().Learn({}, headers, status).shareable;
}

}  // namespace

// ---- What a handler sees

TEST_CASE("A coalesced HTTP handler sees Host and the Accept headers, and nothing else") {
  const Request request{"GET",
                        "/",
                        {{"x-api-key", "1"},
                         {"ACCEPT-encoding", "gzip"},
                         {"User-Agent", "a"},
                         {"Host", "h"},
                         {"accept", "b"},
                         {"X-Forwarded-For", "c"},
                         {"Accept-Anything", "d"},
                         {"Acceptable", "e"},
                         {"accept", "f"}}};
  CHECK(Handler().Sees(request) == HttpFields{{"Accept", "b"},
                                              {"Accept", "f"},
                                              {"Accept-Anything", "d"},
                                              {"Accept-Encoding", "gzip"},
                                              {"Acceptable", "e"},
                                              {"Host", "h"}});
  CHECK(Handler({.vary = {"X-API-Key"}}).Sees(request).back() ==
        std::pair<std::string, std::string>("X-Api-Key", "1"));
}

// Whatever tells users apart, in whichever header: it is in the key, or invisible.
TEST_CASE("HTTP requests with one key look the same to the handler, whatever their headers are") {
  const char* const names[] = {"X-Api-Key",        "X-Tenant",       "Forwarded",
                               "X-Forwarded-Host", "X-Original-URL", "X-Real-IP",
                               "Cf-Access-Jwt",    "Dpop",           "X-HTTP-Method-Override",
                               "Origin",           "Remote-User",    "Ssl-Client-Cert",
                               "REMOTE_ADDR",      "Accept",         "Host",
                               "If-None-Match",    "X-\xC3\xA9",     "Cookie "};
  const Handler handler({.vary = {"X-Tenant"}});
  std::set<std::string> keys;
  std::set<HttpFields> looks;
  for (const char* const name : names) {
    for (const char* const value : {"", "alice", "bob"}) {
      const Request request{"GET", "/", {{name, value}}};
      keys.insert(handler.KeyOf(request).value());
      looks.insert(handler.Sees(request));
    }
  }
  CHECK(keys.size() == looks.size());
  CHECK(keys.size() == 1 + 3 * 3);  // without any, and three values of X-Tenant, Accept and Host
}

TEST_CASE("A header in pass is seen by the handler, and is not in the key of the HTTP request") {
  const Handler handler({.pass = {"traceparent"}});
  const Request a{"GET", "/", {{"Traceparent", "1"}}};
  CHECK(handler.Sees(a) == HttpFields{{"Traceparent", "1"}});
  CHECK(handler.KeyOf(a) == handler.KeyOf({"GET", "/", {{"traceparent", "2"}}}));
  CHECK(Handler({.vary = {"traceparent"}, .pass = {"traceparent"}}).Sees(a).size() == 1);
}

TEST_CASE("A header in pass that Vary names is in the key from then on") {
  const Handler handler({.pass = {"traceparent"}});
  const Request a{"GET", "/", {{"traceparent", "1"}}};
  HttpAsk first = handler.Ask(a);
  CHECK(!first.FitsAsFollower(handler.Learn(a, {{"Vary", "Traceparent"}})));
  const Request without;
  CHECK(!handler.Ask(without).FitsAsFollower({.shareable = true, .unseen = {"traceparent"}}));
  CHECK(handler.KeyOf(a) != handler.KeyOf({"GET", "/", {{"traceparent", "2"}}}));
}

TEST_CASE("A derived header is in the key in place of those that it stands for") {
  const auto user_of = [](const HttpRequestView& request) {
    const auto cookies = http_text::ValuesOf(request.fields, "Cookie");
    return cookies.empty() ? "guest of " + std::string(request.peer)
                           : std::string(cookies[0].substr(0, 3));
  };
  const Handler handler({.derive = {{"x-user", {"Cookie"}, user_of}}});
  const Request ann{"GET", "/", {{"Cookie", "ann; seen=1"}, {"X-User", "root"}}};
  CHECK(handler.Sees(ann) == HttpFields{{"X-User", "ann"}});
  CHECK(handler.KeyOf(ann) == handler.KeyOf({"GET", "/", {{"Cookie", "ann; seen=2"}}}));
  CHECK(handler.KeyOf(ann) != handler.KeyOf({"GET", "/", {{"Cookie", "bob"}}}));
  CHECK(handler.Sees({}) == HttpFields{{"X-User", "guest of 192.0.2.1"}});
  CHECK(handler.KeyOf({"GET", "/", {{"Cookie", "ann"}, {"Authorization", "1"}}}) == std::nullopt);
  CHECK(handler.Ask(ann).FitsAsFollower(handler.Learn(ann, {{"Vary", "Cookie, X-User"}})));
}

TEST_CASE("A derived header takes the place of what the client sends, wherever that is named") {
  const auto fixed = [](const HttpRequestView&) { return std::string("ours"); };
  const Handler handler({.vary = {"X-User"},
                         .pass = {"X-User", "X-Token"},
                         .derive = {{"Host", {}, fixed}, {"X-User", {"X-Token"}, fixed}}});
  CHECK(handler.Sees({"GET", "/", {{"Host", "a"}, {"X-User", "b"}, {"X-Token", "c"}}}) ==
        HttpFields{{"Host", "ours"}, {"X-User", "ours"}});
}

TEST_CASE("Options of a coalesced HTTP handler that cannot be right are refused") {
  HttpSharing sharing;
  for (const char* const name : {"", "X-A, X-B", "X-A ", "X:A", "*\n"}) {
    CHECK_THROWS_AS(HttpRoute(sharing, {.vary = {name}}), std::invalid_argument);
    CHECK_THROWS_AS(HttpRoute(sharing, {.pass = {name}}), std::invalid_argument);
    CHECK_THROWS_AS(HttpRoute(sharing, {.ignore_vary = {name}}), std::invalid_argument);
  }
  for (const char* const name : {"cookie", "Authorization", "PROXY-authorization"}) {
    CHECK_THROWS_AS(HttpRoute(sharing, {.pass = {name}}), std::invalid_argument);
  }
  CHECK_THROWS_AS(HttpRoute(sharing, {.derive = {{.name = "X-User", .value = {}}}}),
                  std::invalid_argument);
}

// ---- Which requests share

TEST_CASE("HTTP targets that are spelled differently have different keys") {
  const std::vector<std::string> targets = {
      "/",         "/?",         "/?a",       "/?a=",      "/?a=1",       "/?a=1&",
      "/?&a=1",    "/?a=1&&b=2", "/?a=1&b=2", "/?b=2&a=1", "/?a=1%26b=2", "/?a=1%3D&b=2",
      "/?a=1&a=1", "/?A=1",      "/?a=1?b=2", "/?=a",      "/?a%20b",     "/?a+b",
      "/%3Fa=1",   "/a/b",       "/a%2Fb",    "/a%2fb",    "/a/b/",       "/?a=/",
      "/?a=1;b=2", "/?b=2;a=1",  "/A/b",      "//",        "/?a=%00",     "/?b=2&a=1&a=1"};
  std::vector<Request> requests;
  for (const std::string& target : targets) requests.push_back({"GET", target});
  CHECK(Handler().DistinctKeys(requests) == targets.size());
}

TEST_CASE("A sorted HTTP query keeps the order of one name's values") {
  using http_text::SortedTarget;
  CHECK(SortedTarget("/?c&b=2&a=1") == "/?a=1&b=2&c");
  CHECK(SortedTarget("/?b=3&a=1&a=2") == "/?a=1&a=2&b=3");
  CHECK(SortedTarget("/?a=2&b=3&a=1") == "/?a=2&a=1&b=3");
}

// `%61` is `a`, so sorting would change the order in which a handler gets the two values of a.
// Some frameworks end a query at a second '?' or at a '#'. Others split it at ';', too.
TEST_CASE("An HTTP query is not sorted if frameworks may read it in two ways") {
  for (const char* const target :
       {"/?b=1&%61=2", "/?b=1&a+b=1", "/?=b&a=1", "/?b=1&a=1?x", "/?b=2&a=1#", "/?b=1&a=1;c=2",
        "/?b=1&&a=1", "/?b=1&a=1&", "/", "/?"}) {
    CHECK(http_text::SortedTarget(target) == target);
  }
}

TEST_CASE("Only the parameters that are named are left out of an HTTP target") {
  const auto without = [](const char* target) {
    return http_text::WithoutParameters(target, {"u", "v"});
  };
  CHECK(without("/p?u=1&a=2&v&u=3") == "/p?a=2");
  CHECK(without("/p?u=1&v=2") == "/p");
  CHECK(without("/p?U=1&%75=2&uu=3&=u&a;u=1") == "/p?U=1&%75=2&uu=3&=u&a;u=1");
  CHECK(without("/u?") == "/u?");
  CHECK(without("/u") == "/u");
}

TEST_CASE(
    "HTTP requests share whatever the order of their headers and the case of the headers' names") {
  const Handler handler;
  CHECK(handler.KeyOf({"GET", "/", {{"Host", "a"}, {"Accept", "b"}}}) ==
        handler.KeyOf({"GET", "/", {{"ACCEPT", "b"}, {"host", "a"}}}));
}

TEST_CASE("HTTP requests that differ in a header that counts have different keys") {
  const Handler handler({.vary = {"x-tenant"}});
  for (const char* const name :
       {"Host", "Accept", "Accept-Encoding", "Accept-Language", "X-Tenant"}) {
    INFO(name);
    const std::vector<Request> requests = {{"GET", "/", {}},
                                           {"GET", "/", {{name, ""}}},
                                           {"GET", "/", {{name, "a"}}},
                                           {"GET", "/", {{name, "A"}}},
                                           {"GET", "/", {{name, "a"}, {name, "b"}}},
                                           {"GET", "/", {{name, "b"}, {name, "a"}}},
                                           {"GET", "/", {{name, "a, b"}}},
                                           {"GET", "/", {{name, ""}, {name, ""}}}};
    CHECK(handler.DistinctKeys(requests) == requests.size());
  }
}

// What a client sends in one place must not look like what another sends in two.
TEST_CASE("No value in an HTTP request can make its key equal to another request's key") {
  const Handler handler({.vary = {"A", "B"}});
  CHECK(handler.DistinctKeys({{"GET", "/", {{"A", "1:B1:b"}}},
                              {"GET", "/", {{"B", "1:A1:b"}}},
                              {"GET", "/", {{"A", "b"}, {"B", "b"}}},
                              {"GET", "/", {{"A", "b1:B1:b"}}},
                              {"GET", "/", {{"A", ""}, {"B", "b"}}},
                              {"GET", "/", {{"A", std::string("b\0", 2)}}},
                              {"GET", "/", {{"A", "b"}}},
                              {"GET", "/", {{"A", "a"}, {"A", "bc"}}},
                              {"GET", "/", {{"A", "ab"}, {"A", "c"}}},
                              {"GET", "/1:A1:b", {}},
                              {"GET", "/", {{"Host", "/"}}}}) == 11);
}

TEST_CASE("Two HTTP handlers never have the same keys") {
  HttpSharing sharing;
  const HttpRoute a(sharing, {}), b(sharing, {});
  CHECK(HttpAsk(a, {"GET", "/"}).Key() != HttpAsk(b, {"GET", "/"}).Key());
}

TEST_CASE("Only GET and HEAD are shared, and not with each other") {
  const Handler handler;
  CHECK(handler.DistinctKeys({{"HEAD"}, {"GET"}}) == 2);
  for (const char* const method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""}) {
    CHECK(handler.KeyOf({method}) == std::nullopt);
  }
}

TEST_CASE("An HTTP request with a body is not shared") {
  const Handler handler;
  for (const HttpFields& fields :
       std::vector<HttpFields>{{{"Content-Length", "1"}},
                               {{"content-length", "00"}},
                               {{"Content-Length", "0"}, {"Content-Length", "1"}},
                               {{"Transfer-Encoding", "chunked"}},
                               {{"transfer-encoding", ""}}}) {
    CHECK(handler.KeyOf({"GET", "/", fields}) == std::nullopt);
  }
  CHECK(handler.KeyOf({"GET", "/", {{"Content-Length", "0"}}}) == handler.KeyOf({}));
}

TEST_CASE("An HTTP request with credentials is not shared, unless vary names them") {
  for (const char* const name : {"Authorization", "cookie", "Proxy-Authorization"}) {
    INFO(name);
    CHECK(Handler().KeyOf({"GET", "/", {{name, "a=1"}}}) == std::nullopt);
    CHECK(Handler().KeyOf({"GET", "/", {{name, ""}}}) == std::nullopt);
    CHECK(Handler({.vary = {"Accept"}}).KeyOf({"GET", "/", {{name, "a"}}}) == std::nullopt);
    const Handler named({.vary = {name}});
    CHECK(named.DistinctKeys({{"GET", "/", {}},
                              {"GET", "/", {{name, ""}}},
                              {"GET", "/", {{name, "sid=1"}}},
                              {"GET", "/", {{name, "sid=1; theme=dark"}}},
                              {"GET", "/", {{name, "sid=2"}}}}) == 5);
  }
  const Handler by_cookie({.vary = {"cookie"}});
  CHECK(by_cookie.KeyOf({"GET", "/", {{"Cookie", "1"}, {"Authorization", "1"}}}) == std::nullopt);
}

TEST_CASE("An HTTP request that asks for something unusual is not shared, unless vary names it") {
  for (const char* const name :
       {"Range", "If-Range", "If-Match", "If-Unmodified-Since", "Expect", "Upgrade"}) {
    INFO(name);
    CHECK(Handler().KeyOf({"GET", "/", {{name, "a"}}}) == std::nullopt);
    CHECK(Handler({.vary = {name}}).KeyOf({"GET", "/", {{name, "a"}}}).has_value());
  }
  const Handler handler;
  CHECK(handler.KeyOf({"GET", "/", {{"Cache-Control", "max-age=0, No-Store"}}}) == std::nullopt);
  CHECK(handler.KeyOf({"GET", "/", {{"Cache-Control", "max-age=0"}}}) == handler.KeyOf({}));
}

// ---- Which answers are shared

TEST_CASE("An HTTP response is for all followers unless it says otherwise") {
  CHECK(IsShared({}));
  CHECK(IsShared({{"Cache-Control", "public, max-age=0"}, {"Vary", "Accept, Origin"}}));
  for (const int status : {200, 204, 206, 301, 304, 400, 404, 405, 410, 416, 451, 500, 502, 503}) {
    CHECK(IsShared({}, status));
  }
}

TEST_CASE("An HTTP response that decides about one client is for its leader only") {
  for (const int status : {101, 103, 401, 402, 403, 407, 408, 421, 425, 428, 429, 431, 511}) {
    INFO(status);
    CHECK(!IsShared({}, status));
  }
  for (const char* const name : {"set-COOKIE", "Set-Cookie2", "WWW-Authenticate",
                                 "Authentication-Info", "Proxy-Authenticate"}) {
    CHECK(!IsShared({{name, ""}}));
  }
}

TEST_CASE("An HTTP response whose cache headers say so is for its leader only") {
  for (const char* const value :
       {"private", "no-store", "max-age=1, PRIVATE", "No-Store,public", "private=\"x\"",
        "public;private", "a=\"b\", \tno-store ", "no-cache", "no-cache=\"Set-Cookie\""}) {
    for (const char* const name : {"cache-control", "CDN-Cache-Control", "Surrogate-Control",
                                   "Cloudflare-CDN-Cache-Control", "edge-control"}) {
      INFO(name << ": " << value);
      CHECK(!IsShared({{name, value}}));
      CHECK(!IsShared({{name, "public"}, {name, value}}));
    }
  }
  CHECK(IsShared({{"X-Control-Panel", "private"}, {"Access-Control-Allow-Headers", "private"}}));
}

TEST_CASE("An HTTP response with a wildcard or a mistake in Vary is for its leader only") {
  for (const char* const value : {"*", "Accept,*", "Accept; X-A", "X A", "\"X-A\""}) {
    CHECK(!IsShared({{"Vary", value}}));
  }
}

TEST_CASE("An HTTP response whose body is streamed is for its leader only") {
  HttpSharing sharing;
  const HttpRoute route(sharing, {});
  const HttpVisible visible = HttpAsk(route, {"GET", "/"}).Visible();
  CHECK(!route.Judge(visible, {.streamed = true}).shareable);
}

TEST_CASE("An HTTP response with Vary is for followers without the headers that it names") {
  for (const HttpFields& headers :
       std::vector<HttpFields>{{{"Vary", "x-a, X-B"}},
                               {{"vary", ",X-A,\tx-b,"}},
                               {{"Vary", "X-A"}, {"Vary", "X-B, accept, Host"}}}) {
    const Handler handler;
    const HttpVerdict verdict = handler.Learn({}, headers);
    CHECK(verdict.shareable);
    CHECK(Handler().Ask({}).FitsAsFollower(verdict));
    CHECK(Handler().Ask({"GET", "/", {{"X-C", "1"}}}).FitsAsFollower(verdict));
    CHECK(!Handler().Ask({"GET", "/", {{"X-B", "1"}}}).FitsAsFollower(verdict));
    CHECK(!Handler().Ask({"GET", "/", {{"x-a", ""}}}).FitsAsLeader(verdict));
  }
}

TEST_CASE("After a Vary, HTTP requests share with those whose values of its headers are the same") {
  const Handler handler;
  const Request dark{"GET", "/", {{"X-Theme", "dark"}, {"X-C", "1"}}};
  HttpAsk ask = handler.Ask(dark);
  const std::string before = ask.Key();
  const HttpVerdict verdict = handler.Learn(dark, {{"Vary", "X-Theme"}});
  REQUIRE(!ask.FitsAsFollower(verdict));
  CHECK(!ask.RunsAlone());
  CHECK(ask.Key() != before);
  CHECK(ask.Visible().fields == HttpFields{{"X-Theme", "dark"}});

  // It is remembered for the requests that come later, each of which sees its theme at once.
  CHECK(handler.KeyOf({"GET", "/", {{"x-theme", "dark"}, {"X-C", "2"}}}) == ask.Key());
  CHECK(handler.KeyOf({"GET", "/", {{"X-Theme", "light"}}}) != ask.Key());
  CHECK(handler.KeyOf({}) == before);
  CHECK(handler.Sees({"GET", "/other", {{"X-Theme", "dark"}}}).empty());  // another target
}

TEST_CASE("An HTTP request whose answers name more headers each time sees everything in the end") {
  const Handler handler;
  const Request request{"GET", "/", {{"A", ""}, {"B", ""}, {"C", ""}, {"D", ""}}};
  HttpAsk ask = handler.Ask(request);
  for (const char* const name : {"A", "B", "C"}) {
    CHECK(!ask.FitsAsLeader({.shareable = true, .unseen = {name}}));
    CHECK(!ask.SeesAll());
  }
  CHECK(!ask.FitsAsLeader({.shareable = true, .unseen = {"D"}}));
  CHECK(ask.SeesAll());
}

TEST_CASE("A header in ignore_vary does not count in the Vary of an HTTP response") {
  const Handler handler({.ignore_vary = {"user-agent"}});
  CHECK(handler.Learn({}, {{"Vary", "User-Agent, X-A"}}).unseen == std::vector<std::string>{"X-A"});
}

TEST_CASE("A follower of an HTTP answer that is not for it runs alone, and its leader keeps it") {
  const Handler handler;
  const Request plain;
  HttpAsk leader = handler.Ask(plain), follower = handler.Ask(plain);
  CHECK(leader.FitsAsLeader({.shareable = false}));
  CHECK(!leader.RunsAlone());
  CHECK(!follower.FitsAsFollower({.shareable = false}));
  CHECK(follower.RunsAlone());
  CHECK(!follower.SeesAll());
}

// ---- What is remembered

TEST_CASE("HTTP requests whose answer cannot be shared run alone from then on") {
  const Handler handler;
  const Request page{"GET", "/page"};
  CHECK(!handler.Ask(page).RunsAlone());
  handler.Learn(page, {{"Set-Cookie", "a=1"}});
  CHECK(handler.Ask(page).RunsAlone());
  CHECK(!handler.Ask(page).SeesAll());
  CHECK(!handler.Ask({"GET", "/page?other"}).RunsAlone());
  CHECK(!handler.Ask({"HEAD", "/page"}).RunsAlone());
  handler.Learn(page, {});  // an answer that can be shared
  CHECK(!handler.Ask(page).RunsAlone());
}

TEST_CASE("What is remembered of an HTTP answer is forgotten after its time") {
  for (const std::chrono::nanoseconds time :
       {std::chrono::nanoseconds(0), std::chrono::nanoseconds::min()}) {
    const Handler handler({.remember_for = time});
    handler.Learn({}, {{"Set-Cookie", "a=1"}, {"Vary", "X-A"}});
    CHECK(!handler.Ask({}).RunsAlone());
    CHECK(handler.Sees({"GET", "/", {{"X-A", "1"}}}).empty());
  }
  const Handler long_ago({.remember_for = std::chrono::nanoseconds::max()});
  long_ago.Learn({}, {{"Set-Cookie", "a=1"}});
  CHECK(long_ago.Ask({}).RunsAlone());
}

TEST_CASE("What is known of an HTTP answer already is not remembered for longer") {
  HttpMemory memory;
  memory.Put("key", {.alone = true}, std::chrono::hours(1));
  memory.Put("key", {.alone = true}, std::chrono::hours(0));
  CHECK(memory.Of("key").alone);
  memory.Put("key", {.alone = true, .also = {"X-A"}}, std::chrono::hours(0));
  CHECK(!memory.Of("key").alone);
}

TEST_CASE("After Invalidate, HTTP requests for the path do not join earlier calls") {
  Handler handler;
  ResponseGroup<int> group;
  const HttpRoute route(group.sharing(), {});
  const auto key = [&](const char* method, const char* target) {
    return HttpAsk(route, {method, target}).Key();
  };
  const std::string get = key("GET", "/items/1"), with_query = key("GET", "/items/1?a");
  const std::string head = key("HEAD", "/items/1"), encoded = key("GET", "/items/%31");
  group.Invalidate("GET", "/items/1?b=2");
  CHECK(key("GET", "/items/1") != get);
  CHECK(key("GET", "/items/1?a") != with_query);
  CHECK(key("GET", "/items/%31") != encoded);
  CHECK(key("HEAD", "/items/1") == head);
  group.Invalidate("/items/1");
  CHECK(key("HEAD", "/items/1") != head);

  const std::string again = key("GET", "/items/1");
  for (const char* const name : {"Location", "content-location"}) {
    const std::string before = key("GET", "/items/1");
    InvalidateFor(group, "/items", {201, {{name, "https://example.com/items/1?x#y"}}});
    CHECK(key("GET", "/items/1") != before);
  }
}

// ---- Conditional requests

TEST_CASE("After a write, HTTP requests for what its Location names do not join earlier calls") {
  const auto joins_after = [](const std::string& location, const std::string& target) {
    ResponseGroup<std::string> group;
    const HttpRoute route(group.sharing(), {});
    const auto key = [&] { return HttpAsk(route, {"GET", target}).Key(); };
    const std::string before = key();
    InvalidateFor(group, "/shop/items?x=/", {.status = 201, .fields = {{"Location", location}}});
    return key() == before;
  };
  for (const char* const location :
       {"/shop/items/5", "items/5", "./items/5", "../shop/items/5", "/shop/a/../items/5",
        "//test/shop/items/5", "http://test/shop/items/5", "http://test/shop/./items/5?a#b",
        "items/5?next=http://test/a", "/shop/items/%35", "../../../shop/items/5"}) {
    INFO(location);
    CHECK_FALSE(joins_after(location, "/shop/items/5"));
    CHECK_FALSE(joins_after(location, "/shop/items/5?page=2"));
    CHECK_FALSE(joins_after(location, "/shop/items"));
    CHECK(joins_after(location, "/other"));
  }
  CHECK_FALSE(joins_after("items/", "/shop/items/"));
  CHECK_FALSE(joins_after("items/5/..", "/shop/items/"));
  CHECK_FALSE(joins_after("http://test", "/"));
  CHECK_FALSE(joins_after("//test", "/"));
  CHECK(joins_after("", "/"));
  CHECK(joins_after("?a=1", "/shop/"));
}

TEST_CASE("A conditional HTTP request is answered with 304 if its client has the answer") {
  const auto is_304 = [](const HttpFields& request, const HttpFields& answer, int status = 200) {
    const Handler handler;
    const Request asked{"GET", "/", request};
    return handler.Ask(asked).NotModified({status, {answer.begin(), answer.end()}});
  };
  const auto tag_is_in = [&](const char* tag, const char* list) {
    return is_304({{"If-None-Match", list}}, {{"ETag", tag}});
  };
  CHECK(tag_is_in("\"a\"", "\"a\""));
  CHECK(tag_is_in("W/\"a\"", "\"a\""));
  CHECK(tag_is_in("\"a\"", "\"b\", W/\"a\""));
  CHECK(tag_is_in("\"a, b\"", "\"a, b\""));
  CHECK(tag_is_in("\"a\"", "*"));
  CHECK(!tag_is_in("\"a\"", "\"A\""));
  CHECK(!tag_is_in("\"a\"", "\"a, b\""));
  CHECK(!tag_is_in("\"a\"", "a"));
  CHECK(!tag_is_in("\"a\"", "\"a"));
  CHECK(!tag_is_in("\"a\"", ""));
  CHECK(!is_304({{"If-None-Match", "\"a\""}}, {}));
  CHECK(!is_304({}, {{"ETag", "\"a\""}}));
  CHECK(!is_304({{"If-None-Match", "\"a\""}}, {{"ETag", "\"a\""}}, 404));

  const char* const date = "Tue, 15 Nov 1994 12:45:26 GMT";
  CHECK(is_304({{"if-modified-since", date}}, {{"Last-Modified", date}}));
  CHECK(
      !is_304({{"If-Modified-Since", date}}, {{"Last-Modified", "Tue, 15 Nov 1994 12:45:27 GMT"}}));
  CHECK(!is_304({{"If-Modified-Since", date}}, {}));
  CHECK(!is_304({{"If-Modified-Since", date}, {"If-None-Match", "\"b\""}},
                {{"Last-Modified", date}, {"ETag", "\"a\""}}));
}

TEST_CASE("A key can be written so that an operator understands it") {
  const Handler handler({.vary = {"X-Tenant"}});
  const auto readable = [&handler](const HttpFields& fields) {
    return HttpAsk::ReadableKey(*handler.KeyOf({"GET", "/a?b=1 2:3,", fields}));
  };
  CHECK(readable({}) == "GET /a?b=1 2:3,");
  CHECK(readable({{"x-tenant", ""}, {"host", "shop.example:80"}, {"Cache-Control", "no-cache"}}) ==
        "GET /a?b=1 2:3,, Host: shop.example:80, X-Tenant: ");
  CHECK(HttpAsk::ReadableKey("").empty());
  CHECK(HttpAsk::ReadableKey("1 2 3:GE").ends_with("GE"));
}
