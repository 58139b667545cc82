// SPDX-License-Identifier: MIT
#pragma once

// A RedisServer is a real redis-server, run as a child process. It listens on a Unix socket in a
// directory of its own, and on a loopback TCP port if the test asks for one. The environment
// variable REDIS_SERVER names another program, such as valkey-server.

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "support/support.hpp"
#include "support/temporary_directory.hpp"

#if !defined(TEST_REDIS_SERVER)
#define TEST_REDIS_SERVER "redis-server"
#endif

namespace test {

// Binds a loopback TCP port, so that the system gives it to nobody else. A program that asks for
// this very port with SO_REUSEADDR, as Redis does, may still listen there. So a server can stop and
// come back on its port.
class ReservedPort {
 public:
  ReservedPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int yes = 1;
    ::setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    if (::bind(socket_, any, size) != 0 || ::getsockname(socket_, any, &size) != 0) {
      const int error = errno;
      ::close(socket_);
      throw std::system_error(error, std::generic_category(), "no free port");
    }
    number_ = ntohs(address.sin_port);
  }
  ~ReservedPort() { ::close(socket_); }
  ReservedPort(const ReservedPort&) = delete;
  ReservedPort& operator=(const ReservedPort&) = delete;

  int Number() const { return number_; }

 private:
  int socket_;
  int number_ = 0;
};

// A RedisAnswer is a reply of the server. An error is thrown instead.
struct RedisAnswer {
  std::string text;      // the string or the status
  long long number = 0;  // the integer
  std::vector<RedisAnswer> elements;
  bool nil = false;
};

struct RedisServerOptions {
  bool tcp = false;           // listens on a TCP port, too
  std::string user = {};      // the only user with any rights; empty: the default user
  std::string password = {};  // that user's password
  bool cluster_enabled = false;
  std::string file = {};                    // its configuration file, which it may write to
  std::vector<std::string> arguments = {};  // further arguments of the program
};

// The server runs as long as this object lives, except after Kill. It is killed when the thread
// that started it exits, so that no test leaves one behind. So only the thread that makes this
// object may call Start, and must outlive it. Any thread may use the other members, but not during
// Kill or Start.
class RedisServer {
 public:
  explicit RedisServer(RedisServerOptions options = {}) : options_(std::move(options)) {
    ::signal(SIGPIPE, SIG_IGN);
    if (options_.tcp) port_.emplace();
    if (options_.cluster_enabled) cluster_port_.emplace();
    WriteConfiguration();
    Start();
  }
  ~RedisServer() {
    if (pid_ > 0) Kill();
  }

  // Returns when the server answers. It has nothing in memory.
  void Start() {
    // All memory is allocated before the fork: the child of a process with threads must not do it.
    std::vector<std::string> words = CommandLine();
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close_range(3, ~0U, 0);  // else it keeps connections open that the test has closed
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    Await([&] {
      if (::waitpid(pid_, nullptr, WNOHANG) != 0) {
        pid_ = 0;
        throw std::runtime_error(Program() + " did not start: " + Log());
      }
      return Answers();
    });
  }

  void Kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

  void Restart() {
    Kill();
    Start();
  }

  // Suspends the server until Continue. Clients that ask it wait.
  void Stop() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void Continue() { ::kill(pid_, SIGCONT); }

  std::string Socket() const { return directory_.Path() + "/socket"; }
  int Port() const { return port_.value().Number(); }
  int ClusterPort() const { return cluster_port_.value().Number(); }

  // Returns a connection without authentication. The caller frees it.
  redisContext* Connect() const { return redisConnectUnix(Socket().c_str()); }

  // Sends a command of these words on a new connection, and returns the reply. Throws
  // std::runtime_error if the reply is an error, or if there is none.
  template <class... Words>
  requires(sizeof...(Words) > 0) RedisAnswer Ask(std::string_view name, const Words&... words)
  const { return AskWords({name, std::string_view(words)...}); }
  // Does the same for a command whose words are separated by spaces.
  RedisAnswer Ask(const char* command) const {
    std::istringstream text(command);
    const std::vector<std::string> words(std::istream_iterator<std::string>(text), {});
    return AskWords({words.begin(), words.end()});
  }

  // Returns the string at `key`, if there is one.
  std::optional<std::string> Get(std::string_view key) const {
    RedisAnswer answer = Ask("GET", key);
    if (answer.nil) return std::nullopt;
    return std::move(answer.text);
  }

  // Returns all keys that match a pattern, sorted.
  std::vector<std::string> Keys(std::string_view pattern = "*") const {
    std::vector<std::string> keys;
    for (RedisAnswer& key : Ask("KEYS", pattern).elements) keys.push_back(std::move(key.text));
    std::ranges::sort(keys);
    return keys;
  }

  // Returns the number with that name in the server's INFO.
  long long Info(std::string_view name) const {
    const std::string info = Ask("INFO").text;
    const std::string line = "\r\n" + std::string(name) + ":";
    const std::size_t begin = info.find(line);
    if (begin == std::string::npos) throw std::runtime_error("no such INFO: " + line);
    return std::stoll(info.substr(begin + line.size()));
  }

