"""Let a trained network's edge pass learn along the outlines it predicts on the pictures it learned from, and keep it where it helps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from autopoly.images import ImageProblem, read_rgb
from autopoly.jobs.held_out import HeldOut
from autopoly.network.edge import EdgePass
from autopoly.network.siamanno import SiamAnno
from autopoly.predict import Annotator
from autopoly.sharpen import Look, is_large
from autopoly.training.cache import Source, parts_of, unusable
from autopoly.training.edges import EdgeConfig, Example, examples, fit
from autopoly.training.samples import Samples

Say = Callable[[str], None]
MOST_LOST = 0.001
"""What it may cost in mean IoU where the boundary gains."""


def learned(
    network: SiamAnno, sources: Sequence[Source], samples: Samples, held: HeldOut, config: EdgeConfig, seed: int, device: str, say: Say
) -> SiamAnno:
    """Give ``network`` with an edge pass that has learned from ``sources``, or as it is where held-out images say it is no better.

    What ``samples`` of their cache are held out is not learned from.
    """
    kept = set(samples.held_out_images())
    rng = np.random.default_rng(seed)
    annotator = Annotator(network, device)
    known: list[Example] = []
    chances: list[float] = []
    for number, source in enumerate(sources):
        if not source.held_out:
            own = list(_examples(annotator, source, {record for one, record in kept if one == number}, config, rng))
            known += own
            chances += [source.weight / len(own) for _ in own]  # none of a source without large objects
    if not known:
        say("edge pass: no object is large enough to learn along its outline")
        return network
    better = copy.deepcopy(network)
    better.config = replace(network.config, edge_width=config.width)
    better.edge = EdgePass(config.width)
    fit(better.edge, known, np.array(chances), config, seed, device)
    before, after = held.measure(network), held.measure(better)
    helps = after["f_2px"] > before["f_2px"] and after["miou_instances"] > before["miou_instances"] - MOST_LOST
    say(
        f"edge pass: learned along {len(known):,} outlines; held out, F 2 px {before['f_2px']:.3f} becomes {after['f_2px']:.3f}, mIoU "
        f"{before['miou_instances']:.3f} becomes {after['miou_instances']:.3f}: {'kept' if helps else 'left out'}"
    )
    return better if helps else network


def _examples(annotator: Annotator, source: Source, kept: set[int], config: EdgeConfig, rng: np.random.Generator) -> Iterator[Example]:
    """Give the examples of a source: of its large instances, in pictures drawn at random, up to the most; of no record in ``kept``."""
    counts, scale = np.asarray(source.dataset.counts), annotator.network.config.search_scale
    left = config.instances
    for number in rng.permutation(np.flatnonzero(counts > 0)).tolist():
        record = source.dataset.record(number)
        usable = [one for one in record.instances if unusable(one) is None and is_large(one.box)][:left]
        if not usable or number in kept:
            continue
        try:
            image = read_rgb(record, source.dataset.image_root)
        except ImageProblem:  # the cache has said what it left out
            continue
        size = (image.shape[0], image.shape[1])
        usable = [one for one in usable if unusable(one, size) is None]
        if not usable:
            continue
        (pairs,) = annotator.outlines([(image, np.stack([one.box for one in usable]))])
        for instance, (first, _) in zip(usable, pairs, strict=True):
            truth = parts_of(instance, size)
            if truth:
                yield from examples(Look(image, instance.box, first.polygons, first.mask_logits), truth, scale, rng, config.wobble)
        left -= len(usable)
        if left <= 0:
            return
