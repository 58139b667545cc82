// SPDX-License-Identifier: MIT
// error: a pointer would become `true` on its way to the Key's constructor

#include <singleflight/group.hpp>

struct Answer {
  Answer(bool its_yes) : yes(its_yes) {}
  bool operator==(const Answer&) const = default;
  bool yes;
};
struct AnswerHash {
  std::size_t operator()(const Answer& answer) const { return answer.yes; }
};

int main() {
  singleflight::Group<Answer, int, AnswerHash> group;
  static_cast<void>(group.Do("no", [] { return 1; }));
}
