// SPDX-License-Identifier: MIT
#pragma once

// HttpRoute decides which requests share a run of one handler, and which answers may be shared.
// HttpAsk does so for one request. A part of http_coalescing.hpp.
//
// In case of doubt nothing is shared. The handler then runs once more. That costs time, but nobody
// sees the answer to somebody else. RFC 9110 is HTTP, and RFC 9111 is caching.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory.hpp"
#include "text.hpp"

// ---- What an adapter translates from its library's types, and back

struct HttpRequestView {
  std::string_view method;
  std::string_view target;  // as the client sent it
  HttpFieldViews fields = {};
  std::string_view peer = {};  // the client's address. Only SharingOptions::derive sees it
};

struct HttpAnswerView {
  int status = 200;
  HttpFieldViews fields = {};
  bool streamed = false;  // its body can be read only once
};

// The request that a coalesced handler is given. Names are written as in `Accept-Encoding`.
struct HttpVisible {
  std::string method;
  std::string target;
  HttpFields fields = {};
  std::string subject = {};            // the key under which HttpMemory remembers its answers
  std::vector<std::string> also = {};  // the headers that are visible because of a Vary
};

// ---- The options of one coalesced handler

// A header that the handler is given in place of others. It is in the key. What the client sends
// under this name is dropped, also if the request runs alone and its handler sees everything.
//
//   {.name = "X-User", .from = {"Cookie"}, .value = UserOfSession}
struct DerivedHeader {
  std::string name;
  std::vector<std::string> from = {};  // the headers that it stands for, which are not visible
  std::function<std::string(const HttpRequestView&)> value;
};

enum class OnTimeout : unsigned char {
  kRefuse,    // the request is answered with 503 and Retry-After
  kRunAlone,  // the handler runs for this request alone
};

struct SharingOptions {
  // Further request headers that the handler sees. Requests that differ in them do not share. If
  // Cookie or Authorization is named here, requests with the same value of it share.
  std::vector<std::string> vary = {};
  // Headers that the handler sees although they are not in the key. They are those of the request
  // that started the run, and are meant for logs and traces.
  //
  // **Warning:** an answer that depends on one of them reaches clients that sent something else.
  std::vector<std::string> pass = {};
  // Headers that may stand in the Vary of an answer without an effect.
  std::vector<std::string> ignore_vary = {};
  std::vector<DerivedHeader> derive = {};
  // Lets requests share whose parameters have another order. The handler sees them sorted.
  bool sort_query = false;
  // Parameters that the handler does not see, spelled as in the target: {"utm_source"}.
  std::vector<std::string> ignore_parameters = {};
  bool ignore_query = false;  // the handler sees no parameters at all
  // How long a request waits for another request's run of the handler.
  std::optional<std::chrono::nanoseconds> timeout = {};
  OnTimeout on_timeout = OnTimeout::kRefuse;
  // How long it is remembered that an answer cannot be shared, or what its Vary names.
  std::chrono::nanoseconds remember_for = std::chrono::seconds(60);
};

// ---- One coalesced handler

// Who may have the answer of a run.
struct HttpVerdict {
  bool shareable = false;                // not for one client only
  std::vector<std::string> unseen = {};  // the headers in its Vary that the handler did not see
};

class HttpRoute {
 public:
  // Errors: throws std::invalid_argument for a text that is not a header's name, and for a
  //   credential in `pass`.
  // Lifetime: `sharing` must outlive the route.
  HttpRoute(HttpSharing& sharing, SharingOptions options)
      : sharing_(sharing), options_(std::move(options)) {
    CheckNames(options_.vary);
    CheckNames(options_.pass);
    CheckNames(options_.ignore_vary);
    for (const DerivedHeader& derived : options_.derive) {
      CheckNames({derived.name});
      CheckNames(derived.from);
      if (!derived.value) throw std::invalid_argument("the derived header has no `value`");
    }
    for (const std::string& name : options_.pass) {
      if (IsCredential(name)) {
        throw std::invalid_argument("a handler must not see one client's " + name +
                                    " and answer others: name it in `vary` instead of `pass`");
      }
    }
  }

  const SharingOptions& options() const { return options_; }

  // Decides who may have an answer that was made with `visible`.
  HttpVerdict Judge(const HttpVisible& visible, const HttpAnswerView& answer) const {
    HttpVerdict verdict{.shareable = !IsForOneClient(answer)};
    for (const std::string_view list : http_text::ValuesOf(answer.fields, "Vary")) {
      for (const std::string& name : http_text::ListOf(list)) {
        if (!http_text::IsToken(name) || name == "*") {  // RFC 9110, 12.5.5
          verdict.shareable = false;
        } else if (!IsVisible(name, visible.also) && !IsReplaced(name) &&
                   !http_text::HasName(options_.ignore_vary, name) &&
                   !http_text::HasName(verdict.unseen, name)) {
          verdict.unseen.push_back(name);
        }
      }
    }
    return verdict;
  }

