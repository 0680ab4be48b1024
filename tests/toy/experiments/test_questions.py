"""The questions that the paper leaves open: which rows are drawn, what counts as seen, and what the tables decide."""

import json

import numpy as np
import pytest

import encoders
from jaxsd.toy import world
from jaxsd.toy.experiments import questions
from jaxsd.toy.experiments.questions import NOT_MEASURED, QuestionRow, answer_questions

TEXT = QuestionRow("text", 1.0, 3.0)


def figures(class_, named, everything):
    return {"class": class_, "named": named, "everything": everything, "CLIP score": 70.0 + np.arange(len(class_))}


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    some = rng.random(200) < 0.2
    good, bad = np.ones(200), some.astype(float)
    return {
        TEXT: figures(good, good, good),
        QuestionRow("gemini", 0.0, 3.0): figures(good, bad, bad),
        QuestionRow("gemini", 0.5, 3.0): figures(good, good, 1 - bad),
    }


def test_differences_are_paired_and_say_whether_they_are_decided(answers):
    table = questions._compare_modes(answers, 3.0)
    rows = {row[0]: row for row in table.rows}
    assert rows["A&T, gemini"][-2].endswith("better") and rows["A&T, gemini"][-1].endswith("worse")
    same = questions._paired_difference(answers, TEXT, TEXT, "class")
    assert same == "+0.0 [+0.0, +0.0], not decided"
    curve = questions._by_alpha("everything", answers, 3.0)
    assert curve.rows[0][1 + sorted(questions.ASKED_ALPHAS).index(0.3)] == NOT_MEASURED
    assert curve.rows[0][-1].startswith("100.0 [98")


def test_every_row_is_asked_once_and_the_text_alone_is_one_row():
    names = questions.study_conditionings(list(encoders.ENCODERS))
    rows = list(dict.fromkeys(questions._rows(names, 3.0)))
    assert len({row.file for row in rows}) == len(rows) == 7 * 2 + 1 + 6 * 8 + 3 * (7 * 2 + 1)
    assert rows[14] == TEXT


def test_what_is_named_counts():
    scenes, captions = world.scenes("test", 20), world.captions("test", 20)
    right = {name: np.ones(20, bool) for name in ("class", "color", "side", "background")}
    right["color"][:] = False
    seen = questions._see(right, captions, scenes)
    for index, (caption, scene) in enumerate(zip(captions, scenes, strict=True)):
        named = world.named_attributes(caption, scene)
        assert seen["everything"][index] == ("color" not in named)
        expected = np.mean([name != "color" for name in named]) if named else np.nan
        np.testing.assert_allclose(seen["named"][index], expected)


def test_rows_of_another_setting_are_refused(tmp_path):
    (tmp_path / "setting.json").write_text(json.dumps({"images": 7}))
    with pytest.raises(ValueError, match="has rows of another setting .*images 7, not 2.*choose another --out"):
        answer_questions(tmp_path, encoders=["chatgpt"], images=2)
    with pytest.raises(ValueError, match="the number of images is 1; allowed: 2 or more"):
        answer_questions(tmp_path, encoders=["chatgpt"], images=1)
