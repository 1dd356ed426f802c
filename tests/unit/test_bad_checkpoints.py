"""Checkpoints that are damaged, made by others or made to harm: one line each, no pickle is opened, nothing absurd is built."""

import json
import os
import pickle
import resource
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopoly.errors import CheckpointError
from autopoly.network import checkpoint


class Trap:
    """Leave a file behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def folder(untrained, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for name in ("config.json", "weights.safetensors"):
        (made / name).write_bytes((untrained / name).read_bytes())
    return made


def said(folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_network(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # kB
    return text


# What is put over config.json's network, and the words of the refusal.
NETWORK = {
    "a billion vertices": ({"vertices": 10**9}, "vertices is 1000000000"),
    "no vertices": ({"vertices": 0}, "vertices is 0"),
    "negative vertices": ({"vertices": -128}, "vertices is -128"),
    "vertices as text": ({"vertices": "128"}, "vertices is 128"),
    "vertices true": ({"vertices": True}, "vertices is True"),
    "vertices null": ({"vertices": None}, "vertices is None"),
    "vertices infinite": ({"vertices": float("inf")}, "vertices is inf"),
    "vertices a list": ({"vertices": [64] * 1000}, "vertices is"),
    "a crop of a gigapixel": ({"crop_side": 32_000}, "crop_side is 32000"),
    "a crop between strides": ({"crop_side": 100}, "multiple of 32"),
    "a grid of 10^6": ({"target_grid": 10**6}, "target_grid is"),
    "a width of 10^9": ({"width16": 10**9}, "width16 is"),
    "a width of 0": ({"width8": 0}, "width8 is 0"),
    "a billion blocks": ({"blocks16": 10**9}, "blocks16 is"),
    "a head of 10^9": ({"head_width": 10**9}, "head_width is"),
    "a radius of 10^9": ({"head_radius": 10**9}, "head_radius is"),
    "a million layers": ({"head_dilations": [1] * 10**6}, "head_dilations is"),
    "a dilation of 10^9": ({"head_dilations": [10**9]}, "head_dilations is"),
    "no layers": ({"head_dilations": []}, "head_dilations is"),
    "layers a number": ({"head_dilations": 5.5}, "head_dilations is"),
    "a million steps": ({"steps": [0.1] * 10**6}, "steps is"),
    "a step of nan": ({"steps": [float("nan")]}, "steps is"),
    "a scale of nan": ({"search_scale": float("nan")}, "search_scale is nan"),
    "a scale of 10^300": ({"search_scale": 1e300}, "search_scale is"),
    "another number of blocks": ({"blocks16": 2}, "does not fit"),
    "another width": ({"width4": 32}, "does not fit"),
    "an edge pass of 10^9": ({"edge_width": 10**9}, "edge_width is"),
    "an edge pass that has no weights": ({"edge_width": 24}, "does not fit"),
    "an unknown field": ({"program": "rm"}, "unexpected keyword"),
    "an unknown backbone": ({"backbone": "evil"}, "known neither to timm"),
    "a backbone from the hub": ({"backbone": "hf-hub:somebody/evil"}, "known neither to timm"),
    "a backbone from a folder": ({"backbone": "local-dir:/tmp/evil"}, "known neither to timm"),
    "a backbone that is a list": ({"backbone": ["resnet18"]}, "not a checkpoint's description"),
}


@pytest.mark.parametrize("case", NETWORK)
def test_a_config_that_no_network_has_is_refused_before_it_is_built(case, folder):
    changes, words = NETWORK[case]
    config = json.loads((folder / "config.json").read_text())
    config["network"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    assert words in said(folder)


CONFIGS = {
    "empty": (b"", "not a checkpoint's description"),
    "text": (b"siamanno", "not a checkpoint's description"),
    "a list": (b"[]", "not a checkpoint's description"),
    "null": (b"null", "not a checkpoint's description"),
    "not utf-8": (b"\xff\xfe{}", "not a checkpoint's description"),
    "nested": (b"[" * 100_000, "not a checkpoint's description"),
    "an integer of 5000 digits": (b'{"format": ' + b"9" * 5000 + b"}", "not a checkpoint's description"),
    "another format": (b'{"format": 1}', "this version reads 2"),
    "a format that is text": (b'{"format": "1"}', "this version reads 2"),
    "no network": (b'{"format": 2}', "not a checkpoint's description"),
    "network null": (b'{"format": 2, "network": null}', "not a checkpoint's description"),
    "network a list": (b'{"format": 2, "network": []}', "not a checkpoint's description"),
    "of 20 MB": (b'{"about": "' + b"x" * 20_000_000 + b'"}', "no checkpoint's description"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_none(case, folder):
    data, words = CONFIGS[case]
    (folder / "config.json").write_bytes(data)
    assert words in said(folder)


def header(text):
    return struct.pack("<Q", len(text)) + text


WEIGHTS = {
    "empty": (b"", "does not fit"),
    "text": (b"weights", "does not fit"),
    "zeros": (b"\0" * 1000, "does not fit"),
    "a header of 2^63": (struct.pack("<Q", 1 << 63) + b"{}", "does not fit"),
    "a header of 10^9": (struct.pack("<Q", 10**9) + b"{}", "does not fit"),
    "a header that is no json": (header(b"{{{{"), "does not fit"),
    "a header nested": (header(b'{"a":' + b"[" * 10_000), "does not fit"),
    "a tensor beyond the end": (header(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'), "does not fit"),
    "a tensor of no such type": (header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + b"\0" * 4, "does not fit"),
    "no tensors": (header(b"{}"), "does not fit"),
    "a pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "a zip": (b"PK\x03\x04" + b"\0" * 100, "is a pickle"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_none(case, folder):
    data, words = WEIGHTS[case]
    (folder / "weights.safetensors").write_bytes(data)
    assert words in said(folder)


@pytest.mark.parametrize("old", [True, False])
def test_a_pickle_is_refused_and_never_opened(old, folder, tmp_path):
    trap = tmp_path / "sprung"
    torch.save(Trap(trap), folder / "weights.safetensors", _use_new_zipfile_serialization=not old)
    assert "is a pickle" in said(folder)
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Trap(trap), protocol=0))
    assert "does not fit" in said(folder)
    assert not trap.exists()


def altered(folder, act):
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    act(tensors)
    save_file(tensors, path)


TENSORS = {
    "nan": (lambda t: t.update({name: value * float("nan") for name, value in t.items()}), "not finite"),
    "one infinity": (lambda t: t[next(iter(t))].view(-1)[:1].fill_(float("inf")), "1 tensors hold numbers that are not finite"),
    "one missing": (lambda t: t.pop(next(iter(t))), "does not fit"),
    "one too many": (lambda t: t.update(extra=torch.zeros(3)), "does not fit"),
    "wrong shape": (lambda t: t.update({next(iter(t)): torch.zeros(3)}), "does not fit"),
    "wrong rank": (lambda t: t.update({next(iter(t)): t[next(iter(t))][None].clone()}), "does not fit"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_of_a_wrong_kind(case, folder):
    act, words = TENSORS[case]
    altered(folder, act)
    text = said(folder)
    assert words in text
    assert "copy the checkpoint again" in text or "train it again" in text


def test_cut_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "does not fit" in said(folder)


@pytest.mark.parametrize("name", ["../../etc", "a\0b", "x" * 200, "", "https://user:pw@host/model"])
def test_a_name_that_is_no_checkpoint(name):
    with pytest.raises(CheckpointError, match="no folder with config"):
        checkpoint.resolve(name)


CASES = {"network": NETWORK, "config": CONFIGS, "weights": WEIGHTS, "tensors": TENSORS}
