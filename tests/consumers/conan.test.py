#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: conan.test.py DIRECTORY VERSION COMPILER ARGUMENT...

Runs the recipe in conan/ in the order of `conan create`, with stand-ins for the parts of Conan 2 that it
uses. Checks what the package is, and builds a program with it. Where there is a Conan, the test
consumer.conan_create runs the recipe with it. Without one, nothing checks Conan's own rules.
"""

import fnmatch
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import types

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
standards = []  # that the recipe asked for


def copy(conanfile, pattern, src, dst):
    del conanfile
    src, dst = pathlib.Path(src), pathlib.Path(dst)
    for file in src.rglob("*"):
        name = file.relative_to(src).as_posix()
        if file.is_file() and fnmatch.fnmatch(name, pattern):
            (dst / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, dst / name)


class ConanFile:
    def __init__(self, recipe_folder, directory):
        self.recipe_folder = str(recipe_folder)
        self.export_sources_folder = str(directory / "sources")
        self.source_folder = str(directory / "sources")
        self.package_folder = str(directory / "package")
        self.settings = types.SimpleNamespace(os="Linux")
        self.info = {"os": "Linux", "compiler": "gcc"}
        self.cpp_info = types.SimpleNamespace(
            bindirs=["bin"], libdirs=["lib"], includedirs=["include"], system_libs=[]
        )


def stand_in(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


stand_in("conan", ConanFile=ConanFile)
stand_in("conan.tools")
stand_in("conan.tools.build", check_min_cppstd=lambda _, standard: standards.append(standard))
stand_in("conan.tools.files", copy=copy, load=lambda _, path: pathlib.Path(path).read_text())


def files_in(directory):
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


def main(directory, version, *compiler):
    directory = pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("conanfile", HERE / "conan" / "conanfile.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    (found,) = [
        c for c in vars(recipe).values()
        if isinstance(c, type) and issubclass(c, ConanFile) and c is not ConanFile
    ]
    package = found(HERE / "conan", directory)

    package.set_version()
    assert (package.name, package.version, package.license) == ("singleflight", version, "MIT")
    assert package.package_type == "header-library"
    package.export_sources()
    package.recipe_folder = "/no clone is here"  # from here on, only what was exported is there
    package.package_id()
    assert package.info == {}, "a package of headers is one package for all settings"
    package.validate()
    assert standards == [20]
    package.package()
    package.package_info()
    assert package.cpp_info.bindirs == package.cpp_info.libdirs == []
    assert package.cpp_info.system_libs == ["pthread"]

    headers = {name for name in files_in(ROOT / "include") if name.endswith(".hpp")}
    expected = {"include/" + name for name in headers} | {"licenses/LICENSE"}
    assert files_in(directory / "package") == expected

    app = directory / "app"
    flags = ["-I", str(directory / "package" / "include"), "-l" + package.cpp_info.system_libs[0]]
    sources = [str(HERE / "app" / "main.cpp"), str(HERE / "app" / "users.cpp")]
    subprocess.run([*compiler, *sources, *flags, "-o", str(app)], check=True)
    subprocess.run([str(app)], check=True)
    print(f"the recipe makes a package of version {version} with {len(headers)} headers")


main(*sys.argv[1:])
