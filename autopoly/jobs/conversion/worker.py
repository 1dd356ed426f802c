"""What one process does for a conversion: shards of records in, parts with polygons out. Runs alike in the driver and on Ray."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from autopoly import devices, images
from autopoly.errors import DataError, Problem, RunError, plain_line
from autopoly.execute import parts
from autopoly.execute.shards import Poison, Shard
from autopoly.geometry.boxes import problem_of
from autopoly.jobs.conversion import part_rows, pictures
from autopoly.jobs.conversion.component_boxes import boxes_of, join, predict_parts, rounded
from autopoly.jobs.conversion.part_rows import Row, text_of
from autopoly.jobs.conversion.work import Image, Prediction, Work
from autopoly.jobs.source import choose
from autopoly.types import FloatArray, Instance, Record

GROUP_BOXES, CUDA_GROUP_BOXES = 64, 256
"""Boxes whose pictures are held at once: a few batches of the network."""
GROUP_IMAGES = 32
GROUP_PIXELS = 64e6
UNKNOWN_PIXELS = 4e6


def make_worker(threads: int, work: Work) -> ConvertWorker:
    """Build the worker of a process that may use so many threads."""
    devices.keep_memory()
    return ConvertWorker(work, threads)


@dataclass(slots=True)
class _Job:
    """One record on its way: a row for each annotation, and those that still want a prediction."""

    record: Record
    rows: list[Row]
    wanted: list[tuple[Instance, Row]]


_Decoding = list[tuple[_Job, Future[Image] | None]]


class ConvertWorker:
    """Read pictures ahead in threads, predict group by group, commit one part per shard."""

    def __init__(self, work: Work, threads: int) -> None:
        self._work = work
        self._threads = threads
        self._dataset = work.source.open()
        self._retry = part_rows.read_failures(work.retry) if work.retry else None
        annotator = work.load(work.checkpoint, work.device, work.tolerance, threads)
        predict = partial(predict_parts, annotator) if work.auto_components else annotator.predict
        # The components of one object may overlap as they like.
        self._predict = partial(predict, overlaps=work.overlaps or work.per_component)
        self._reading = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Give up the shards at work before their next group."""
        self._stopped = True

    def process(self, shard: Shard, records: Sequence[int] | None = None, poison: Sequence[Poison] = ()) -> Mapping[str, int]:
        """Run a shard and commit its part, or run ``records`` alone and commit nothing. Groups never cross a shard.

        Counted are ``answered`` (boxes the network was asked about) and ``failures``.
        """
        note = parts.in_hand_path(self._work.folder, shard.number, self._work.mark)
        left_out = {one.record: one for one in poison}
        try:
            if records is not None:
                rows = self._rows(self._groups(records, left_out), None)
            else:
                rows = self._rows(self._groups(range(shard.start, shard.stop), left_out), note)
                parts.commit(parts.part_path(self._work.folder, shard.number, self._work.mark), part_rows.encode(rows, self._work.mark))
        finally:
            # Only the death of the process leaves a note behind.
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
        answered = sum(row.mask_source != "kept" and row.stage in (None, "predict") for row in rows)
        return {"answered": answered, "failures": sum(row.code is not None for row in rows)}

    def _rows(self, groups: Iterator[list[_Job]], note: Path | None) -> list[Row]:
        """Decode one group ahead of the one that is predicted; ``note`` names the records of both, since either may be deadly."""
        rows: list[Row] = []
        ready: _Decoding = []
        with ThreadPoolExecutor(self._threads) as threads:
            for group in groups:
                if self._stopped:
                    raise RunError("stopped")
                if note is not None:
                    parts.note_in_hand(note, [job.record.ordinal for job in (*(job for job, _ in ready), *group) if job.wanted])
                ahead: _Decoding = [(job, threads.submit(self._decode, job.record) if job.wanted else None) for job in group]
                rows.extend(self._finish(ready))
                ready = ahead
            rows.extend(self._finish(ready))
        return rows

    def _decode(self, record: Record) -> Image:
        image: Image = images.read_rgb(record, self._dataset.image_root)
        return image

    def _groups(self, numbers: Sequence[int], left_out: Mapping[int, Poison]) -> Iterator[list[_Job]]:
        group: list[_Job] = []
        boxes, pictures_, pixels = 0, 0, 0.0
        most = CUDA_GROUP_BOXES if self._work.device == "cuda" else GROUP_BOXES
        for number in numbers:
            job = self._open(number, left_out.get(number))
            if job is None:
                continue
            more = (len(job.wanted), int(bool(job.wanted)), self._pixels(job.record) if job.wanted else 0.0)
            if group and (boxes + more[0] > most or pictures_ + more[1] > GROUP_IMAGES or pixels + more[2] > GROUP_PIXELS):
                yield group
                group, boxes, pictures_, pixels = [], 0, 0, 0.0
            group.append(job)
            boxes, pictures_, pixels = boxes + more[0], pictures_ + more[1], pixels + more[2]
        if group:
            yield group

    def _pixels(self, record: Record) -> float:
        """Say how many pixels a picture has, so that few large ones are held at once: as declared, else as it claims itself."""
        size = record.size or images.header_size(record, self._dataset.image_root)
        return float(size[0] * size[1]) if size else UNKNOWN_PIXELS

    def _open(self, number: int, poison: Poison | None) -> _Job | None:
        """Decide for each annotation of a record whether it is predicted; crowd regions get no row, the merge carries them."""
        if self._retry is not None and number not in self._retry:
            return None
        with self._reading:
            record = choose(self._dataset.record(number), self._work.categories)
        if self._work.pictures is not None and record.data is not None and record.problem is None:
            record = replace(record, problem=pictures.write(self._work.pictures, record, self._work.folder))
        again = None if self._retry is None else self._retry[number]
        job, file = _Job(record, [], []), plain_line(record.file_name)
        for instance in record.instances:
            if instance.crowd or (again is not None and text_of(instance.instance_id) not in again):
                continue
            row = Row(record.ordinal, instance.ordinal, text_of(record.image_id), text_of(instance.instance_id), file)
            job.rows.append(row)
            problem = record.problem or instance.problem
            if self._work.keep_existing and instance.mask is not None:
                row.mask_source = "kept"
            elif problem is not None:
                self._fail(row, "read", problem)
            elif poison is not None:
                self._fail(row, "run", Problem(poison.code, f"{record.file_name}: {poison.message}"))
            else:
                job.wanted.append((instance, row))
        if record.problem is not None and not record.instances:
            row = Row(record.ordinal, None, text_of(record.image_id), None, file)
            self._fail(row, "read", record.problem)
            job.rows.append(row)
        return job

    def _finish(self, group: _Decoding) -> Iterator[Row]:
        items: list[tuple[Image, FloatArray]] = []
        asked: list[list[tuple[Instance, Row, int]]] = []
        for job, future in group:
            if future is None:
                continue
            try:
                image = future.result()
            except images.ImageProblem as error:
                for _, row in job.wanted:
                    self._fail(row, "image", error.problem)
                continue
            boxes, questions = self._boxes(job, image)
            if questions:
                items.append((image, np.concatenate(boxes)))
                asked.append(questions)
        for questions, predictions in zip(asked, self._predict(items) if items else (), strict=True):
            at = 0
            for instance, row, count in questions:
                self._answer(instance, row, predictions[at : at + count])
                at += count
        for job, _ in group:
            yield from job.rows

    def _boxes(self, job: _Job, image: Image) -> tuple[list[FloatArray], list[tuple[Instance, Row, int]]]:
        height, width = int(image.shape[0]), int(image.shape[1])
        boxes: list[FloatArray] = []
        questions: list[tuple[Instance, Row, int]] = []
        for instance, row in job.wanted:
            row.size = (height, width)
            found: FloatArray | Problem = instance.box[None]
            if self._work.per_component:
                found = boxes_of(instance, (height, width), self._work.components_from_truth)
            if isinstance(found, Problem):
                self._fail(row, "box", found)
                continue
            problems = [problem_of(box, (height, width)) for box in found]
            inside = np.array([problem is None for problem in problems])
            if problems[0] is not None and not inside.any():
                self._fail(row, "box", problems[0])
                continue
            boxes.append(np.asarray(found[inside], np.float64))
            questions.append((instance, row, int(inside.sum())))
        return boxes, questions

    def _answer(self, instance: Instance, row: Row, predictions: Sequence[Prediction]) -> None:
        polygons, quality = join([(prediction.polygons, float(prediction.quality)) for prediction in predictions])
        row.quality = quality if polygons else None
        if not polygons:
            line = f"no polygon with an area inside the picture was found in box {_numbers(instance.box)}"
            self._fail(row, "predict", Problem("no_polygon", line))
        elif quality >= self._work.min_quality:  # Below, the box stays without a polygon, as was asked for: no failure, but counted.
            row.mask_source, row.polygons = "predicted", rounded(polygons)

    def _fail(self, row: Row, stage: str, problem: Problem) -> None:
        row.fail(stage, problem.code, problem.message)
        if self._work.strict:
            where = f"image {row.image_id}" if row.instance_id is None else f"annotation {row.instance_id} (image {row.image_id})"
            raise DataError(f"{row.file or self._work.source.path}: {where}: {problem.code}: {problem.message}; --strict stops here")


def _numbers(box: FloatArray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
