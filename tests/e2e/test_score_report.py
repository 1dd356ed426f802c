"""``autopoly score --html`` and the report of every conversion, without a browser: whole, the same again, no path of this machine."""

import shutil

import inscribed
import pytest

from autopoly.cli import main
from autopoly.jobs.convert import ConvertOptions, convert


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    source = inscribed.make_dataset(folder / "data", images=6)
    convert(ConvertOptions(source=source, out=folder / "out", workers=0, device="cpu"), network=inscribed.network())
    return folder


def score(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["autopoly", "score", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0, capsys.readouterr().err


def test_a_conversion_leaves_the_same_report_again_without_a_path_of_this_machine(run):
    first = (run / "out/report.html").read_bytes()
    options = ConvertOptions(source=run / "data/annotations.json", out=run / "again", workers=0, device="cpu")
    convert(options, network=inscribed.network())
    assert (run / "again/report.html").read_bytes() == first
    assert b"data:image/jpeg" in first
    assert str(run).encode() not in first


def test_a_score_writes_a_report_with_the_pictures_where_they_are(run, tmp_path, monkeypatch, capsys):
    truth = shutil.copy(run / "data/annotations.json", tmp_path / "truth.json")
    code, _ = score(monkeypatch, capsys, run / "out", truth, "--html", tmp_path / "report.html", "--images", run / "data/images", "--quiet")
    page = (tmp_path / "report.html").read_text()
    assert code == 0
    assert "data:image/jpeg" in page
    assert "image_missing" not in page
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["report.html", "truth.json"]


@pytest.mark.parametrize("option", ["--html", "--images"])
def test_a_place_that_is_none_is_one_line(run, tmp_path, monkeypatch, capsys, option):
    code, err = score(monkeypatch, capsys, run / "out", run / "data/annotations.json", option, tmp_path / "nowhere/report.html")
    assert code == 2
    assert err.count("\n") == 1
    assert option in err
