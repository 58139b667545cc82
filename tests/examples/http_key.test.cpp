// SPDX-License-Identifier: MIT

// Tests the rules of http_key.hpp and http_sharing.hpp without a server: which HTTP requests may
// share an answer, and which answers may be shared.

#include "adapters/http_key.hpp"

#include <cstddef>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/http_sharing.hpp"
#include "support/catch.hpp"

namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method = "GET", target = "/";
  Headers headers = {};
};

struct Response {
  Headers headers = {};
};

using Options = SharingOptions<Request>;

std::optional<std::string> KeyOf(const Request& request, const Options& options = {}) {
  return SharingKey(request, options);
}

std::optional<std::string> KeyOfTarget(const std::string& target) {
  return KeyOf(Request{"GET", target});
}

std::string Header(const Request& request, std::string_view name) {
  for (const auto& [header, value] : request.headers) {
    if (header == name) return value;
  }
  return "";
}

// Returns how many different keys the requests have. Every request must have a key.
std::size_t DistinctKeys(const std::vector<Request>& requests, const Options& options = {}) {
  std::set<std::string> keys;
  for (const Request& request : requests) keys.insert(SharingKey(request, options).value());
  return keys.size();
}

bool IsShared(const Headers& headers) {
  return Shareable<Response>(Request(), Response{headers}).Answers(Request());
}

}  // namespace

TEST_CASE(
    "The order of an HTTP query's parameters does not matter, but that of one name's values does") {
  CHECK(KeyOfTarget("/?a=1&b=2&c") == KeyOfTarget("/?c&b=2&a=1"));
  CHECK(KeyOfTarget("/?a=1&b=3&a=2") == KeyOfTarget("/?b=3&a=1&a=2"));
  CHECK(KeyOfTarget("/?a=1&a=2") != KeyOfTarget("/?a=2&a=1"));
}

TEST_CASE("HTTP targets that are not equivalent have different keys") {
  const std::vector<std::string> targets = {
      "/",         "/?",         "/?a",       "/?a=",      "/?a=1",       "/?a=1&",
      "/?&a=1",    "/?a=1&&b=2", "/?a=1&b=2", "/?a=2&b=1", "/?a=1%26b=2", "/?a=1%3D&b=2",
      "/?a=1&a=1", "/?A=1",      "/?a=1?b=2", "/?=a",      "/?a%20b",     "/?a+b",
      "/%3Fa=1",   "/a/b",       "/a%2Fb",    "/a%2fb",    "/a/b/",       "/?a=/",
      "/?a=1;b=2", "/?b=2;a=1",  "/A/b",      "//",        "/?a=%00",     "/?b=2&a=1&a=1"};
  std::vector<Request> requests;
  for (const std::string& target : targets) requests.push_back({"GET", target});
  CHECK(DistinctKeys(requests) == targets.size());
}

// `%61` is `a`, so sorting would change the order in which a handler gets the two values of a.
TEST_CASE("An HTTP query is not sorted if one name may be written in two ways") {
  CHECK(KeyOfTarget("/?a=1&%61=2") != KeyOfTarget("/?%61=2&a=1"));
  CHECK(KeyOfTarget("/?a+b=1&a%20b=2") != KeyOfTarget("/?a%20b=2&a+b=1"));
  CHECK(KeyOfTarget("/?=a=1&a=2") != KeyOfTarget("/?a=2&=a=1"));
}

// Some frameworks end a query at a second '?' or at a '#'. Others split it at ';', too.
TEST_CASE("An HTTP query is not sorted if frameworks may split it differently") {
  CHECK(KeyOfTarget("/?a=1?x&b=2") != KeyOfTarget("/?b=2&a=1?x"));
  CHECK(KeyOfTarget("/?a=1#&b=2") != KeyOfTarget("/?b=2&a=1#"));
  CHECK(KeyOfTarget("/?b=1&a=1;b=2") != KeyOfTarget("/?a=1;b=2&b=1"));
}

