"""Recipes that are malformed, out of range or made to harm: one line each."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoly import recipes
from autopoly.errors import DataError, RecipeError
from autopoly.jobs import recipe_data

CONVERT = '[convert]\nsource = "a.json"\n'
BAD = {
    "empty": ("", "nothing to do"),
    "garbage": ("\0\1\2", "not a readable TOML"),
    "json": ('{"convert": 1}', "not a readable TOML"),
    "half": ("[convert", "not a readable TOML"),
    "not utf-8": (b"[convert]\nsource = '\xff'", "not a readable TOML"),
    "the same table twice": (CONVERT + CONVERT, "not a readable TOML"),
    "the same key twice": (CONVERT + 'source = "b"\n', "not a readable TOML"),
    "nested": (CONVERT + "limit = " + "[" * 100_000, "not a readable TOML"),
    "nested tables": (CONVERT + "limit = " + "{a=" * 5000, "not a readable TOML"),
    "an integer of 5000 digits": (CONVERT + f"limit = {'9' * 5000}\n", "not a readable TOML"),
    "a table that is a number": ("convert = 5\n", "[convert]: expected a table"),
    "a table that is a list": ('[[convert]]\nsource = "a"\n', "[convert]: expected a table"),
    "an unknown table": ("[evil]\na = 1\n", "evil: unknown"),
    "a source that is a number": ("[convert]\nsource = 5\n", "[convert] source"),
    "a source that is a list": ('[convert]\nsource = ["a"]\n', "[convert] source"),
    "no source": ("[convert]\nlimit = 3\n", "[convert] source: missing"),
    "limit infinite": (CONVERT + "limit = inf\n", "[convert] limit"),
    "limit a text": (CONVERT + 'limit = "3"\n', "[convert] limit"),
    "limit true": (CONVERT + "limit = true\n", "[convert] limit"),
    "limit negative": (CONVERT + "limit = -3\n", "[convert] limit"),
    "limit a date": (CONVERT + "limit = 2020-01-01\n", "[convert] limit"),
    "tolerance nan": (CONVERT + "tolerance = nan\n", "[convert] tolerance"),
    "tolerance infinite": (CONVERT + "tolerance = inf\n", "[convert] tolerance"),
    "quality 10^300": (CONVERT + "min_quality = 1e300\n", "[convert] min_quality"),
    "workers negative": (CONVERT + "workers = -1\n", "[convert] workers"),
    "workers a word": (CONVERT + 'workers = "many"\n', "[convert] workers"),
    "an unknown mode": (CONVERT + 'mode = "fast"\n', "[convert] mode"),
    "an unknown key": (CONVERT + "shell = 1\n", "[convert] shell: unknown"),
    "resamples of 10^12": (CONVERT + "[score]\nresamples = 1000000000000\n", "[score] resamples"),
    "a negative seed": (CONVERT + "[score]\nseed = -1\n", "[score] seed"),
    "side nan": (CONVERT + "[score]\nmin_side = nan\n", "[score] min_side"),
    "truth alone": ('[score]\ntruth = "a.json"\n', "[score]"),
    "weights negative": ('[train]\ntrain = [["a", -1.0]]\n', "[train] train"),
    "weights text": ('[train]\ntrain = [["a", "b"]]\n', "[train] train"),
    "epochs nan": ('[train]\ntrain = [["a", 1.0]]\nepochs = nan\n', "[train] epochs"),
    "expect a text": (CONVERT + 'expect = "good"\n', "expect"),
    "expect of texts": (CONVERT + '[[expect]]\ntable = "I"\nrow = "a"\nmiou = "high"\n', "[[expect]]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_one_line(case, tmp_path):
    text, words = BAD[case]
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        recipes.load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("needs", ['"/etc/**"', '"**x"', '"a\\u0000b"', '"' + "a/" * 3000 + '"'])
def test_needs_that_are_no_pattern_are_not_there(needs, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(f"[data]\nneeds = [{needs}]\n{CONVERT}")
    with pytest.raises(DataError, match=r"no .* in it"):
        recipe_data.locate(recipes.load(path), tmp_path)


def test_a_login_is_not_written_beside_the_result(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(CONVERT + 'workers = 2\naddress = "ray://me:secret@host:10001"\n[data]\nget = "https://h/a?X-Amz-Signature=f00"\n')
    written = recipes.dump(recipes.load(path))
    assert "secret" not in written
    assert "f00" not in written
    assert "ray://host:10001" in written


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mutated_recipe_is_read_or_refused(data):
    whole = CONVERT + 'workers = 2\ntolerance = 0.5\n[score]\nmin_side = 3.0\n[[expect]]\ntable = "I"\nrow = "a"\nmiou = 80.0\n'
    at = data.draw(st.integers(0, len(whole) - 1))
    made = (
        whole[:at]
        + data.draw(st.sampled_from(["", "=", "[", "]", '"', "9" * 5000, "nan", "\n", "\0", "{", "-"]))
        + whole[at + data.draw(st.integers(0, 9)) :]
    )

    class Text:
        stem = "made"

        def read_text(self, encoding):
            return made

    with contextlib.suppress(RecipeError):  # anything else fails
        recipes.load(Text())


CASES = {"recipe": BAD}
