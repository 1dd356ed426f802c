"""The layer table of the architecture, held by reading every import; the size and names of files; what the command line may load."""

import ast
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "autopoly"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "core", "manager", "misc", "tools", "base_utils"}


class Layer(NamedTuple):
    """Modules by their path below the package, without suffix; a name that ends in / is a folder."""

    modules: tuple[str, ...]
    packages: frozenset[str]


def layer(modules, packages=""):
    return Layer(tuple(modules.split()), frozenset(packages.split()))


# From the top down: a file imports its own layer and those above it, never one below.
LAYERS = {
    "words": layer("errors types config", "numpy pydantic"),
    "places": layer("storage", "pyarrow"),
    "pure": layer("geometry/ metrics/", "numpy shapely pycocotools cv2 contourpy"),
    "data": layer("formats/ images picture_header crops overlaps strips", "numpy cv2 pyarrow msgspec scipy"),
    "network": layer("network/", "torch torchvision timm safetensors numpy"),
    "use": layer("devices predict sharpen training/", "torch safetensors numpy cv2"),
    "run": layer("execute/", "ray"),
    "jobs": layer("jobs/ report/ recipes", "numpy cv2 pyarrow msgspec pydantic torch jinja2 matplotlib skimage"),
    "face": layer("cli/ __main__ __init__", "typer rich"),
}
NAMES = list(LAYERS)

# Narrower than the layer: a package that only these places may import.
ONLY_IN = {
    "ray": ("execute/ray_pool",),
    "jinja2": ("report/",),
    "matplotlib": ("report/",),
    "skimage": ("jobs/demo_pictures",),
    "shapely": ("geometry/",),
    "contourpy": ("geometry/",),
    "pycocotools": ("geometry/raster", "metrics/average_precision"),
    "timm": ("network/backbone",),
    "scipy": ("formats/mat_outlines",),
    "pydantic": ("recipes", "config", "types", "errors"),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
# Narrower than the layer: all that these folders may know of the rest of the package.
KNOWS = {
    "geometry/": ("errors", "types", "config", "geometry/"),
    "metrics/": ("errors", "types", "config", "metrics/"),
    "network/": ("errors", "config", "network/"),
    "execute/": ("errors", "storage", "execute/"),
}


def key(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def within(name, places):
    """Say whether a module path such as geometry/boxes lies in one of the places."""
    return any(name == place or f"{name}/" == place or (place.endswith("/") and name.startswith(place)) for place in places)


def level(name):
    found = [number for number, one in enumerate(LAYERS.values()) if within(name, one.modules)]
    assert len(found) == 1, f"autopoly/{name}: give it exactly one layer in {Path(__file__).name}"
    return found[0]


def imports(source):
    """List the dotted names a file imports, anywhere in it; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(dotted):
    """Give the module path of an import of our own package (the attribute at its end cut off), None for a foreign one."""
    parts = dotted.split(".")
    if parts[0] != "autopoly":
        return None
    for end in range(len(parts), 1, -1):
        name = "/".join(parts[1:end])
        if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir():
            return name
    return ""


def faults(path, source):
    """Say every import of a file that the table forbids."""
    name = key(path)
    here = level(name)
    for dotted in imports(source):
        module, top = own(dotted), dotted.split(".")[0]
        if module is None:
            if top in sys.stdlib_module_names:
                continue
            if top not in LAYERS[NAMES[here]].packages:
                yield f"{name}: layer {NAMES[here]} does not import {top}"
            elif not within(name, ONLY_IN.get(top, (name,))):
                yield f"{name}: {top} belongs to {', '.join(ONLY_IN[top])}"
        elif module:  # an empty one is the package itself: its version
            folder = next((place for place in KNOWS if within(name, (place,))), None)
            if level(module) > here:
                yield f"{name}: layer {NAMES[here]} does not import {module}, of layer {NAMES[level(module)]}"
            elif folder and not within(module, KNOWS[folder]):
                yield f"{name}: {folder} knows {', '.join(KNOWS[folder])}, not {module}"


def test_the_package_is_found():
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=key)
def test_imports_follow_the_layers(path):
    assert list(faults(path, path.read_text())) == []


@pytest.mark.parametrize(
    ("name", "line", "word"),
    [
        ("errors", "import torch", "layer words does not import torch"),
        ("geometry/boxes", "from autopoly import formats", "does not import formats"),
        ("metrics/iou", "from autopoly.geometry import raster", "metrics/ knows"),
        ("network/head", "from autopoly.types import Polygon", "network/ knows"),
        ("execute/ray_pool", "from autopoly.types import Record", "execute/ knows"),
        ("execute/local", "import ray", "ray belongs to execute/ray_pool"),
        ("formats/coco", "def f():\n    import ray.data", "layer data does not import ray"),
        ("jobs/convert", "from autopoly.cli import app", "does not import cli"),
        ("geometry/boxes", "from shapely import box\nfrom autopoly.types import Polygon\nimport json", None),
        ("execute/ray_pool", "def f():\n    import ray\n    from autopoly.errors import RunError", None),
    ],
)
def test_the_check_itself_sees_a_wrong_import(name, line, word):
    found = list(faults(PACKAGE / f"{name}.py", line))
    assert len(found) == (word is not None)
    assert word is None or word in found[0]


def test_no_file_is_too_long():
    lengths = {key(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_every_module_says_what_it_is_for():
    assert [key(path) for path in FILES if not VAGUE.isdisjoint(path.relative_to(PACKAGE).with_suffix("").parts)] == []


def test_test_files_have_names_of_their_own():
    # Without __init__.py two test files of one name shadow each other.
    names = [path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest"]
    assert sorted(names) == sorted(set(names))
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["convert", "--help"], ["train", "--help"]])
def test_help_loads_neither_torch_nor_ray_nor_cv2(arguments):
    heavy = "torch ray cv2 timm pyarrow matplotlib shapely skimage numpy"
    program = (
        "import sys\nfrom autopoly.cli import main\n"
        f"sys.argv = ['autopoly', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n"
        f"    print('LOADED', sorted(set({heavy.split()!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_comes_at_once():
    # Processor time, the best of several: a machine that is busy with other things does not count.
    seconds = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "autopoly", "--help"], capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5, "slower than a person notices: which import at the top of a module of the command line is new?"