TEST_CASE(
    "HTTP requests share whatever the order of their headers and the case of the headers' names") {
  CHECK(KeyOf({"GET", "/", {{"Host", "a"}, {"Accept", "b"}}}) ==
        KeyOf({"GET", "/", {{"ACCEPT", "b"}, {"host", "a"}}}));
}

TEST_CASE("HTTP requests share even if they differ in headers that do not count") {
  CHECK(KeyOf({"GET", "/", {{"User-Agent", "a"}, {"Referer", "b"}}}) == KeyOfTarget("/"));
}

TEST_CASE("HTTP requests that differ in a header that counts have different keys") {
  for (const char* const name :
       {"Host", "X-Forwarded-Host", "X-Forwarded-Proto", "Origin", "Accept", "Accept-Encoding",
        "Accept-Language", "Cache-Control", "Range", "If-Match", "If-None-Match",
        "If-Modified-Since", "If-Unmodified-Since", "If-Range", "X-Api-Key", "X-Auth-Token",
        "X-Forwarded-User", "X-Tenant"}) {
    INFO(name);
    const std::vector<Request> requests = {{"GET", "/", {}},
                                           {"GET", "/", {{name, ""}}},
                                           {"GET", "/", {{name, "a"}}},
                                           {"GET", "/", {{name, "A"}}},
                                           {"GET", "/", {{name, "a"}, {name, "b"}}},
                                           {"GET", "/", {{name, "b"}, {name, "a"}}},
                                           {"GET", "/", {{name, "a, b"}}},
                                           {"GET", "/", {{name, ""}, {name, ""}}}};
    CHECK(DistinctKeys(requests, {.vary = {"x-tenant"}}) == requests.size());
  }
}

// What a client sends in one place must not look like what another sends in two.
TEST_CASE("No value in an HTTP request can make its key equal to another request's key") {
  const Options options{.vary = {"A", "B"}};
  CHECK(DistinctKeys({{"GET", "/", {{"A", "1x1:b"}}},
                      {"GET", "/", {{"B", "1x1:b"}}},
                      {"GET", "/", {{"A", "b"}, {"B", "b"}}},
                      {"GET", "/", {{"A", "b0x"}}},
                      {"GET", "/", {{"A", "b1x1:b"}}},
                      {"GET", "/", {{"A", ""}, {"B", "b"}}},
                      {"GET", "/", {{"A", std::string("b\0", 2)}}},
                      {"GET", "/", {{"A", "b"}}},
                      {"GET", "/", {{"A", "a"}, {"A", "bc"}}},
                      {"GET", "/", {{"A", "ab"}, {"A", "c"}}},
                      {"GET", "/1:x", {}},
                      {"GET", "/", {{"Host", "/"}}}},
                     options) == 12);
}

TEST_CASE("The user's key function adds to an HTTP request's key and replaces nothing in it") {
  const Options options{.key = [](const Request& request) { return Header(request, "X-User"); }};
  CHECK(DistinctKeys({{"GET", "/", {{"X-User", "a"}}},
                      {"GET", "/", {{"X-User", "b"}}},
                      {"GET", "/b", {{"X-User", "a"}}},
                      {"GET", "/a", {}},
                      {"GET", "/", {}}},
                     options) == 5);
}

TEST_CASE("Only GET and HEAD are shared, and not with each other") {
  CHECK(KeyOf({"HEAD", "/"}).has_value());
  CHECK(KeyOf({"HEAD", "/"}) != KeyOf({"GET", "/"}));
  for (const char* const method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""}) {
    CHECK(KeyOf({method, "/"}) == std::nullopt);
  }
}

