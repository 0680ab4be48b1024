"""A round of the arena: who takes part, what is refused, how designs are compared, and a whole round."""

import sys
from functools import partial

import pytest

import encoders
from encoders.layers import abstract
from jaxsd.arena.__main__ import main
from jaxsd.arena.answers import AnsweredDesign, keep_answer
from jaxsd.arena.judge import Verdict
from jaxsd.arena.leaderboard import Architecture, leaderboard_tables, write_leaderboard
from jaxsd.arena.prompts import Prompt
from jaxsd.arena.round import Round, find_contestants, run_round
from jaxsd.config import load_config
from jaxsd.runtime.files import write_json
from tests.helpers.designs import linear

SMALL = {"width": 16, "depth": 1, "heads": 2, "mlp": 16}


ACCEPTED = Verdict()


def put(out, name, verdict=ACCEPTED, code="", **prompt):
    """A design whose last answer has this verdict; None is without one."""
    design = AnsweredDesign(name, out / name)
    keep_answer(design, "an answer", Prompt(width=128, **prompt), usage={"total_tokens": 1_234})
    design.code.write_text(code)
    if verdict:
        write_json(design.folder / "verdict-1.json", verdict.to_json())


def test_who_takes_part(tmp_path):
    put(tmp_path, "good")
    put(tmp_path, "bad", Verdict(reason="not finite", problem="on silence"))
    put(tmp_path, "torch", framework="torch")
    put(tmp_path, "new", None)
    found = {one.name: one.ruled_out for one in find_contestants(tmp_path, ["gemini"])}
    assert list(found) == ["gemini", "the paper's sixth", "bad", "good", "new", "torch"]
    assert found["gemini"] is None and found["good"] is None
    assert found["bad"] == "not finite: on silence"
    assert found["new"].startswith("not judged yet") and found["torch"].startswith("PyTorch")
    with pytest.raises(ValueError, match="published encoder is 'gpt'; allowed: "):
        find_contestants(tmp_path, ["gpt"])
    put(tmp_path, "human")
    with pytest.raises(ValueError, match="human has the name of another contestant"):
        find_contestants(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="no designs"):
        find_contestants(tmp_path / "nowhere", [])


def test_code_is_not_run_unless_it_is_trusted(tmp_path):
    put(tmp_path, "mine", code="raise SystemExit('it ran')")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"training runs .*mine/try-1\.py with your rights; .* --trust-code"):
        run_round(tmp_path, lambda encoder: load_config("toy", [f"--config.encoder={encoder}"]))
    assert sorted(tmp_path.rglob("*")) == before


def create(name, **changes):
    return abstract(partial(encoders.create, name, **SMALL | changes))


def test_clones_are_alike_and_others_are_not():
    deepseek, grok = Architecture.of(create("deepseek")), Architecture.of(create("grok"))
    other = Architecture.of(create("deepseek", depth=4, mlp=64))
    human = Architecture.of(abstract(partial(encoders.create, "human", width=16)))
    assert deepseek.similarity(deepseek) == 1
    for one, two in ((deepseek, grok), (deepseek, other), (grok, human)):
        assert one.similarity(two) == pytest.approx(two.similarity(one), abs=0.05)
    assert deepseek.similarity(grok) > 0.75 > deepseek.similarity(other) > deepseek.similarity(human)


def entry(**figures):
    return {"figures": figures, "intervals": {"class": (figures.get("class", 0) - 0.1, 1.0)}}


def test_the_page_ranks_and_shows_no_code_of_others_as_its_own(tmp_path):
    hostile = "<script>alert(1)</script>"
    put(tmp_path, "mine", Verdict(reason="not constructed", problem=hostile))
    contestants = find_contestants(tmp_path, ["gemini", "grok"])
    results = {
        "data": {"size": 50},
        "encoders": {
            "gemini": entry(**{"class": 0.5}),
            "grok": entry(**{"class": 0.75}),
            "average of all": entry(**{"class": 0.9}),
        },
        "references": {"no caption": entry()},
    }
    trained = {"gemini": create("gemini"), "grok": create("grok")}
    round = Round(contestants, results, trained, None)
    ranks, ruled_out, *_ = leaderboard_tables(round)
    assert [row[:3] for row in ranks.rows[:3]] == [
        ("grok", "1", "75 % [65, 100]"),
        ("gemini", "2", "50 % [40, 100]"),
        ("average of all", "", "90 % [80, 100]"),
    ]
    assert ruled_out.rows[1] == ("mine", "1", "1,234", f"not constructed: {hostile}")
    page = write_leaderboard(tmp_path / "page.html", round).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


@pytest.mark.long
def test_a_round_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """A design that fails in training is ruled out; nothing is trained or evaluated twice."""
    put(tmp_path, "good", code=linear(24).replace("768", "128"))
    put(tmp_path, "fails", code=linear(24))  # 768 wide, which the toy world's CLIP is not
    data = {"folder": tmp_path / "data", "train_size": 24, "held_out": 12}
    options = [f"--config.data.{key}={value}" for key, value in data.items()]
    options += ["--config.steps=2", "--config.warmup=0", "--config.eval_every=2", "--config.sample_images=0"]
    command = ["arena", "run", "--config", "toy", "--out", str(tmp_path), "--published", "gemini", "--pictures", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--trust-code", *options])
    main()
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(tmp_path / "leaderboard.html")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "evaluation").glob("*.json")}
    names = {"references", "gemini", "good"}
    assert names < {path.stem for path in written} and len(written) == len(names) + 2  # average of all, results
    page = (tmp_path / "leaderboard.html").read_text()
    assert "in training: " in page and "average of all" in page and "data:image/png" in page
    main()
    again = {path: path.stat().st_mtime_ns for path in written if path.stem != "results"}
    assert again == {path: time for path, time in written.items() if path.stem != "results"}