  // The same, and remembers it for the requests that come later.
  HttpVerdict Learn(const HttpVisible& visible, const HttpAnswerView& answer) const {
    HttpVerdict verdict = Judge(visible, answer);
    HttpMemory::Entry entry{.alone = !verdict.shareable, .also = visible.also};
    entry.also.insert(entry.also.end(), verdict.unseen.begin(), verdict.unseen.end());
    sharing_.memory.Put(visible.subject, std::move(entry), options_.remember_for);
    return verdict;
  }

 private:
  friend class HttpAsk;
  using Names = std::initializer_list<std::string_view>;

  static void CheckNames(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (!http_text::IsToken(name)) {
        throw std::invalid_argument("'" + name + "' is not the name of a header");
      }
    }
  }

  static bool IsCredential(std::string_view name) {
    return http_text::HasName(Names{"Authorization", "Cookie", "Proxy-Authorization"}, name);
  }

  // Whether a header asks for something other than the usual answer. RFC 9110, 7.8 (Upgrade),
  // 10.1.1 (Expect), 13.1 (conditions), 14.2 (Range). Two conditions are not among these: see
  // HttpAsk::NotModified.
  static bool AsksForMore(std::string_view name) {
    return http_text::HasName(
        Names{"Expect", "If-Match", "If-Range", "If-Unmodified-Since", "Range", "Upgrade"}, name);
  }

  // Whether an answer is for the client that asked, and for nobody else.
  static bool IsForOneClient(const HttpAnswerView& answer) {
    // Decisions about a client, and answers that no cache may store: RFC 9110, 15.5 (401 to 421);
    // RFC 8470, 5.2 (425); RFC 6585, 3 to 6 (428, 429, 431, 511). Interim answers are no answers.
    constexpr int kForOne[] = {401, 402, 403, 407, 408, 421, 425, 428, 429, 431, 511};
    if (answer.streamed || answer.status < 200) return true;
    if (std::ranges::count(kForOne, answer.status) != 0) return true;
    return std::ranges::any_of(answer.fields, [](const auto& field) {
      const auto& [name, value] = field;
      if (http_text::HasName(
              Names{"Set-Cookie", "Set-Cookie2", "WWW-Authenticate", "Authentication-Info",
                    "Proxy-Authenticate", "Proxy-Authentication-Info"},
              name)) {
        return true;
      }
      // Cache-Control (RFC 9111, 5.2.2), those that address certain caches, such as
      // CDN-Cache-Control (RFC 9213), and Surrogate-Control. A false match costs a run.
      return http_text::EndsWithName(name, "-Control") &&
             (http_text::Mentions(value, "private") || http_text::Mentions(value, "no-store") ||
              http_text::Mentions(value, "no-cache"));
    });
  }

  // Whether the handler sees a request's headers of this name. They are then in the key.
  bool IsVisible(std::string_view name, const std::vector<std::string>& also) const {
    const auto is_derived = [name](const DerivedHeader& derived) {
      return http_text::SameName(derived.name, name);
    };
    const bool is_named = http_text::SameName(name, "Host") ||
                          http_text::StartsWithName(name, "Accept") ||
                          http_text::HasName(options_.vary, name) || http_text::HasName(also, name);
    return is_named && std::ranges::none_of(options_.derive, is_derived);
  }

  // Whether the handler is given a derived header in place of this one.
  bool IsReplaced(std::string_view name) const {
    return std::ranges::any_of(options_.derive, [name](const DerivedHeader& derived) {
      return http_text::SameName(derived.name, name) || http_text::HasName(derived.from, name);
    });
  }

  // Whether a request may share: it is a GET or HEAD without a body that gives no credentials and
  // asks for nothing unusual. A header that is in the key does not stop it.
  bool MayShare(const HttpRequestView& request) const {
    if (request.method != "GET" && request.method != "HEAD") return false;
    return std::ranges::none_of(request.fields, [this](const auto& field) {
      const auto& [name, value] = field;
      if (http_text::SameName(name, "Transfer-Encoding")) return true;
      if (http_text::SameName(name, "Content-Length")) return value != "0";
      if (http_text::SameName(name, "Cache-Control")) {
        return http_text::Mentions(value, "no-store");  // RFC 9111, 5.2.1.5
      }
      return (IsCredential(name) || AsksForMore(name)) &&
             !http_text::HasName(options_.vary, name) && !IsReplaced(name);
    });
  }

  HttpSharing& sharing_;
  const SharingOptions options_;
  const std::string id_ = http_text::NextNumber();  // no two handlers share answers
};

// ---- One request

// Lifetime: the route, and what the view refers to, must outlive it.
class HttpAsk {
 public:
  HttpAsk(const HttpRoute& route, HttpRequestView request)
      : route_(route), request_(std::move(request)), sees_all_(!route.MayShare(request_)) {
    const SharingOptions& options = route.options();
    for (const DerivedHeader& derived : options.derive) {
      derived_.emplace_back(http_text::Canonical(derived.name), derived.value(request_));
    }
    if (sees_all_) return;
    std::string_view target = request_.target;
    if (options.ignore_query) target = target.substr(0, target.find('?'));
    visible_.method = request_.method;
    visible_.target = http_text::WithoutParameters(target, options.ignore_parameters);
    if (options.sort_query) visible_.target = http_text::SortedTarget(visible_.target);
    Look();
    visible_.subject = KeyOf(0);
    const HttpMemory::Entry known = route.sharing_.memory.Of(visible_.subject);
    runs_alone_ = known.alone;
    if (!known.also.empty()) Reveal(known.also);
  }