TEST_CASE("An HTTP request with a body is not shared") {
  CHECK(KeyOf({"GET", "/", {{"Content-Length", "1"}}}) == std::nullopt);
  CHECK(KeyOf({"GET", "/", {{"content-length", "00"}}}) == std::nullopt);
  CHECK(KeyOf({"GET", "/", {{"Content-Length", "0"}, {"Content-Length", "1"}}}) == std::nullopt);
  CHECK(KeyOf({"GET", "/", {{"Transfer-Encoding", "chunked"}}}) == std::nullopt);
  CHECK(KeyOf({"GET", "/", {{"Content-Length", "0"}}}) == KeyOfTarget("/"));
}

TEST_CASE("An HTTP request with credentials is not shared") {
  for (const char* const name : {"Authorization", "cookie", "Proxy-Authorization"}) {
    INFO(name);
    CHECK(KeyOf({"GET", "/", {{name, "a=1"}}}) == std::nullopt);
    CHECK(KeyOf({"GET", "/", {{name, ""}}}) == std::nullopt);
    CHECK(KeyOf({"GET", "/", {{name, "a=1"}}}, {.vary = {"Accept"}}) == std::nullopt);
  }
}

TEST_CASE(
    "HTTP requests with a credential that vary lists share only if its whole value is the same") {
  const Options options{.vary = {"cookie"}};
  CHECK(DistinctKeys({{"GET", "/", {}},
                      {"GET", "/", {{"Cookie", ""}}},
                      {"GET", "/", {{"Cookie", "sid=1"}}},
                      {"GET", "/", {{"Cookie", "sid=1; theme=dark"}}},
                      {"GET", "/", {{"Cookie", "sid=2"}}}},
                     options) == 5);
  CHECK(KeyOf({"GET", "/", {{"Cookie", "sid=1"}, {"Authorization", "Bearer 1"}}}, options) ==
        std::nullopt);
}

TEST_CASE("A key function that uses the credentials lets requests with credentials share") {
  const Options of_cookie{.key = [](const Request& request) {
    const std::string cookies = "; " + Header(request, "Cookie");
    const std::size_t at = cookies.find("; sid=");
    if (at == cookies.npos) return std::string("nobody");
    const std::string sid = cookies.substr(at + 6);
    return "user " + sid.substr(0, sid.find(';'));
  }};
  const auto key = [&](const char* cookie) {
    return KeyOf({"GET", "/", {{"Cookie", cookie}}}, of_cookie);
  };
  CHECK(key("sid=ann; seen=1").has_value());
  CHECK(key("sid=ann; seen=1") == key("seen=2; sid=ann"));
  CHECK(key("sid=ann") != key("sid=bob"));
  CHECK(key("theme=dark") == std::nullopt);  // the key does not depend on this cookie

  const Options of_token{.key = [](const Request& request) {
    return Header(request, "Authorization") == "Bearer 1a" ? "ann" : "nobody";
  }};
  CHECK(KeyOf({"GET", "/", {{"Authorization", "Bearer 1a"}}}, of_token).has_value());
  CHECK(KeyOf({"GET", "/", {{"Authorization", "Bearer 1b"}}}, of_token) == std::nullopt);

  const Options of_bare_token{
      .key = [](const Request& request) { return Header(request, "Authorization"); }};
  CHECK(KeyOf({"GET", "/", {{"Authorization", "1a"}}}, of_bare_token).has_value());
}

TEST_CASE(
    "A key function that does not tell credentials apart lets no request with credentials share") {
  const Request with_cookie{"GET", "/", {{"Cookie", "theme=dark; sid=0"}}};
  const Request with_token{"GET", "/", {{"Authorization", "Bearer 1a"}}};
  const Request with_both{"GET", "/", {{"Cookie", "sid=0"}, {"Authorization", "Bearer 1a"}}};
  const auto none_is_shared = [&](const Options& options) {
    return !KeyOf(with_cookie, options) && !KeyOf(with_token, options) &&
           !KeyOf(with_both, options);
  };
  CHECK(none_is_shared({.key = [](const Request&) { return "all"; }}));
  CHECK(none_is_shared({.key = [](const Request& request) {
    const bool known = Header(request, "Cookie").find("sid=") != std::string::npos ||
                       !Header(request, "Authorization").empty();
    return std::string(known ? "user" : "guest");
  }}));
  CHECK(none_is_shared({.key = [](const Request& request) {
    const std::string token = Header(request, "Authorization");
    return token.substr(0, token.find(' '));
  }}));
  CHECK(none_is_shared(
      {.key = [](const Request& request) { return std::to_string(request.headers.size()); }}));
  CHECK(KeyOf(with_both, {.key = [](const Request& request) {
                return Header(request, "Cookie");
              }}) == std::nullopt);
}

