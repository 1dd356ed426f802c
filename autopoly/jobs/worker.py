"""What one process does for a conversion: shards of records in, parts with polygons out. Runs alike in the driver and on Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from autopoly import images
from autopoly.errors import DataError, Problem
from autopoly.execute import parts
from autopoly.execute.shards import Poison, Shard
from autopoly.geometry.boxes import problem_of
from autopoly.jobs import part_rows, pictures
from autopoly.jobs.component_boxes import boxes_of, join
from autopoly.jobs.part_rows import Row
from autopoly.jobs.source import choose
from autopoly.jobs.work import Image, Prediction, Work
from autopoly.types import FloatArray, Instance, Record

GROUP_BOXES = 64
GROUP_IMAGES = 32
GROUP_PIXELS = 64e6
UNKNOWN_PIXELS = 4e6


def make_worker(threads: int, work: Work) -> ConvertWorker:
    """Build the worker of a process that may use so many threads."""
    return ConvertWorker(work, threads)


@dataclass(slots=True)
class _Job:
    """One record on its way: a row for each annotation, and those that still want a prediction."""

    record: Record
    rows: list[Row]
    wanted: list[tuple[Instance, Row]]


class ConvertWorker:
    """Read pictures ahead in threads, predict group by group, commit one part per shard."""

    def __init__(self, work: Work, threads: int) -> None:
        self._work = work
        self._threads = threads
        self._dataset = work.source.open()
        self._retry = part_rows.read_failures(work.retry) if work.retry else None
        self._annotator = work.load(work.checkpoint, work.device, work.tolerance, threads)

    def process(self, shard: Shard, records: Sequence[int] | None = None, poison: Sequence[Poison] = ()) -> Mapping[str, int]:
        """Run a shard and commit its part, or run ``records`` alone and commit nothing. Groups never cross a shard."""
        whole = records is None
        note = parts.in_hand_path(self._work.folder, shard.number, self._work.mark)
        note.unlink(missing_ok=True)
        left_out = {one.record: one for one in poison}
        groups = self._groups(list(range(shard.start, shard.stop)) if records is None else records, left_out)
        rows: list[Row] = []
        with ThreadPoolExecutor(self._threads) as threads:
            ahead: deque[list[tuple[_Job, Future[Image] | None]]] = deque()
            while True:
                group = next(groups, None)
                if group is not None:
                    if whole:
                        in_hand = [*(job.record.ordinal for job, _ in (pair for started in ahead for pair in started))]
                        parts.note_in_hand(note, in_hand + [job.record.ordinal for job in group if job.wanted])
                    ahead.append(
                        [
                            (job, threads.submit(images.read_rgb, job.record, self._dataset.image_root) if job.wanted else None)
                            for job in group
                        ]
                    )
                if not ahead:
                    break
                if group is None or len(ahead) == 2:
                    rows.extend(self._finish(ahead.popleft()))
        if whole:
            parts.commit(parts.part_path(self._work.folder, shard.number, self._work.mark), part_rows.encode(rows, self._work.mark))
            note.unlink(missing_ok=True)
        failed = sum(row.code is not None for row in rows)
        return {"boxes": shard.boxes, "rows": len(rows), "failures": failed}

    def _groups(self, numbers: Sequence[int], left_out: Mapping[int, Poison]) -> Iterator[list[_Job]]:
        group: list[_Job] = []
        boxes, pictures_, pixels = 0, 0, 0.0
        for number in numbers:
            job = self._open(number, left_out.get(number))
            if job is None:
                continue
            size = job.record.size
            more = (len(job.wanted), int(bool(job.wanted)), (float(size[0] * size[1]) if size else UNKNOWN_PIXELS) if job.wanted else 0.0)
            if group and (boxes + more[0] > GROUP_BOXES or pictures_ + more[1] > GROUP_IMAGES or pixels + more[2] > GROUP_PIXELS):
                yield group
                group, boxes, pictures_, pixels = [], 0, 0, 0.0
            group.append(job)
            boxes, pictures_, pixels = boxes + more[0], pictures_ + more[1], pixels + more[2]
        if group:
            yield group

    def _open(self, number: int, poison: Poison | None) -> _Job | None:
        """Decide for each annotation of a record whether it is predicted; crowd regions get no row, the merge carries them."""
        if self._retry is not None and number not in self._retry:
            return None
        record = choose(self._dataset.record(number), self._work.categories)
        if self._work.pictures is not None and record.data is not None:
            pictures.write(self._work.pictures, record)
        again = None if self._retry is None else self._retry[number]
        job = _Job(record, [], [])
        for instance in record.instances:
            if instance.crowd or (again is not None and str(instance.instance_id) not in again):
                continue
            row = Row(record.ordinal, instance.ordinal, str(record.image_id), str(instance.instance_id), record.file_name)
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
            row = Row(record.ordinal, None, str(record.image_id), None, record.file_name)
            self._fail(row, "read", record.problem)
            job.rows.append(row)
        return job

    def _finish(self, group: list[tuple[_Job, Future[Image] | None]]) -> Iterator[Row]:
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
        for questions, predictions in zip(asked, self._annotator.predict(items) if items else (), strict=True):
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
            found = (
                instance.box[None]
                if not self._work.per_component
                else boxes_of(instance, (height, width), self._work.components_from_truth)
            )
            if isinstance(found, Problem):
                self._fail(row, "box", found)
                continue
            problems = [problem_of(box, (height, width)) for box in found]
            if all(problems):
                self._fail(row, "box", problems[0] or Problem("box_outside_image", "box lies outside its image"))
                continue
            inside = np.array([problem is None for problem in problems])
            boxes.append(np.asarray(found[inside], np.float64))
            questions.append((instance, row, int(inside.sum())))
        return boxes, questions

    def _answer(self, instance: Instance, row: Row, predictions: Sequence[Prediction]) -> None:
        polygons, quality = join([(prediction.polygons, float(prediction.quality)) for prediction in predictions])
        row.quality = quality if polygons else None
        if not polygons:
            self._fail(
                row,
                "predict",
                Problem("no_polygon", f"no polygon with an area inside the picture was found in box {_numbers(instance.box)}"),
            )
        elif quality < self._work.min_quality:
            line = f"estimated quality {quality:.4f} is below --min-quality {self._work.min_quality}; the box is kept without a polygon"
            self._fail(row, "predict", Problem("low_quality", line))
        else:
            row.mask_source, row.polygons = "predicted", polygons

    def _fail(self, row: Row, stage: str, problem: Problem) -> None:
        row.fail(stage, problem.code, problem.message)
        if self._work.strict:
            where = f"image {row.image_id}" if row.instance_id is None else f"annotation {row.instance_id} (image {row.image_id})"
            raise DataError(f"{row.file or self._work.source.path}: {where}: {problem.code}: {problem.message}; --strict stops here")


def _numbers(box: FloatArray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