  // Whether to give the handler the request itself, and its answer to this client only. What its
  // headers say under the names of Derived() is the client's: replace it by these.
  bool SeesAll() const { return sees_all_; }
  const HttpFields& Derived() const { return derived_; }

  // Whether to run the handler for this request alone, with a copy that has what is Visible().
  bool RunsAlone() const { return runs_alone_; }
  void RunAlone() { runs_alone_ = true; }

  // Returns a key as a reader understands it, as in "GET /users, Host: shop.example".
  static std::string ReadableKey(std::string_view key) {
    std::size_t at = key.find(' ');                        // after the route
    at = std::min(key.find(' ', at + 1), key.size() - 1);  // after the generation
    const auto texts = http_text::TextsOf(key.substr(at + 1));
    std::string readable;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (i > 0) readable += i == 1 ? " " : i % 2 == 0 ? ", " : ": ";
      readable += texts[i];
    }
    return readable;
  }

  // The key of the call to join: the text of everything that the handler sees.
  std::string Key() const {
    return KeyOf(1 + route_.sharing_.generations.Of(request_.method, request_.target));
  }

  HttpVisible Visible() const {
    HttpVisible visible = visible_;
    for (const auto& [name, value] : request_.fields) {
      if (http_text::HasName(route_.options().pass, name) && !route_.IsReplaced(name) &&
          !route_.IsVisible(name, visible_.also)) {
        visible.fields.emplace_back(http_text::Canonical(name), value);
      }
    }
    return visible;
  }

  // Returns whether this request may have the answer of a run for another request with its key. If
  // not, it runs alone from now on, or sees more, and must ask again.
  bool FitsAsFollower(const HttpVerdict& verdict) {
    if (!verdict.shareable) runs_alone_ = true;
    return FitsAsLeader(verdict) && verdict.shareable;
  }

  // Returns whether the answer of its own run is right for this request. If not, it sees more from
  // now on, and must ask again.
  bool FitsAsLeader(const HttpVerdict& verdict) {
    const bool fits = std::ranges::none_of(verdict.unseen, [this](const std::string& name) {
      return http_text::Has(request_.fields, name) ||
             http_text::HasName(route_.options().pass, name);
    });
    if (!fits) Reveal(verdict.unseen);
    return fits;
  }

  // Whether the client already has this answer, which was made without knowing that (RFC 9110,
  // 13.2.2). It is then sent a 304 without the body.
  bool NotModified(const HttpAnswerView& answer) const {
    if (sees_all_ || answer.status != 200) return false;
    const auto value_of = [](const auto& fields, std::string_view name) {
      const auto values = http_text::ValuesOf(fields, name);
      return values.size() == 1 ? std::optional(values.front()) : std::nullopt;
    };
    if (http_text::Has(request_.fields, "If-None-Match")) {
      const auto tag = value_of(answer.fields, "ETag");
      const auto has_it = [&tag](std::string_view list) { return http_text::NamesTag(list, *tag); };
      return tag && !IsVisible("If-None-Match") &&
             std::ranges::any_of(http_text::ValuesOf(request_.fields, "If-None-Match"), has_it);
    }
    const auto modified = value_of(answer.fields, "Last-Modified");
    return modified && modified == value_of(request_.fields, "If-Modified-Since") &&
           !IsVisible("If-Modified-Since");
  }

 private:
  bool IsVisible(std::string_view name) const { return route_.IsVisible(name, visible_.also); }

  // If answers name more headers each time, the handler is given the request itself in the end.
  void Reveal(const std::vector<std::string>& names) {
    if (++reveals_ > 3) sees_all_ = true;
    for (const std::string& name : names) {
      if (!http_text::HasName(visible_.also, name)) visible_.also.push_back(name);
    }
    Look();
  }

  void Look() {
    visible_.fields = derived_;
    for (const auto& [name, value] : request_.fields) {
      if (IsVisible(name)) visible_.fields.emplace_back(http_text::Canonical(name), value);
    }
    std::ranges::stable_sort(visible_.fields, {}, &HttpFields::value_type::first);
  }

  std::string KeyOf(std::uint64_t generation) const {
    std::string key = route_.id_ + ' ' + std::to_string(generation) + ' ';
    http_text::Append(key, visible_.method);
    http_text::Append(key, visible_.target);
    for (const auto& [name, value] : visible_.fields) {
      http_text::Append(key, name);
      http_text::Append(key, value);
    }
    return key;
  }

  const HttpRoute& route_;
  const HttpRequestView request_;
  bool sees_all_;
  bool runs_alone_ = false;
  int reveals_ = 0;
  HttpFields derived_;
  HttpVisible visible_;
};
