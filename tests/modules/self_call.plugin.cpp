// SPDX-License-Identifier: MIT

#include "self_call.hpp"

extern "C" __attribute__((visibility("default"))) const modules::Module* PluginModule() {
  static const modules::ThisModule plugin("the plugin");
  return &plugin;
}
