// SPDX-License-Identifier: MIT
#pragma once

// How the page of debug_page.hpp looks. A part of debug_page.hpp.

// HTML allows leaving out the end tags of rows, cells and paragraphs.
inline constexpr const char* kDebugPageStart = R"(<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>singleflight</title>
)";

inline constexpr const char* kDebugPageStyle = R"(<style>
:root { color-scheme: light dark; --text: #1c2128; --dim: #5c6570; --line: #d5dae0;
        --page: #fff; --box: #f4f6f8; --bar: #3f7fd0; --note: #9a3d00 }
@media (prefers-color-scheme: dark) {
  :root { --text: #dfe4ea; --dim: #939da8; --line: #343c46; --page: #14181d; --box: #1d232a;
          --bar: #5a97e0; --note: #ffb27a } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--page);
       color: var(--text); font: 15px/1.4 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; padding-top: .5rem; border-top: 2px solid var(--line);
     overflow-wrap: anywhere }
p { margin: .4rem 0 }
table { width: 100%; border-collapse: collapse; margin: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0;
         border-bottom: 1px solid var(--line) }
th { color: var(--dim); font-weight: normal }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; padding-right: 0;
     padding-left: .5rem }
.key { font-family: ui-monospace, monospace; font-size: .85em; white-space: pre-wrap;
       overflow-wrap: anywhere; width: 100% }
.key b { font: .9em system-ui, sans-serif; color: var(--note) }
i { color: var(--note) }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem;
     margin: .5rem 0 }
dl div { background: var(--box); border-radius: .3rem; padding: .4rem .6rem;
         overflow-wrap: anywhere }
dt { color: var(--dim) }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
small { display: block; font-size: .75rem; line-height: 1.25; color: var(--dim) }
.zero dd, .none, .help { color: var(--dim) }
.help { margin-top: 1rem }
h2 + .help { margin-top: 0 }
.times td { border: 0; padding-top: 0; padding-bottom: .15rem; vertical-align: middle }
.bar { width: 100% }
.times .bar { padding-left: .5rem }
.bar div { height: .9rem; background: var(--bar); border-radius: .15rem }
</style>
)";