TEST_CASE(
    "A key function that throws for other credentials lets no request with credentials share") {
  const Options options{.key = [](const Request& request) -> std::string {
    if (Header(request, "Authorization") != "Bearer 1a") throw std::runtime_error("who is that?");
    return "ann";
  }};
  CHECK(KeyOf({"GET", "/", {{"Authorization", "Bearer 1a"}}}, options) == std::nullopt);
}

TEST_CASE("An HTTP request without credentials does not share with one that has them") {
  const Options options{.key = [](const Request& request) {
    const std::string cookie = Header(request, "Cookie");
    return cookie == "sid=guest" || cookie.empty() ? "guest" : "other";
  }};
  CHECK(KeyOf({"GET", "/", {{"Cookie", "sid=guest"}}}, options).has_value());
  CHECK(KeyOf({"GET", "/", {{"Cookie", "sid=guest"}}}, options) != KeyOf({"GET", "/"}, options));
}

TEST_CASE("An HTTP response is for all followers unless its headers say otherwise") {
  CHECK(IsShared({}));
  CHECK(IsShared({{"Cache-Control", "public, max-age=60"}, {"Vary", "Accept, Origin"}}));
}

TEST_CASE("An HTTP response that sets a cookie is for its leader only") {
  CHECK(!IsShared({{"Set-Cookie", "a=1"}}));
  CHECK(!IsShared({{"set-COOKIE", ""}}));
}

TEST_CASE("An HTTP response with private or no-store in Cache-Control is for its leader only") {
  for (const char* const value : {"private", "no-store", "max-age=1, PRIVATE", "No-Store,public",
                                  "private=\"x\"", "public;private", "a=\"b\", \tno-store "}) {
    INFO(value);
    CHECK(!IsShared({{"cache-control", value}}));
    CHECK(!IsShared({{"Cache-Control", "public"}, {"Cache-Control", value}}));
  }
}

TEST_CASE("An HTTP response with Vary is for followers whose headers agree with the leader's") {
  const Request leader{"GET", "/", {{"X-A", "1"}, {"X-B", "2"}}};
  for (const Headers& headers : std::vector<Headers>{
           {{"Vary", "x-a, X-B"}}, {{"vary", ",X-A,\tx-b,"}}, {{"Vary", "X-A"}, {"Vary", "X-B"}}}) {
    const Shareable<Response> answer(leader, Response{headers});
    CHECK(answer.Answers(leader));
    CHECK(answer.Answers(Request{"GET", "/", {{"x-b", "2"}, {"x-a", "1"}, {"X-C", "3"}}}));
    CHECK(!answer.Answers(Request{"GET", "/", {{"X-A", "1"}, {"X-B", "3"}}}));
    CHECK(!answer.Answers(Request{"GET", "/", {{"X-A", "1"}}}));
    CHECK(!answer.Answers(Request{"GET", "/", {{"X-A", "1"}, {"X-B", "2"}, {"X-B", "2"}}}));
  }
}

TEST_CASE("An HTTP response with a wildcard in Vary is for its leader only") {
  CHECK(!IsShared({{"Vary", "*"}}));
  CHECK(!IsShared({{"Vary", "Accept,*"}}));
}

TEST_CASE("An HTTP response that the leader keeps to itself answers no follower") {
  CHECK(!Shareable<Response>().Answers(Request()));
}