  // Returns how many connections wait in a blocking command, such as a follower's XREAD.
  long long BlockedClients() const { return Info("blocked_clients"); }

  // Makes the server answer nothing for that long. Clients that ask it wait.
  void PauseFor(std::chrono::milliseconds time) const {
    Ask("CLIENT", "PAUSE", std::to_string(time.count()), "ALL");
  }

 private:
  struct Free {
    void operator()(redisContext* connection) const { redisFree(connection); }
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Connection = std::unique_ptr<redisContext, Free>;

  // The program that the environment names, else the one that CMake found.
  static std::string Program() {
    const char* const chosen = std::getenv("REDIS_SERVER");
    return chosen != nullptr && *chosen != '\0' ? chosen : TEST_REDIS_SERVER;
  }

  std::string Configuration() const { return directory_.Path() + "/configuration"; }

  // Passwords stand in a file, because Valkey 8 refuses some on its command line.
  void WriteConfiguration() const {
    std::ofstream file(Configuration());
    if (!options_.user.empty()) {
      file << "user default off\n"
           << "user " << Quoted(options_.user) << " on " << Quoted(">" + options_.password)
           << " ~* &* +@all\n";
    } else if (!options_.password.empty()) {
      file << "requirepass " << Quoted(options_.password) << '\n';
    }
    if (!file.flush()) throw std::runtime_error("no configuration was written");
  }

  static std::string Quoted(std::string_view word) {
    std::ostringstream quoted;
    quoted << '"' << std::hex << std::setfill('0');
    for (const char byte : word) {
      quoted << "\\x" << std::setw(2) << static_cast<unsigned>(static_cast<unsigned char>(byte));
    }
    quoted << '"';
    return quoted.str();
  }

  std::vector<std::string> CommandLine() const {
    const auto port = [](const auto& of) { return std::to_string(of ? of->Number() : 0); };
    const std::string& directory = directory_.Path();
    const std::string file = options_.file.empty() ? Configuration() : options_.file;
    std::vector<std::string> words = {
        Program(), file,     "--port", port(port_),    "--bind", "127.0.0.1", "--unixsocket",
        Socket(),  "--save", "",       "--appendonly", "no",     "--logfile", directory + "/log",
        "--dir",   directory};
    if (options_.cluster_enabled) {
      words.insert(words.end(),
                   {"--cluster-enabled", "yes", "--cluster-port", port(cluster_port_)});
    }
    words.insert(words.end(), options_.arguments.begin(), options_.arguments.end());
    return words;
  }

  std::string Log() const {
    std::ifstream log(directory_.Path() + "/log");
    return {std::istreambuf_iterator<char>(log), {}};
  }

  bool Answers() const {
    try {
      return Ask("PING").text == "PONG";
    } catch (const std::runtime_error&) {
      return false;
    }
  }

  RedisAnswer AskWords(const std::vector<std::string_view>& words) const {
    const Connection connection(Connect());
    if (connection == nullptr) throw std::bad_alloc();
    if (!options_.user.empty()) {
      Ask(*connection, {"AUTH", options_.user, options_.password});
    } else if (!options_.password.empty()) {
      Ask(*connection, {"AUTH", options_.password});
    }
    return Ask(*connection, words);
  }

  static RedisAnswer Ask(redisContext& connection, const std::vector<std::string_view>& words) {
    std::vector<const char*> data;
    std::vector<std::size_t> sizes;
    for (const std::string_view word : words) {
      data.push_back(word.data());
      sizes.push_back(word.size());
    }
    const std::unique_ptr<redisReply, Free> reply(static_cast<redisReply*>(
        redisCommandArgv(&connection, static_cast<int>(words.size()), data.data(), sizes.data())));
    if (reply == nullptr) throw std::runtime_error(connection.errstr);
    if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(reply->str);
    return AnswerOf(*reply);
  }

  static RedisAnswer AnswerOf(const redisReply& reply) {
    RedisAnswer answer;
    if (reply.str != nullptr) answer.text.assign(reply.str, reply.len);
    answer.number = reply.type == REDIS_REPLY_INTEGER ? reply.integer : 0;
    for (std::size_t i = 0; i < reply.elements; ++i) {
      answer.elements.push_back(AnswerOf(*reply.element[i]));
    }
    answer.nil = reply.type == REDIS_REPLY_NIL;
    return answer;
  }

  const RedisServerOptions options_;
  const TemporaryDirectory directory_;
  std::optional<ReservedPort> port_;
  std::optional<ReservedPort> cluster_port_;
  pid_t pid_ = 0;
};

// Returns how often the server has run that command.
inline long long Calls(const RedisServer& server, const std::string& command) {
  const std::string stats = server.Ask("INFO", "commandstats").text;
  const std::string name = "cmdstat_" + command + ":calls=";
  const std::size_t begin = stats.find(name);
  return begin == std::string::npos ? 0 : std::stoll(stats.substr(begin + name.size()));
}

}  // namespace test
