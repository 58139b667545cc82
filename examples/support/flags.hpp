// SPDX-License-Identifier: MIT
#pragma once

// The flags of a program: `--name value` or `--name=value`, each with a default.
//
//   Flags flags(argc, argv);
//   const int port = flags.Number("port", 8080, 0, 65535);
//   const std::string path = flags.Text("path", "/");
//   flags.RefuseOthers();
//
// If the command line has anything else, the program prints one line to stderr and exits with code
// 2. `--help` prints the flags with their defaults. A program without flags needs just one line:
//
//   Flags(argc, argv).RefuseOthers();

#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>

class Flags {
 public:
  Flags(int argc, char** argv) : program_(argv[0]) {
    program_.erase(0, program_.rfind('/') + 1);
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (!argument.starts_with("--"))
        Refuse("unexpected argument '" + std::string(argument) + "'");
      const std::size_t equals = argument.find('=');
      std::string& value = given_[std::string(argument.substr(2, equals - 2))];
      if (equals != argument.npos) {
        value = argument.substr(equals + 1);
      } else if (i + 1 < argc && !std::string_view(argv[i + 1]).starts_with("--")) {
        value = argv[++i];
      }
    }
  }

  // Returns the flag's value, or `fallback` if the command line does not have it.
  std::string Text(const std::string& name, const std::string& fallback) {
    usage_ += " [--" + name + " " + fallback + "]";
    const auto given = given_.extract(name);
    if (given.empty()) return fallback;
    if (given.mapped().empty()) Refuse("--" + name + " needs a value");
    return given.mapped();
  }

  // The same for a number. Refuses one that is not from `min` to `max`, both included.
  template <class T>
  T Number(const std::string& name, T fallback, T min, T max) {
    const std::string text = Text(name, (std::ostringstream() << fallback).str());
    std::istringstream in(text);
    T number = {};
    const bool whole_text = (in >> std::noskipws >> number) && in.peek() == EOF;
    if (!whole_text || number < min || number > max) {
      std::ostringstream why;
      why << "--" << name << " must be a " << (std::integral<T> ? "whole number" : "number")
          << " from " << min << " to " << max << ", not '" << text << "'";
      Refuse(why.str());
    }
    return number;
  }

  // Call this after all flags have been read.
  void RefuseOthers() const {
    if (given_.contains("help")) {
      std::cout << "usage: " << program_ << usage_ << "\n";
      std::exit(0);
    }
    if (!given_.empty()) Refuse("unknown flag --" + given_.begin()->first + " (see --help)");
  }

 private:
  [[noreturn]] void Refuse(const std::string& why) const {
    std::cerr << program_ << ": " << why << "\n";
    std::exit(2);
  }

  std::string program_;
  std::string usage_;
  std::map<std::string, std::string> given_;  // flags not read yet, with their values or ""
};
