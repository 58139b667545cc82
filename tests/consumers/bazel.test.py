#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: bazel.test.py DIRECTORY VERSION COMPILER ARGUMENT...

Evaluates MODULE.bazel and BUILD.bazel in bazel/, whose language is a part of Python, with stand-ins for
the rules that they call. Checks that the target has every header, and builds a program with only those.
Cannot check Bazel itself, nor whether a registry has the version of rules_cc.
"""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODULE = HERE / "bazel"


def glob(patterns):
    return [p.relative_to(MODULE).as_posix() for q in patterns for p in MODULE.glob(q)]


def evaluate(name, functions):
    """Returns the arguments of each call in the file, by function."""
    text = (MODULE / name).read_text()
    for node in ast.walk(ast.parse(text)):  # Starlark has neither of these
        assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.While))
    calls = {function: [] for function in functions}
    scope = {
        function: lambda *args, _calls=calls[function], **kwargs: _calls.append((args, kwargs))
        for function in functions
    }
    exec(compile(text, name, "exec"), {"__builtins__": {}, "glob": glob, **scope})
    return calls


def main(directory, version, *compiler):
    directory = pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)

    module = evaluate("MODULE.bazel", ["module", "bazel_dep"])
    assert module["module"] == [((), {"name": "singleflight", "version": version})]
    ((_, rules_cc),) = module["bazel_dep"]
    assert rules_cc["name"] == "rules_cc" and re.fullmatch(r"[0-9.]+", rules_cc["version"])

    build = evaluate("BUILD.bazel", ["load", "cc_library"])
    assert build["load"] == [(("@rules_cc//cc:defs.bzl", "cc_library"), {})]
    ((_, library),) = build["cc_library"]
    assert set(library) == {"name", "hdrs", "includes", "linkopts", "visibility"}
    assert library["name"] == "singleflight" and library["visibility"] == ["//visibility:public"]

    headers = {p.relative_to(ROOT).as_posix() for p in (ROOT / "include").rglob("*.hpp")}
    assert set(library["hdrs"]) == headers and len(library["hdrs"]) == len(headers)
    for header in library["hdrs"]:  # as in a sandbox: nothing else is there
        (directory / header).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODULE / header, directory / header)

    flags = [flag for path in library["includes"] for flag in ("-I", str(directory / path))]
    sources = [str(HERE / "app" / "main.cpp"), str(HERE / "app" / "users.cpp")]
    app = directory / "app"
    subprocess.run([*compiler, *flags, *sources, *library["linkopts"], "-o", str(app)], check=True)
    subprocess.run([str(app)], check=True)
    print(f"the module has version {version} and {len(headers)} headers")


main(*sys.argv[1:])
